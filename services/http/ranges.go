package http

import (
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
)

// http.ServeContent serves ranges, but is not RFC 9110 in the corners: it answers
// 416 to a unit it does not know (14.2: ignore it) and to a last position beyond
// 2^63 (14.1.2: means the end), 206 with a negative interval to "bytes=-0"
// (14.1.2: unsatisfiable), and it honours Range on HEAD (14.2: GET alone). So
// Range is parsed here and handed on in plain form: each interval within the
// content, or one that cannot be satisfied, or none.

// rangeLimit is how many intervals one request may ask for. Each costs a part
// header of about 150 bytes; more are refused (RFC 9110, 14.2).
const rangeLimit = 100

// interval is length bytes from start.
type interval struct{ start, length int64 }

type rangeVerdict int

const (
	rangeIgnored     rangeVerdict = iota // not a range this server understands: send everything
	rangeFine                            // at least one interval
	rangeUnsatisfied                     // 416
)

// parseRange reads a Range field's value for content of size bytes. Intervals
// beyond the end are left out.
func parseRange(value string, size int64) ([]interval, rangeVerdict) {
	unit, set, ok := strings.Cut(value, "=")
	if !ok || !strings.EqualFold(strings.TrimRight(unit, " \t"), "bytes") {
		return nil, rangeIgnored
	}
	var ivs []interval
	asked := 0
	for spec := range strings.SplitSeq(set, ",") {
		spec = textproto.TrimString(spec)
		if spec == "" {
			continue // empty list elements are legal (RFC 9110, 5.6.1.2)
		}
		if asked++; asked > rangeLimit {
			return nil, rangeUnsatisfied
		}
		first, last, ok := strings.Cut(spec, "-")
		if !ok {
			return nil, rangeIgnored
		}
		from, fromOK := position(first)
		to, toOK := position(last)
		switch {
		case first == "" && toOK: // the last bytes
			if n := min(to, size); n > 0 {
				ivs = append(ivs, interval{size - n, n})
			}
		case !fromOK || last != "" && !toOK:
			return nil, rangeIgnored
		case last == "":
			if from < size {
				ivs = append(ivs, interval{from, size - from})
			}
		case to < from:
			return nil, rangeIgnored // invalid as a whole (14.1.2)
		case from < size:
			ivs = append(ivs, interval{from, min(to, size-1) - from + 1})
		}
	}
	switch {
	case asked == 0:
		return nil, rangeIgnored
	case len(ivs) == 0:
		return nil, rangeUnsatisfied
	}
	return ivs, rangeFine
}

// position takes digits alone. A number beyond 2^63 is as good as 2^63-1.
func position(s string) (int64, bool) {
	if s == "" {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 1<<63 - 1, true
	}
	return n, true
}

// tameRange puts r's Range field into the form that http.ServeContent treats
// rightly. Header fields of a request belong to its handler.
func tameRange(r *http.Request, size int64) {
	vals, ok := r.Header["Range"]
	if !ok {
		return
	}
	if r.Method != http.MethodGet || len(vals) != 1 {
		delete(r.Header, "Range")
		return
	}
	ivs, verdict := parseRange(vals[0], size)
	switch verdict {
	case rangeIgnored:
		delete(r.Header, "Range")
	case rangeUnsatisfied:
		if size == 0 {
			// ServeContent sends empty content whole, which is what most clients that
			// always send Range hope for.
			delete(r.Header, "Range")
			return
		}
		r.Header["Range"] = []string{"bytes=" + strconv.FormatInt(size, 10) + "-"}
	case rangeFine:
		b := []byte("bytes=")
		for i, iv := range ivs {
			if i > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(b, iv.start, 10)
			b = append(b, '-')
			b = strconv.AppendInt(b, iv.start+iv.length-1, 10)
		}
		r.Header["Range"] = []string{string(b)}
	}
}
