package porthole

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"porthole/demux"
	"porthole/services"
	"porthole/services/all"
	"porthole/stack"
	"porthole/tun"
)

// Version is of this module; the CLI and banners show it.
const Version = "0.1.0"

// Host is one virtual host: a device, a port table, a stack and its services.
type Host struct {
	cfg     Config
	dev     tun.Device
	facts   tun.Facts
	log     *slog.Logger
	table   *demux.Table
	stack   *stack.Stack
	started time.Time
	ready   chan struct{}

	mu      sync.Mutex // guards running
	running []*running // in the catalogue's order
}

// New makes a host on an open device, which it owns from then on. Nothing is
// bound or read before Run.
func New(cfg Config, dev tun.Device, log *slog.Logger) (*Host, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	h := &Host{
		cfg: cfg, dev: dev, facts: dev.Facts(), log: log,
		table: demux.New(demux.Options{}),
		ready: make(chan struct{}), started: time.Now(),
	}
	sc := stack.Config{Device: dev, Table: h.table, Log: log}
	for _, p := range []netip.Prefix{cfg.Link.Address, cfg.Link.Address6} {
		if p.IsValid() {
			sc.Addrs = append(sc.Addrs, p)
		}
	}
	if len(h.facts.HW) > 0 {
		sc.Gateway4, _ = cfg.Link.PeerAddress.Addr(cfg.Link.Address)
		sc.Gateway6, _ = cfg.Link.PeerAddress6.Addr(cfg.Link.Address6)
	}
	var err error
	if h.stack, err = stack.New(sc); err != nil {
		return nil, fmt.Errorf("make stack: %w", err)
	}
	return h, nil
}

// Run binds the ports, starts the services, probes each one through the whole
// path, and serves until ctx ends. It returns after everything it started has
// ended. A Host runs once.
func (h *Host) Run(ctx context.Context) error {
	stackCtx, stopStack := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStack()
	stackDone := make(chan error, 1)
	go func() { stackDone <- h.stack.Run(stackCtx) }()

	serveCtx, stopServices := context.WithCancel(ctx)
	defer stopServices()
	h.start(serveCtx)
	h.probe(serveCtx)
	close(h.ready)

	var err error
	select {
	case <-ctx.Done():
		stopServices()
		h.wait()
		stopStack()
		err = <-stackDone
	case err = <-stackDone: // the device failed or was closed
		stopServices()
		h.wait()
	}
	return err
}

// Ready is closed when every service has been probed (well or badly: see Ports).
func (h *Host) Ready() <-chan struct{} { return h.ready }

// start binds and serves every enabled service. One that cannot bind is listed as
// failed; the others run.
func (h *Host) start(ctx context.Context) {
	for _, svc := range all.Services() {
		sc := h.cfg.Services[svc.Name]
		if sc == nil || !sc.Enabled {
			continue
		}
		r := &running{h: h, svc: svc, ports: sc.Ports, done: make(chan struct{}), state: map[services.Port]probed{}}
		h.mu.Lock()
		h.running = append(h.running, r)
		h.mu.Unlock()
		if err := r.open(sc.Options); err != nil {
			r.fail(err)
			close(r.done)
			continue
		}
		go r.serve(ctx)
	}
}

// probe asks every port its own question, all at once.
func (h *Host) probe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, r := range h.services() {
		for _, p := range r.ports {
			wg.Go(func() { r.probe(ctx, p) })
		}
	}
	wg.Wait()
}

func (h *Host) services() []*running {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]*running(nil), h.running...)
}

// wait waits until every service has returned: each bounds its own farewell.
func (h *Host) wait() {
	for _, r := range h.services() {
		<-r.done
	}
}

// hostFacts is what every service may know.
func (h *Host) hostFacts() services.Host {
	l := h.cfg.Link
	f := services.Host{
		Name: h.cfg.Name, Zone: h.cfg.Zone, Addr4: l.Address, Addr6: l.Address6,
		MTU: h.facts.MTU, HW: h.facts.HW, Version: Version, Started: h.started,
	}
	f.Peer4, _ = l.PeerAddress.Addr(l.Address)
	f.Peer6, _ = l.PeerAddress6.Addr(l.Address6)
	return f
}

// errEnded is shown when a service returned although nobody asked it to.
var errEnded = errors.New("ended by itself")
