package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	tests := []struct {
		name   string
		parse  func(string) (sample, error)
		in     string
		value  float64
		errors int
		err    string
	}{
		{"curl", parseCurl, "\n200 1250000000 2.0\n", 5, 0, ""},
		{"curl, upload cut by its time", parseCurl, "000 125000000 1.0\n", 1, 0, ""},
		{"curl, not found", parseCurl, "\n404 20 0.1\n", 0, 0, "curl: status 404, 20 bytes in 0.100 s"},
		{"curl, nothing came", parseCurl, "\n000 0 2.0\n", 0, 0, "curl: status 000"},
		{"curl, no output", parseCurl, "", 0, 0, `curl printed ""`},
		{"wrk", parseWrk, "Running 2s test\n  1 threads and 32 connections\nRequests/sec:  12345.67\nTransfer/sec:      3.20MB\n", 12345.67, 0, ""},
		{"wrk, errors", parseWrk, "  Socket errors: connect 1, read 200, write 2, timeout 3\n  Non-2xx or 3xx responses: 4\nRequests/sec: 10.00\n", 10, 10, ""},
		{"wrk, no rate", parseWrk, "unable to connect", 0, 0, `wrk printed no rate: "unable to connect"`},
		{"dnsperf", parseDNSPerf, "  Queries lost:         3 (0.01%)\n  Response codes:       NOERROR 100 (100.00%)\n  Queries per second:   48123.5\n", 48123.5, 3, ""},
		{"dnsperf, refused", parseDNSPerf, "  Response codes:  REFUSED 100 (100.00%)\n  Queries per second: 5\n", 5, 0, "dnsperf: response codes REFUSED 100 (100.00%)"},
		{"own", parseOwn, `{"value": 7.5, "errors": 1}`, 7.5, 1, ""},
		{"own, nothing", parseOwn, ``, 0, 0, `client printed ""`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := tt.parse(tt.in)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			require.InDelta(t, tt.value, s.Value, 1e-9)
			require.Equal(t, tt.errors, s.Errors)
		})
	}
}

func TestSpread(t *testing.T) {
	require.Equal(t, spread{}, spreadOf(nil))
	require.Equal(t, spread{2, 1, 9}, spreadOf([]float64{9, 1, 2}))
	require.Equal(t, spread{2.5, 1, 4}, spreadOf([]float64{4, 3, 2, 1}))
}

func aReport() *report {
	s := func(v ...float64) (out []sample) {
		for _, x := range v {
			out = append(out, sample{Value: x})
		}
		return out
	}
	return &report{
		Rounds: 3, Time: time.Second, MTU: 1500, Targets: targetNames, Busy: []float64{0, 0.5},
		Works: []*result{{
			Name: "bulk-down", About: "a <download>", Unit: "Gbit/s", Reach: 0.9,
			// Twice as fast in a fast round and in slow ones: the ratio of the medians is 4.
			Samples: map[string][]sample{"veth": s(10, 2, 1), "offload": s(5, 8, 8), "water": s(1, 1, 1)},
		}},
		Missing: []missing{{"http", "no wrk here: install the Debian package wrk"}},
	}
}

// TestRatioIsPaired tells the median of the rounds' ratios from the ratio of medians.
func TestRatioIsPaired(t *testing.T) {
	r := aReport()
	got, ok := r.Works[0].ratio("offload", "veth")
	require.True(t, ok)
	require.Equal(t, spread{4, 0.5, 8}, got)
	got, _ = r.Works[0].ratio("offload", "water")
	require.Equal(t, spread{8, 5, 8}, got)
	_, ok = r.Works[0].ratio("tap", "veth")
	require.False(t, ok)
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	aReport().writeTable(&b)
	for _, want := range []string{
		"bulk-down  Gbit/s  2.00  8.00     1.00   4.00 [0.50 8.00]",
		"not measured: http: no wrk here: install the Debian package wrk",
		"noisy: before 1 of 2 measurements others used more than 10 %",
	} {
		require.Contains(t, b.String(), want)
	}
}

func TestBenchFormat(t *testing.T) {
	var b bytes.Buffer
	aReport().writeBench(&b)
	require.Contains(t, b.String(), "BenchmarkBulkDown/veth 1 10 Gbit/s\n")
	require.Equal(t, 1, strings.Count(b.String(), "Unit Gbit/s better=higher\n"))
	require.Equal(t, 9, strings.Count(b.String(), "Benchmark"))
}

func TestSave(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	require.NoError(t, aReport().save(dir))
	b, err := os.ReadFile(filepath.Join(dir, "bench.json"))
	require.NoError(t, err)
	var back report
	require.NoError(t, json.Unmarshal(b, &back))
	require.Equal(t, spread{4, 0.5, 8}, back.Works[0].Ratios["offload/veth"])
	svg, err := os.ReadFile(filepath.Join(dir, "bench.svg"))
	require.NoError(t, err)
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; { // a picture that no viewer refuses
		if _, err := d.Token(); err == io.EOF {
			break
		} else {
			require.NoError(t, err)
		}
	}
	require.Contains(t, string(svg), "4.00 offload")
	require.Contains(t, string(svg), "1 of 2 not on a quiet machine")
}

func TestFlags(t *testing.T) {
	o, err := parseFlags([]string{"-quick"})
	require.NoError(t, err)
	require.Equal(t, 3, o.rounds)
	require.Equal(t, targetNames, o.targets)
	for _, bad := range []string{"-rounds=0x", "-rounds=101", "-time=1m", "-targets=tap", "-format=xml", "-only=(", "more"} {
		_, err := parseFlags([]string{bad})
		require.Error(t, err, bad)
	}
}
