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
	"porthole/demux/capture"
	"porthole/demux/flow"
	"porthole/internal/logqueue"
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
	link    *tun.Impaired
	facts   tun.Facts
	log     *slog.Logger // into lines
	lines   *logqueue.Queue
	table   *demux.Table
	stack   *stack.Stack
	flows   *flow.Table
	capture *capture.Set
	started time.Time
	ready   chan struct{}

	control sync.Mutex // held by Set, Open, Close and Reload: one change at a time

	mu      sync.Mutex // guards all below, and cfg's Services and Ports
	running []*running // configured ones in the catalogue's order, then opened ones
	changed map[services.Port]Settings

	changedLink LinkSettings
	ctx         context.Context // of the services; nil before Run, ended after it
}

// New makes a host on an open device, which it owns from then on. Nothing is
// bound or read before Run. Its log has a line for each request at level Info; what log's
// handler does may take its time: while the host runs it is called on a goroutine of
// its own, lines wait for it in a bounded queue, and Health counts those that found no
// room. All of them are written when Run returns.
func New(cfg Config, dev tun.Device, log *slog.Logger) (*Host, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	lines := logqueue.New(log.Handler())
	log = lines.Logger()
	h := &Host{
		cfg: cfg, link: impaired(dev), facts: dev.Facts(), log: log, lines: lines,
		ready: make(chan struct{}), started: time.Now(),
		changed: map[services.Port]Settings{},
	}
	h.table = demux.New(demux.Options{Now: h.now})
	h.table.SetUpstream(h.upstream)
	h.flows = flow.New(flow.Options{Start: h.started})
	h.capture = capture.NewSet(capture.Config{
		Table: h.table, Flows: h.flows, Start: h.started,
		Device: h.facts.Name, HW: h.facts.HW, App: "porthole " + Version,
	})
	sc := stack.Config{Device: h.link, Table: h.table, Flows: h.flows, Now: h.now, Log: log}
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
	if !cfg.Impair.IsZero() { // else what the device came with stands
		if err := h.applyLink(); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// Run binds the ports, starts the services, probes each one through the whole
// path, and serves until ctx ends. It returns after everything it started has
// ended. A Host runs once.
func (h *Host) Run(ctx context.Context) (err error) {
	stopLog := h.lines.Start()
	defer func() { err = errors.Join(err, stopLog()) }()
	stackCtx, stopStack := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStack()
	defer h.capture.Close() // when the last packet has its fate
	stackDone := make(chan error, 1)
	go func() { stackDone <- h.stack.Run(stackCtx) }()

	serveCtx, stopServices := context.WithCancel(ctx)
	defer stopServices()
	h.start(serveCtx)
	h.probe(serveCtx, h.services())
	close(h.ready)

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

// Log is the host's logger, which writes to the one that New was given. It keeps the
// order of all lines and, while the host runs, makes nobody wait.
func (h *Host) Log() *slog.Logger { return h.log }

// Ready is closed when every service has been probed (well or badly: see Ports).
func (h *Host) Ready() <-chan struct{} { return h.ready }

// start binds and serves every enabled service. One that cannot bind is listed as
// failed; the others run.
func (h *Host) start(ctx context.Context) {
	h.control.Lock()
	defer h.control.Unlock()
	h.mu.Lock()
	h.ctx = ctx
	h.mu.Unlock()
	for _, svc := range all.Services() {
		if sc := h.cfg.Services[svc.Name]; sc != nil && sc.Enabled {
			_ = h.launch(svc, sc.Ports, sc.Options, false)
		}
	}
}

// launch binds one service's ports and serves it. It is listed also when that fails.
// The caller holds control.
func (h *Host) launch(svc services.Service, ports []services.Port, options any, opened bool) *running {
	r := h.newRunning(svc, ports, opened)
	h.mu.Lock()
	ctx := h.ctx
	h.running = append(h.running, r)
	h.mu.Unlock()
	if err := r.open(ports, options); err != nil {
		r.fail(err)
		close(r.done)
		return r
	}
	ctx, r.cancel = context.WithCancel(ctx)
	go r.serve(ctx)
	return r
}

// probe asks every port of these services its own question, all at once. A port
// whose service is held back by its settings is not asked.
func (h *Host) probe(ctx context.Context, rs []*running) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, r := range rs {
		for _, p := range r.portList() {
			if h.settingsOf(p).Accept != "never" {
				wg.Go(func() { r.probe(ctx, p) })
			}
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
	h.control.Lock() // nothing is launched any more: ctx has ended
	defer h.control.Unlock()
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
