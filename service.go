package porthole

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"porthole/demux"
	"porthole/services"
	"porthole/services/all"
	"porthole/stack"
)

// probeTimeout bounds the self-test of all services together.
const probeTimeout = 15 * time.Second

// running is one instance of a service of the catalogue on this host. Its sockets
// are its own; what fails ends it alone.
//
// Its ports can be taken from it (take): then the service goes on without them, for
// the connections that it has accepted, and ends when it has neither ports nor
// connections left. So a port can be closed, and a service restarted with another
// configuration, without cutting anyone off.
type running struct {
	h      *Host
	svc    services.Service
	opened bool // by Host.Open; else by the configuration
	env    *services.Env
	cancel context.CancelFunc
	done   chan struct{} // closed when Serve has returned

	mu    sync.Mutex
	ports map[services.Port]taker // bound by the host for it; nil takers before they are
	conns int                     // accepted and not closed
	state map[services.Port]probed
	err   error // why it is not running
}

// taker is a port that the host can take back from the service that has it.
type taker interface {
	lose() // says so; with running.mu held
	take() // closes it
}

type probed struct {
	took time.Duration
	err  error
}

func (h *Host) newRunning(svc services.Service, ports []services.Port, opened bool) *running {
	r := &running{
		h: h, svc: svc, opened: opened, done: make(chan struct{}), cancel: func() {},
		ports: map[services.Port]taker{}, state: map[services.Port]probed{},
	}
	for _, p := range ports {
		r.ports[p] = nil
	}
	return r
}

// open binds the service's ports, in order, and makes its environment.
func (r *running) open(ports []services.Port, options any) error {
	h := r.h
	e := &services.Env{
		Host: h.hostFacts(), Config: options, Log: h.log.With("service", r.svc.Name),
		Now: time.Now, Net: sockets{h, r.svc.Name}, Ports: h.portInfos,
	}
	for _, p := range ports {
		var t taker
		if p.Proto == "tcp" {
			ln, err := h.listen(p.Number, r.svc.Name)
			if err != nil {
				closeAll(e)
				return err
			}
			own := &listener{Listener: ln, r: r, taken: make(chan struct{}), over: make(chan struct{})}
			e.TCP, t = append(e.TCP, own), own
		} else {
			pc, err := h.listenPacket(p.Number, r.svc.Name)
			if err != nil {
				closeAll(e)
				return err
			}
			own := &packetConn{PacketConn: pc, log: e.Log, taken: make(chan struct{}), over: make(chan struct{})}
			e.UDP, t = append(e.UDP, own), own
		}
		r.mu.Lock()
		r.ports[p] = t
		r.mu.Unlock()
	}
	if h.cfg.DataDir != "" {
		e.DataDir = filepath.Join(h.cfg.DataDir, r.svc.Name)
		if err := os.MkdirAll(e.DataDir, 0o700); err != nil {
			closeAll(e)
			return fmt.Errorf("make data directory: %w", err)
		}
	}
	r.env = e
	return nil
}

// take closes a port under the service, which does not notice. Connections that
// wait get RST, accepted ones live on. The last port and connection end the service.
func (r *running) take(p services.Port) {
	r.mu.Lock()
	t := r.ports[p]
	delete(r.ports, p)
	delete(r.state, p)
	if t != nil {
		t.lose()
	}
	r.mu.Unlock()
	if t != nil {
		t.take()
	}
	r.endIfIdle()
}

// adopt counts a connection that the service accepts, unless the port has been
// taken from it meanwhile.
func (r *running) adopt(l *listener, c *stack.Conn) (net.Conn, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-l.taken:
		return nil, false
	default:
	}
	r.conns++
	return &conn{Conn: c, r: r}, true
}

func (r *running) leave() {
	r.mu.Lock()
	r.conns--
	r.mu.Unlock()
	r.endIfIdle()
}

func (r *running) endIfIdle() {
	if r.idle() {
		r.cancel()
	}
}

// idle reports whether the service has neither ports nor connections left.
func (r *running) idle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ports) == 0 && r.conns == 0
}

func (r *running) has(p services.Port) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.ports[p]
	return ok
}

func (r *running) portList() []services.Port {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Keys(r.ports), comparePorts)
}

// comparePorts orders ports as they are listed: TCP first, by number.
func comparePorts(a, b services.Port) int {
	return cmp.Or(strings.Compare(a.Proto, b.Proto), cmp.Compare(a.Number, b.Number))
}

func (r *running) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

func closeAll(e *services.Env) {
	for _, ln := range e.TCP {
		ln.Close()
	}
	for _, pc := range e.UDP {
		pc.Close()
	}
}

// serve runs the service to its end. A panic is an error like any other.
func (r *running) serve(ctx context.Context) {
	defer r.ended()
	defer closeAll(r.env)
	err := func() (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		return r.svc.Serve(ctx, r.env)
	}()
	switch {
	case ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)):
	case err == nil:
		r.fail(errEnded)
	default:
		r.fail(err)
	}
}

// ended takes a service off the list that has no ports any more; one that failed
// stays there with its error.
func (r *running) ended() {
	if len(r.portList()) == 0 {
		r.h.drop(r)
	}
	close(r.done)
}

func (r *running) fail(err error) {
	r.mu.Lock()
	r.err = err
	r.mu.Unlock()
	r.h.log.Error("service ended", "service", r.svc.Name, "error", err)
}

// probe asks one port of the service its question.
func (r *running) probe(ctx context.Context, p services.Port) {
	if r.svc.Probe == nil || r.env == nil {
		return
	}
	began := time.Now()
	err := r.svc.Probe(ctx, r.env, p)
	r.mu.Lock()
	r.state[p] = probed{time.Since(began), err}
	r.mu.Unlock()
	if err != nil {
		r.h.log.Error("self-test failed", "port", p.String(), "service", r.svc.Name, "error", err)
	}
}

// status is what Ports says of one of the service's own ports.
func (r *running) status(p services.Port) (state, message string, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pr, ok := r.state[p]
	switch {
	case r.err != nil:
		return "failed", r.err.Error(), 0
	case !ok:
		return "", "", 0
	case pr.err != nil:
		return "failed", pr.err.Error(), pr.took
	}
	return "answering", "", pr.took
}

// portInfos is the port table as services see it: what clients may ask. Ports that
// only a connection still uses are not in it.
func (h *Host) portInfos() []services.PortInfo {
	var ps []services.PortInfo
	for _, s := range h.table.Ports() {
		if s.Port.IsLane() || s.Owner == "" {
			continue
		}
		if s.Port.IsTCP() && h.stack.PortState(s.Port.Number()) != "listening" {
			continue
		}
		i := services.PortInfo{Port: portOf(s.Port), Service: s.Owner}
		if svc, ok := all.Lookup(s.Owner); ok {
			i.About = svc.About
		}
		ps = append(ps, i)
	}
	return ps
}

func portOf(p demux.Port) services.Port {
	return services.Port{Proto: p.Proto(), Number: p.Number()}
}
