package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// sample is one measurement.
type sample struct {
	Value  float64 `json:"value"`
	Errors int     `json:"errors,omitempty"` // requests that failed, queries that were lost
	Note   string  `json:"note,omitempty"`

	Retrans    uint64  `json:"client_retransmits"`           // segments, of the client's kernel
	PeerAgain  uint64  `json:"server_resent"`                // duplicates that the client's kernel got
	SrvRetrans uint64  `json:"server_retransmits,omitempty"` // segments, of the server's kernel (veth)
	CPU        float64 `json:"server_cpu"`                   // seconds of one core, per second
	Noisy      bool    `json:"noisy,omitempty"`
}

// parseCurl reads `%{http_code} BYTES %{time_total} %{time_starttransfer}` of -w.
// The time before the first byte is the same few hundred microseconds for all, so
// it is left in. Code 000 means that a limited upload had no answer yet.
func parseCurl(out string) (sample, error) {
	var code string
	var bytes, total float64
	last := out[strings.LastIndexByte(strings.TrimSpace(out), '\n')+1:]
	if _, err := fmt.Sscan(last, &code, &bytes, &total); err != nil {
		return sample{}, fmt.Errorf("curl printed %q: %w", out, err)
	}
	if code != "200" && code != "000" && code != "100" || bytes == 0 || total == 0 {
		return sample{}, fmt.Errorf("curl: status %s, %.0f bytes in %.3f s", code, bytes, total)
	}
	return sample{Value: bytes * 8 / total / 1e9}, nil
}

var (
	wrkRate   = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	wrkErrors = regexp.MustCompile(`Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)`)
	wrkStatus = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)`)
	dnsRate   = regexp.MustCompile(`Queries per second:\s+([0-9.]+)`)
	dnsLost   = regexp.MustCompile(`Queries lost:\s+(\d+)`)
	dnsCodes  = regexp.MustCompile(`Response codes:\s+(.+)`)
)

// parseWrk reads wrk's report. With a connection per request wrk counts the end of
// each as a read error, so those are not ours to count.
func parseWrk(out string) (sample, error) {
	m := wrkRate.FindStringSubmatch(out)
	if m == nil {
		return sample{}, fmt.Errorf("wrk printed no rate: %q", out)
	}
	s := sample{}
	s.Value, _ = strconv.ParseFloat(m[1], 64)
	if m := wrkErrors.FindStringSubmatch(out); m != nil {
		for _, i := range []int{1, 3, 4} {
			n, _ := strconv.Atoi(m[i])
			s.Errors += n
		}
	}
	if m := wrkStatus.FindStringSubmatch(out); m != nil {
		n, _ := strconv.Atoi(m[1])
		s.Errors += n
	}
	return s, nil
}

func parseDNSPerf(out string) (sample, error) {
	m := dnsRate.FindStringSubmatch(out)
	if m == nil {
		return sample{}, fmt.Errorf("dnsperf printed no rate: %q", out)
	}
	s := sample{}
	s.Value, _ = strconv.ParseFloat(m[1], 64)
	if m := dnsLost.FindStringSubmatch(out); m != nil {
		s.Errors, _ = strconv.Atoi(m[1])
	}
	if m := dnsCodes.FindStringSubmatch(out); m != nil && !strings.HasPrefix(m[1], "NOERROR") {
		return s, fmt.Errorf("dnsperf: response codes %s", m[1])
	}
	return s, nil
}

// parseOwn reads what our own clients print: the sample itself.
func parseOwn(out string) (s sample, err error) {
	if err = json.Unmarshal([]byte(out), &s); err != nil {
		return s, fmt.Errorf("client printed %q: %w", out, err)
	}
	return s, nil
}
