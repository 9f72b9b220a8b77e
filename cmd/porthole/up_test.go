package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"porthole"
	"porthole/cmd/porthole/internal/config"
	"porthole/cmd/porthole/internal/control"
	"porthole/services"
)

// fakeHost is ready at once and runs until it is told to end.
type fakeHost struct {
	control.Host // what no test asks for
	fail         chan error
	ready        chan struct{}
	reloaded     chan porthole.Config
	lost         uint64 // lines of the log
}

func newFakeHost() *fakeHost {
	h := &fakeHost{fail: make(chan error, 1), ready: make(chan struct{}), reloaded: make(chan porthole.Config, 1)}
	close(h.ready)
	return h
}

func (h *fakeHost) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-h.fail:
		return err
	}
}
func (h *fakeHost) Ready() <-chan struct{} { return h.ready }
func (h *fakeHost) Config() porthole.Config {
	c := porthole.DefaultConfig()
	c.Name, c.Link.Interface = "porthole-2", "ph7"
	return c
}
func (h *fakeHost) Reload(_ context.Context, c porthole.Config) ([]string, error) {
	h.reloaded <- c
	return nil, nil
}
func (*fakeHost) FlowStats() porthole.FlowStats { return porthole.FlowStats{} }

func (*fakeHost) CaptureTotals() porthole.CaptureTotals { return porthole.CaptureTotals{} }

func (h *fakeHost) Health() porthole.Health {
	return porthole.Health{Name: "porthole", LedgerOK: true, LogLost: h.lost}
}
func (h *fakeHost) Ports() []porthole.PortStatus {
	return []porthole.PortStatus{
		{Port: services.TCP(7), Service: "echo", State: "bound", LimitPackets: 1024, AcceptLimit: 128},
		{Port: services.TCP(21), Service: "ftp", State: "failed", Error: "probe:\nno greeting", LimitPackets: 1024, AcceptLimit: 128,
			Accept: 3, AcceptHigh: 9, Syn: 2, SynHigh: 7, SynLimit: 128},
		{Port: services.TCP(40000), Service: "ftp", State: "connected"},
		{Port: services.UDP(53), Service: "dns", State: "answering", Took: 400 * time.Microsecond, Arrived: 9, LimitPackets: 64,
			Fates: map[string]uint64{"to-service": 6, "queue-full": 2, "bad-checksum": 1}},
	}
}

// runUp serves h until it ends and returns what was printed.
func runUp(t *testing.T, h *fakeHost, during func(socket string)) (string, error) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ph")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	t.Setenv(control.EnvDir, dir)
	srv, err := control.Listen(dir, "porthole")
	require.NoError(t, err)
	p, err := makePlan(config.Default(), nowhere)
	require.NoError(t, err)
	p.cfg.Link.Interface = "ph0"
	r, w, err := os.Pipe()
	require.NoError(t, err)
	var out bytes.Buffer
	done := make(chan error, 1)
	from := &reloader{hostFlags{Config: filepath.Join(dir, "host.yaml"), MTU: "1400"}, p.cfg}
	quiet := &hangup{log: slog.New(slog.DiscardHandler)}
	sigs := signals()
	t.Cleanup(func() { signal.Stop(sigs) })
	go func() { done <- serveUp(&out, &screen{}, p, startSession(h, srv, from), w, sigs, quiet) }()
	line := make([]byte, 16)
	n, err := r.Read(line)
	require.NoError(t, err)
	require.Equal(t, "ready\n", string(line[:n]))
	require.NoError(t, r.Close())
	during(srv.Path())
	err = <-done
	require.NoFileExists(t, filepath.Join(dir, "porthole.sock"))
	return out.String(), err
}

func TestUpEndsWithASignal(t *testing.T) {
	out, err := runUp(t, newFakeHost(), func(socket string) {
		require.FileExists(t, socket)
		require.NoError(t, unix.Kill(os.Getpid(), unix.SIGTERM))
	})
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(out, `device    ph0  auto, mtu 1500
host      10.77.0.1/24  fd77::1/64
machine   10.77.0.2/24  fd77::2/64
zone      porthole.test
resolve   sudo resolvectl dns ph0 10.77.0.1 fd77::1 && sudo resolvectl domain ph0 '~porthole.test'
`), out)
	require.True(t, strings.HasSuffix(out, `
7/tcp echo bound
21/tcp ftp failed: probe: no greeting
53/udp dns answering 0.4 ms
porthole: ready
`), out)
}

// TestUpEndsWithAnEarlySignal: one that came while the device was made is not lost.
func TestUpEndsWithAnEarlySignal(t *testing.T) {
	sigs := signals()
	defer signal.Stop(sigs)
	require.NoError(t, unix.Kill(os.Getpid(), unix.SIGTERM))
	require.Eventually(t, func() bool { return len(sigs) == 1 }, time.Minute, time.Millisecond)
	p, err := makePlan(config.Default(), nowhere)
	require.NoError(t, err)
	srv, err := control.Listen(t.TempDir(), "porthole")
	require.NoError(t, err)
	s := startSession(newFakeHost(), srv, &reloader{asked: p.cfg})
	require.NoError(t, serveUp(io.Discard, &screen{}, p, s, nil, sigs, &hangup{log: slog.New(slog.DiscardHandler)}))
}

// TestUpReloadsAtHangup: the file again, under the flags of the start; what it says
// as before stays as it was settled.
func TestUpReloadsAtHangup(t *testing.T) {
	hearHangups(t)
	h := newFakeHost()
	_, err := runUp(t, h, func(socket string) {
		file := filepath.Join(filepath.Dir(socket), "host.yaml")
		require.NoError(t, os.WriteFile(file, []byte("ports:\n  53/udp: queue=64\n"), 0o600))
		require.NoError(t, unix.Kill(os.Getpid(), unix.SIGHUP))
		c := <-h.reloaded
		require.Equal(t, "queue=64", c.Ports[services.UDP(53)].String())
		require.Equal(t, "porthole-2", c.Name)
		require.Equal(t, "ph7", c.Link.Interface)
		require.Equal(t, 1400, c.Link.MTU)
		require.NoError(t, unix.Kill(os.Getpid(), unix.SIGTERM))
	})
	require.NoError(t, err)
}

func TestUpEndsWithTheHost(t *testing.T) {
	h := newFakeHost()
	_, err := runUp(t, h, func(string) { h.fail <- errors.New("device ph0: interface was removed") })
	require.EqualError(t, err, "host: device ph0: interface was removed")
}

func TestPortTable(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, portTable(&out, newFakeHost().Ports()))
	require.Equal(t, `PORT       SERVICE  STATE      PROBE   ARRIVED   QUEUE  PEAK    SYN  PEAK  ACCEPT  PEAK  LOST
7/tcp      echo     bound      -             0  0/1024     0    0/0     0   0/128     0  0
21/tcp     ftp      failed     -             0  0/1024     0  2/128     7   3/128     9  probe: no greeting
40000/tcp  ftp      connected  -             0     0/0     0      -     -       -     -  0
53/udp     dns      answering  0.4 ms        9    0/64     0      -     -       -     -  1 bad-checksum, 2 queue-full
`, out.String())
	ports := newFakeHost().Ports()[3:]
	ports[0].Changed = "queue=64"
	out.Reset()
	require.NoError(t, portTable(&out, ports))
	require.True(t, strings.HasSuffix(out.String(), "  1 bad-checksum, 2 queue-full  queue=64\n"), out.String())
	// A cookie is no loss, and no SYN that came again is one. Bytes have their unit.
	ports = newFakeHost().Ports()[:1]
	ports[0].Fates = map[string]uint64{"to-stack": 9, "syn-cookie": 3, "syn-repeated": 1, "closed": 1}
	ports[0].Connections, ports[0].ReceiveQueue, ports[0].ReceiveFullest, ports[0].ReceiveBuffer = 1, 32656, 32656, 65536
	ports[0].ZeroWindows, ports[0].ZeroWindowFor = 1, 2100*time.Millisecond
	out.Reset()
	require.NoError(t, portTable(&out, ports))
	require.True(t, strings.HasSuffix(out.String(), "  0     31.9KiB/64KiB  0B      1x 2.1s\n"), out.String())
}

func TestInsideEnv(t *testing.T) {
	got := insideEnv([]string{"A=b", "http_proxy=x", "ALL_PROXY=y", "PORTHOLE_SOCK=old", "NO_PROXY=z"}, "/s")
	require.Equal(t, []string{"A=b", "PORTHOLE_SOCK=/s"}, got)
}

// TestLiveTableShowsLostLines: who looks at the table sees that the log has gaps.
func TestLiveTableShowsLostLines(t *testing.T) {
	for _, x := range []struct {
		lost uint64
		want string
	}{
		{0, "\nporthole  0 packets arrived, 0 queued, every packet accounted for.  Ctrl-C stops.\n"},
		{7, "\nporthole  0 packets arrived, 0 queued, every packet accounted for.  7 log lines lost.  Ctrl-C stops.\n"},
	} {
		h := newFakeHost()
		h.lost = x.lost
		var out bytes.Buffer
		liveTable(&out, &session{host: h})
		require.True(t, strings.HasPrefix(out.String(), x.want), out.String())
	}
}
