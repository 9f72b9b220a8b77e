package porthole_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/impair"
)

// TestKernelImpair: stock clients on a kernel device meet the link's rules and a port's.
func TestKernelImpair(t *testing.T) {
	t.Parallel()
	need(t, "curl", "ping", "dig")
	for _, kind := range []string{"offload", "water", "tap"} {
		t.Run(kind, func(t *testing.T) {
			r := newKernelRig(t, kernelOptions{kind: kind})
			link := func(text string) {
				s, err := porthole.ParseLinkSettings(text)
				require.NoError(t, err)
				require.NoError(t, r.host.SetLink(s))
			}
			clean := r.blob(t, "30")

			// ping shows the delay of both directions, and no less.
			link("delay=20ms")
			out := r.run("ping", "-c", "5", "-i", "0.05", "-W", "60", "10.77.0.1")
			m := regexp.MustCompile(`= ([0-9.]+)/`).FindStringSubmatch(out)
			require.NotNil(t, m, out)
			least, err := strconv.ParseFloat(m[1], 64)
			require.NoError(t, err)
			require.GreaterOrEqual(t, least, 40.0, out)
			require.NoError(t, r.host.ResetLink())

			// A bulk download comes whole over a link that loses one packet in twenty.
			link("loss=5% seed=11")
			require.Equal(t, clean, r.blob(t, "60"))
			l := r.host.Ledger()
			require.True(t, l.LawOK, l.Broken)
			require.NotZero(t, l.Link.Out.Lost)
			require.NoError(t, r.host.ResetLink())

			// A port's rules meet that port alone: every query is late, none is lost.
			set(t, r.host, "53/udp", "impair=delay:30ms impair-out=duplicate:100%")
			start := time.Now()
			require.Contains(t, r.run("dig", "+short", "+tries=1", "+time=60", "@10.77.0.1", "porthole.test"), "10.77.0.1")
			require.GreaterOrEqual(t, time.Since(start), 30*time.Millisecond)
			require.NotZero(t, status(t, r.host, "53/udp").ImpairOut.Duplicated)

			// The first SYN is lost: the kernel sends it again after a second.
			before := status(t, r.host, "80/tcp").Fates["fault-injected"]
			set(t, r.host, "80/tcp", "impair=drop-syn:1")
			start = time.Now()
			require.Equal(t, clean, r.blob(t, "60"))
			require.GreaterOrEqual(t, time.Since(start), 900*time.Millisecond, "the initial RTO (RFC 6298)")
			require.Equal(t, before+1, status(t, r.host, "80/tcp").Fates["fault-injected"])
			r.law()
		})
	}
}

// blob downloads a mebibyte and gives its hash.
func (r *kernelRig) blob(t *testing.T, most string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "blob")
	r.run("curl", "-sS", "--fail", "--max-time", most, "-o", file, "http://10.77.0.1/blob/1048576")
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Len(t, b, 1<<20)
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// TestKernelImpairedArrivals: super-packets are cut for a rule, and the count of frames
// from the device is still the kernel's.
func TestKernelImpairedArrivals(t *testing.T) {
	need(t, "curl")
	r := newKernelRig(t, kernelOptions{kind: "offload"})
	set(t, r.host, "80/tcp", "impair=loss:0.5%,seed:3")
	file := filepath.Join(t.TempDir(), "up")
	require.NoError(t, os.WriteFile(file, make([]byte, 4<<20), 0o600))
	upload := func() { r.run("curl", "-sS", "--fail", "--max-time", "60", "-T", file, "http://10.77.0.1/sink") }
	upload()
	port := r.host.Ledger()
	require.NotZero(t, port.Kinds["segmented"])
	s, err := porthole.ParseLinkSettings("impair-in=" + (impair.Rules{Loss: 0.5, Seed: 4}).String())
	require.NoError(t, err)
	require.NoError(t, r.host.SetLink(s))
	upload()
	r.law()
	l := r.host.Ledger()
	require.Greater(t, l.Kinds["segmented"], port.Kinds["segmented"])
	require.NotZero(t, l.Fates["fault-injected"])
}
