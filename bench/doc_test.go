package main

import (
	"bytes"
	"encoding/xml"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write docs/performance.md and its pictures instead of comparing them")

// TestPerformancePage holds docs/performance.md and its pictures against the figures
// that lie in testdata/bench.
func TestPerformancePage(t *testing.T) {
	from, to := filepath.Join("..", "testdata", "bench"), filepath.Join("..", "docs")
	if *update {
		require.NoError(t, writeDoc(from, to))
	}
	m, err := readMeasured(from)
	require.NoError(t, err)
	files, err := m.files()
	require.NoError(t, err)
	require.Len(t, files, 4)
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(to, name))
		require.NoError(t, err)
		require.Equal(t, string(want), string(got), "%s: go test ./bench -run TestPerformancePage -update", name)
		if strings.HasSuffix(name, ".svg") {
			for d := xml.NewDecoder(bytes.NewReader(got)); ; {
				if _, err := d.Token(); err == io.EOF {
					break
				} else {
					require.NoError(t, err, name)
				}
			}
		}
	}
}

func TestPortCost(t *testing.T) {
	got := portCost([]byte(`goos: linux
BenchmarkPath/64B/ports=64/uniform-2   100  50.0 ns/op  20.0 Mpps  40.5 best-ns/op  0 B/op  0 allocs/op
BenchmarkPath/64B/ports=64/uniform-2   100  45.0 ns/op  22.0 Mpps  39.5 best-ns/op  0 B/op  0 allocs/op
BenchmarkPath/64B/ports=64/zipf-2      100  45.0 ns/op  22.0 Mpps  9.5 best-ns/op  0 B/op  0 allocs/op
BenchmarkPath/1500B/ports=1/uniform-2  100  45.0 ns/op  22.0 Mpps  60 best-ns/op  0 B/op  0 allocs/op
BenchmarkPath/64B/ports=1/uniform-2    100  45.0 ns/op  22.0 Mpps  30 best-ns/op  0 B/op  0 allocs/op
PASS
`))
	require.Equal(t, []point{{"64B", 1, 30}, {"64B", 64, 39.5}, {"1500B", 1, 60}}, got)
}

func TestTicks(t *testing.T) {
	require.Equal(t, []float64{1, 10, 100}, ticks(axis{log: true, from: 1}, 500))
	require.Equal(t, []float64{0, 2.5, 5, 7.5, 10}, ticks(axis{}, 10))
}

// TestOtherTables: works beside a reference and figures have tables of their own.
func TestOtherTables(t *testing.T) {
	s := func(v ...float64) (out []sample) {
		for _, x := range v {
			out = append(out, sample{Value: x})
		}
		return out
	}
	r := aReport()
	r.Works = append(r.Works,
		&result{Name: "http-nginx", Unit: "requests/s", Reach: 0.65, Beside: "nginx", Samples: map[string][]sample{"nginx": s(10, 20, 40), "offload": s(8, 8, 8)}},
		&result{Name: "idle", Unit: "KiB", Reach: 16, Figure: true, Most: true, Samples: map[string][]sample{"veth": s(19), "offload": s(26)}})
	var b bytes.Buffer
	r.writeTable(&b)
	require.Contains(t, b.String(), "http-nginx  requests/s  nginx      20.0  8.00     0.40 [0.20 0.80]   0.65")
	require.Contains(t, b.String(), "idle    KiB   19.0 [19.0 19.0]  26.0 [26.0 26.0]         at most 16.0")
	require.NotContains(t, string(r.svg()), "idle")
	require.Contains(t, r.markdown(serverRows), "| nginx | **0.40** (0.20 to 0.80) | 0.65 |")
	require.Contains(t, r.markdown(figureRows), "**26.0** (26.0 to 26.0)")
	require.NotContains(t, r.markdown(kernelRows), "idle")
}
