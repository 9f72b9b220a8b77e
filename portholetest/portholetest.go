// Package portholetest gives a Go test a whole running host and a client that
// reaches it: no root, no device, no port of the machine.
//
//	h := portholetest.New(t)
//	resp, err := h.HTTP.Get(h.URL("/"))
//	h.Expect(t, demux.AcceptQueueFull).On("80/tcp").AtLeast(1)
//
// Everything ends with the test, which fails when a packet is unaccounted for. A test
// that fails logs what every port counted and the timelines of the newest conversations.
package portholetest

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"porthole"
	"porthole/demux"
	"porthole/services"
	"porthole/stack/stacktest"
	"porthole/tun"
)

// Timeout is how long an expectation waits for what it expects.
const Timeout = 30 * time.Second

// Host is a running host with its client.
type Host struct {
	*porthole.Host
	// Client is the machine at the other end of the link: Dial, Listen,
	// ListenPacket, DialContext.
	Client *stacktest.Client
	// HTTP is a client whose requests reach the host. Names are not looked up:
	// use URL.
	HTTP *http.Client
	// Addr4 and Addr6 are the host's addresses.
	Addr4, Addr6 netip.Addr
}

// Option changes the configuration of the host before it runs.
type Option func(*porthole.Config)

// Only leaves just these services running.
func Only(names ...string) Option {
	return func(c *porthole.Config) {
		for name, s := range c.Services {
			s.Enabled = false
			for _, n := range names {
				s.Enabled = s.Enabled || n == name
			}
		}
	}
}

// New runs a host until the test ends, and waits until its services answer.
func New(t testing.TB, options ...Option) *Host {
	t.Helper()
	cfg := porthole.DefaultConfig()
	for _, o := range options {
		o(&cfg)
	}
	near, far := tun.Pipe(tun.PipeOptions{GSO: true}, tun.PipeOptions{GSO: true})
	host, err := porthole.New(cfg, near, nil)
	if err != nil {
		near.Close()
		t.Fatalf("portholetest: %v", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- host.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("portholetest: run: %v", err)
		}
		if !host.Health().LedgerOK {
			t.Errorf("portholetest: packets are unaccounted for: %+v", host.Health())
		}
	})
	h := &Host{
		Host: host, Client: stacktest.New(t, far),
		Addr4: cfg.Link.Address.Addr(), Addr6: cfg.Link.Address6.Addr(),
	}
	tr := &http.Transport{DialContext: h.Client.DialContext}
	t.Cleanup(tr.CloseIdleConnections)
	h.HTTP = &http.Client{Transport: tr, Timeout: time.Minute}
	t.Cleanup(func() { // before the host ends
		if t.Failed() {
			h.logTimelines(t)
		}
	})
	<-host.Ready()
	for _, p := range host.Ports() {
		if p.State == "failed" {
			t.Fatalf("portholetest: %v %s does not answer: %s", p.Port, p.Service, p.Error)
		}
	}
	return h
}

// URL is the address of a page on the host.
func (h *Host) URL(path string) string { return "http://" + h.Addr4.String() + ":80" + path }

// Dial connects the client to a port of the host: Dial("80/tcp").
func (h *Host) Dial(ctx context.Context, port string) (net.Conn, error) {
	p, err := services.ParsePort(port)
	if err != nil {
		return nil, err
	}
	return h.Client.DialContext(ctx, p.Proto, netip.AddrPortFrom(h.Addr4, p.Number).String())
}

// Expectation waits for packets with one fate.
type Expectation struct {
	t    testing.TB
	h    *Host
	fate demux.Fate
	line string // a port or a lane; "" is the whole host
}

// Expect begins an expectation about packets with this fate, at the whole host
// unless On names a port.
func (h *Host) Expect(t testing.TB, fate demux.Fate) *Expectation {
	return &Expectation{t: t, h: h, fate: fate}
}

// On narrows the expectation to one port that somebody has or had, "80/tcp", or to a
// lane: what came for a port that nobody has is at "closed".
func (e *Expectation) On(port string) *Expectation {
	e.t.Helper()
	if _, ok := e.h.PortLedger(port); !ok {
		e.t.Fatalf("portholetest: On(%q): nobody has or had such a port; packets for others are at the lane closed", port)
	}
	e.line = port
	return e
}

// AtLeast waits until n packets have had the fate, or fails the test.
func (e *Expectation) AtLeast(n uint64) {
	e.t.Helper()
	if got, ok := e.wait(func(got uint64) bool { return got >= n }); !ok {
		e.fail("at least", n, got)
	}
}

// Exactly waits until n packets have had the fate, or fails the test; more than n
// fails it at once.
func (e *Expectation) Exactly(n uint64) {
	e.t.Helper()
	if got, _ := e.wait(func(got uint64) bool { return got >= n }); got != n {
		e.fail("exactly", n, got)
	}
}

func (e *Expectation) wait(enough func(uint64) bool) (uint64, bool) {
	late := time.NewTimer(Timeout)
	defer late.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		got := e.count()
		if enough(got) {
			return got, true
		}
		select {
		case <-tick.C:
		case <-late.C:
			return got, false
		}
	}
}

func (e *Expectation) count() uint64 {
	if e.line == "" {
		return e.h.Health().Fates[e.fate.String()]
	}
	l, _ := e.h.PortLedger(e.line)
	return l.Fates[e.fate.String()]
}

// LogFlows is how many timelines a failed test logs.
const LogFlows = 50

// logTimelines logs what every port counted and the newest timelines, each with its
// ladder of segments.
func (h *Host) logTimelines(t testing.TB) {
	t.Helper()
	for _, p := range h.Ports() {
		t.Logf("%-10v %-8s arrived %d queued %d fates %v", p.Port, p.Service, p.Arrived, p.Queued, p.Fates)
	}
	for _, f := range h.Flows(nil, LogFlows) {
		var b strings.Builder
		if f, ok := h.Flow(f.ID); ok && f.WriteLadder(&b) == nil {
			t.Logf("%s", strings.TrimSpace(b.String()))
		}
	}
}

// fail says what was expected and what was found; the end of the test logs the rest.
func (e *Expectation) fail(how string, want, got uint64) {
	e.t.Helper()
	where := "at the host"
	if e.line != "" {
		where = "at " + e.line
	}
	e.t.Fatalf("portholetest: want %s %d packets with fate %v %s, got %d", how, want, e.fate, where, got)
}
