package porthole_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/internal/netns"
	"porthole/tun"
)

// The kernel end-to-end tests run a host on a real device inside a network
// namespace of their own, with stock clients in the same namespace. They need root
// and the clients; without, they skip, unless PORTHOLE_E2E=require.
// Those that mostly wait run beside each other, after all others (t.Parallel).

func require_() bool { return os.Getenv("PORTHOLE_E2E") == "require" }

// need skips the test (or fails it, where it may not skip) without root or a tool.
func need(t testing.TB, tools ...string) {
	t.Helper()
	missing := ""
	if os.Geteuid() != 0 {
		missing = "root"
	} else if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		missing = "/dev/net/tun"
	} else {
		f.Close()
	}
	for _, tool := range append([]string{"ip"}, tools...) {
		if _, err := exec.LookPath(tool); err != nil {
			missing = tool
		}
	}
	switch {
	case missing == "":
	case require_():
		t.Fatalf("needs %s", missing)
	default:
		t.Skipf("needs %s", missing)
	}
}

// kernelRig is a host on a kernel device in a namespace of its own.
type kernelRig struct {
	t    testing.TB
	ns   string
	dev  string
	host *porthole.Host
	stop func()
}

type kernelOptions struct {
	kind   string
	noPeer bool // leave the machine's IPv4 address to a DHCP client
	config func(*porthole.Config)
	before func(*porthole.Host) // it runs
}

func newKernelRig(t testing.TB, o kernelOptions) *kernelRig {
	t.Helper()
	r := &kernelRig{t: t, ns: newNamespace(t)}
	cfg := porthole.DefaultConfig()
	if o.noPeer {
		cfg.Link.PeerAddress = "none"
	}
	if o.config != nil {
		o.config(&cfg)
	}
	opts := tun.Options{Name: cfg.Link.Interface, Kind: o.kind, MTU: cfg.Link.MTU, Queues: cfg.Link.Queues}
	if a, ok := cfg.Link.PeerAddress.Addr(cfg.Link.Address); ok {
		opts.Peer4 = netip.PrefixFrom(a, cfg.Link.Address.Bits())
	}
	if a, ok := cfg.Link.PeerAddress6.Addr(cfg.Link.Address6); ok {
		opts.Peer6 = netip.PrefixFrom(a, cfg.Link.Address6.Bits())
	}
	var dev tun.Device
	inNamespace(t, r.ns, func() (err error) {
		dev, err = tun.Open(opts)
		return err
	})
	r.dev = dev.Facts().Name
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("PORTHOLE_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	var err error
	r.host, err = porthole.New(cfg, dev, log)
	require.NoError(t, err)
	if o.before != nil {
		o.before(r.host)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.host.Run(ctx) }()
	stopped := false
	r.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			require.NoError(t, <-done)
		}
	}
	t.Cleanup(r.stop)
	<-r.host.Ready()
	for _, p := range r.host.Ports() {
		require.NotEqual(t, "failed", p.State, "%v %s: %s", p.Port, p.Service, p.Error)
	}
	return r
}

func newNamespace(t testing.TB) string {
	t.Helper()
	ns := fmt.Sprintf("phtest-%08x", rand.Uint32())
	out, err := exec.Command("ip", "netns", "add", ns).CombinedOutput()
	if err != nil && !require_() { // root, and yet not allowed to: in a container
		t.Skipf("needs network namespaces: %s", out)
	}
	require.NoError(t, err, "%s", out)
	t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
	out, err = exec.Command("ip", "-n", ns, "link", "set", "lo", "up").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return ns
}

// inNamespace runs f on a thread that is in the namespace: what it opens stays there.
func inNamespace(t testing.TB, ns string, f func() error) {
	t.Helper()
	require.NoError(t, netns.Do(ns, f))
}

// run runs a command in the namespace and returns its output; it must end well
// within a minute.
func (r *kernelRig) run(name string, args ...string) string {
	r.t.Helper()
	out, err := r.try(name, args...)
	require.NoError(r.t, err, "%s %s\n%s", name, strings.Join(args, " "), out)
	return out
}

// sh runs a shell script in the namespace.
func (r *kernelRig) sh(script string) string {
	r.t.Helper()
	return r.run("sh", "-ec", script)
}

func (r *kernelRig) try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", r.ns, name}, args...)...)
	cmd.Dir = r.t.TempDir()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	return out.String(), err
}

// law takes the link down, so that nothing more arrives, and holds the ledger
// against itself, port by port, and against the kernel's own counters.
func (r *kernelRig) law() {
	r.t.Helper()
	r.run("ip", "link", "set", r.dev, "down")
	var s tun.Stats
	stats := func() {
		inNamespace(r.t, r.ns, func() (err error) {
			s, err = tun.LinkStats(r.dev)
			return err
		})
	}
	until(r.t, "the kernel's count of packets", func() bool { // what its queue held is still being read
		stats()
		return r.host.Health().Arrived["device"] == s.InPackets
	})
	h := r.host.Health()
	require.True(r.t, h.LedgerOK)
	for _, p := range r.host.Ports() {
		sum := uint64(p.Queued)
		for _, n := range p.Fates {
			sum += n
		}
		require.Equal(r.t, p.Arrived, sum, "ledger of %v", p.Port)
	}
	r.t.Logf("ledger: %v arrived, fates %v, %d queued; kernel handed over %d, dropped %d",
		h.Arrived, h.Fates, h.Queued, s.InPackets, s.InDropped)
}

var (
	urls  = []string{"http://10.77.0.1", "http://[fd77::1]"}
	hosts = []string{"10.77.0.1", "fd77::1"}
)

// devices are the kinds every client test runs on.
var devices = []string{tun.KindOffload, tun.KindWater, tun.KindTAP}

func eachDevice(t *testing.T, body func(t *testing.T, r *kernelRig)) {
	for _, kind := range devices {
		t.Run(kind, func(t *testing.T) {
			r := newKernelRig(t, kernelOptions{kind: kind})
			body(t, r)
			r.law()
		})
	}
}
