package impair

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Rate is in bits a second. Its text is tc's: "10mbit", "1gbit", "500kbps" (bytes).
type Rate int64

// The bounds of a rate.
const (
	minRate Rate = 8
	maxRate Rate = 1e12
)

// rateUnits are tc's, in bits a second: bps is bytes, i is by 1024. The first of each
// size are those that are printed.
var rateUnits = []struct {
	name string
	bits float64
}{
	{"tbit", 1e12}, {"gbit", 1e9}, {"mbit", 1e6}, {"kbit", 1e3}, {"bit", 1},
	{"tibit", 1 << 40}, {"gibit", 1 << 30}, {"mibit", 1 << 20}, {"kibit", 1 << 10},
	{"tbps", 8e12}, {"gbps", 8e9}, {"mbps", 8e6}, {"kbps", 8e3}, {"bps", 8},
	{"tibps", 8 << 40}, {"gibps", 8 << 30}, {"mibps", 8 << 20}, {"kibps", 8 << 10}, {"", 1},
}

// ParseRate takes a number with one of tc's units, bits a second without. 0 is no bound.
func ParseRate(s string) (Rate, error) {
	n, unit := number(s)
	for _, u := range rateUnits {
		if strings.EqualFold(unit, u.name) {
			v, err := strconv.ParseFloat(n, 64)
			bits := math.Round(v * u.bits)
			if err == nil && (bits == 0 && v == 0 || bits >= float64(minRate) && bits <= float64(maxRate)) {
				return Rate(bits), nil
			}
			break
		}
	}
	return 0, fmt.Errorf("%q is no rate of 8bit to 1tbit a second; want a number with bit, kbit, mbit, gbit (or bps, kbps, mbps: bytes), such as 10mbit", s)
}

// String is exact: ParseRate reads it back.
func (r Rate) String() string {
	for _, u := range rateUnits[:5] {
		if r != 0 && r%Rate(u.bits) == 0 {
			return strconv.FormatInt(int64(r)/int64(u.bits), 10) + u.name
		}
	}
	return "0bit"
}

// Time is how long size bytes take at the rate.
func (r Rate) Time(size int) time.Duration {
	if r <= 0 {
		return 0
	}
	return time.Duration(math.Ceil(float64(size) * 8e9 / float64(r)))
}

// maxTime bounds every duration of the rules.
const maxTime = time.Minute

// parseTime takes a Go duration or tc's words (sec, msec, usec). A bare number, which
// tc reads as microseconds, is refused: too few know.
func parseTime(s string) (time.Duration, error) {
	short := strings.ToLower(s)
	for _, w := range []string{"secs", "sec", "s"} { // msecs, usec, ...
		if t, ok := strings.CutSuffix(short, w); ok {
			short = t + "s"
			break
		}
	}
	d, err := time.ParseDuration(short)
	if err != nil || d < 0 || d > maxTime {
		return 0, fmt.Errorf("%q is no time of 0 to %v; want a number with its unit, such as 50ms, 200us or 1.5s", s, maxTime)
	}
	return d, nil
}

// chanceParts is the precision of a chance: so many parts of a percent.
const chanceParts = 1e6

// parsePercent takes 5% and, as tc does, 5.
func parsePercent(s string) (float64, error) {
	p, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
	if err != nil || !(p >= 0 && p <= 100) || strings.ContainsAny(s, "xX_") {
		return 0, fmt.Errorf("%q is no chance of 0%% to 100%%, such as 0.5%%", s)
	}
	return math.Abs(math.Round(p*chanceParts) / chanceParts), nil
}

func percent(p float64) string { return strconv.FormatFloat(p, 'f', -1, 64) + "%" }

// sizeUnits are tc's, which count by 1024.
var sizeUnits = []struct {
	name  string
	bytes int
}{{"mb", 1 << 20}, {"kb", 1 << 10}, {"b", 1}, {"m", 1 << 20}, {"k", 1 << 10}, {"mib", 1 << 20}, {"kib", 1 << 10}, {"", 1}}

func parseSize(s string, least, most int) (int, error) {
	n, unit := number(s)
	for _, u := range sizeUnits {
		if strings.EqualFold(unit, u.name) {
			v, err := strconv.ParseFloat(n, 64)
			if b := v * float64(u.bytes); err == nil && (b == 0 || b >= float64(least) && b <= float64(most)) {
				return int(b), nil
			}
			break
		}
	}
	return 0, fmt.Errorf("%q is no size of %s to %s; want bytes, or a number with kb or mb", s, size(least), size(most))
}

func size(b int) string {
	for _, u := range sizeUnits[:3] {
		if b != 0 && b%u.bytes == 0 {
			return strconv.Itoa(b/u.bytes) + u.name
		}
	}
	return "0b"
}

// number splits "10mbit" before its unit.
func number(s string) (n, unit string) {
	i := 0
	for i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] == '.') {
		i++
	}
	return s[:i], s[i:]
}
