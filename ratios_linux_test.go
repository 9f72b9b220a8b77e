package porthole_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// leastRatios are gates far below what is asked for and what a quiet machine shows,
// since these are all that a busy one leaves standing: a half of the target or less to
// kernel sockets over veth, and for bulk a half of what offload must be over water.
var leastRatios = map[string]map[string]float64{
	"bulk-down": {"offload/veth": 0.2, "offload/water": 3},
	// bulk-up is bounded by the sink's SHA-256; the upload itself is gated as bulk-discard.
	"bulk-up":      {"offload/veth": 0.2, "offload/water": 2},
	"bulk-discard": {"offload/veth": 0.2, "offload/water": 3},
	"http":         {"offload/veth": 0.25},
	"http-close":   {"offload/veth": 0.15},
	"connects":     {"offload/veth": 0.2},
	"dns":          {"offload/veth": 0.5},
	"dns-one":      {"offload/veth": 0.5},
	"dhcp":         {"offload/veth": 0.4},
}

// TestKernelRatios compares porthole on its devices with the same services on kernel
// sockets. One bad run is tried again, with the works that were bad.
func TestKernelRatios(t *testing.T) {
	if os.Getenv("PORTHOLE_GATE") == "" {
		t.Skip("a measurement: it wants the machine for itself; PORTHOLE_GATE=1 runs it, and so does .ci/run")
	}
	need(t, "curl", "wrk", "go")
	bin := filepath.Join(t.TempDir(), "bench")
	out, err := exec.Command("go", "build", "-o", bin, "./bench").CombinedOutput()
	require.NoError(t, err, "%s", out)
	bad := ratios(t, bin, "^(bulk-(down|up|discard)|http|http-close|connects|dns|dns-one|dhcp)$")
	require.NotNil(t, bad)
	for name := range bad {
		t.Logf("%s once more: %v", name, bad[name])
		again := ratios(t, bin, "^"+name+"$")
		require.Empty(t, again[name])
	}
}

// ratios runs short rounds and names the ratios that are too low, by work.
func ratios(t *testing.T, bin, only string) map[string][]string {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, "-only", only, "-rounds", "3", "-time", "400ms", "-quiet", "400ms", "-out", dir)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it cleans up
	cmd.WaitDelay = 30 * time.Second
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	require.NoError(t, err)
	var report struct {
		Works []struct {
			Name   string
			Ratios map[string]struct{ Median float64 }
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "bench.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &report))
	require.NotEmpty(t, report.Works)
	bad := map[string][]string{}
	for _, w := range report.Works {
		require.Contains(t, leastRatios, w.Name)
		for ratio, least := range leastRatios[w.Name] {
			if got := w.Ratios[ratio].Median; got < least {
				bad[w.Name] = append(bad[w.Name], fmt.Sprintf("%s %.2f, want %.2f", ratio, got, least))
			}
		}
	}
	return bad
}
