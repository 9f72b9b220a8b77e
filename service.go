package porthole

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"porthole/demux"
	"porthole/services"
	"porthole/services/all"
	"porthole/stack"
)

// probeTimeout bounds the self-test of all services together.
const probeTimeout = 5 * time.Second

// running is one service of the catalogue on this host. Its sockets are its own;
// what fails ends it alone.
type running struct {
	h     *Host
	svc   services.Service
	ports []services.Port
	env   *services.Env
	done  chan struct{} // closed when Serve has returned

	mu    sync.Mutex
	state map[services.Port]probed
	err   error // why it is not running
}

type probed struct {
	took time.Duration
	err  error
}

// open binds the service's ports and makes its environment.
func (r *running) open(options any) error {
	h := r.h
	e := &services.Env{
		Host: h.hostFacts(), Config: options, Log: h.log.With("service", r.svc.Name),
		Now: time.Now, Net: sockets{h.stack, r.svc.Name}, Ports: h.portInfos,
	}
	for _, p := range r.ports {
		if p.Proto == "tcp" {
			ln, err := e.Net.Listen(p.Number)
			if err != nil {
				closeAll(e)
				return err
			}
			e.TCP = append(e.TCP, ln)
			continue
		}
		pc, err := e.Net.ListenPacket(p.Number)
		if err != nil {
			closeAll(e)
			return err
		}
		e.UDP = append(e.UDP, pc)
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
	defer close(r.done)
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

// sockets is services.Net on the host's stack, under one service's name.
type sockets struct {
	s     *stack.Stack
	owner string
}

func (n sockets) Listen(port uint16) (net.Listener, error) {
	ln, err := n.s.Listen(port, stack.ListenConfig{Owner: n.owner})
	if err != nil {
		return nil, err // not a nil *Listener in an interface
	}
	return ln, nil
}

func (n sockets) ListenPacket(port uint16) (net.PacketConn, error) {
	pc, err := n.s.ListenPacket(port, stack.PacketConfig{Owner: n.owner})
	if err != nil {
		return nil, err
	}
	return pc, nil
}

func (n sockets) Dial(ctx context.Context, network string, localPort uint16, remote netip.AddrPort) (net.Conn, error) {
	c := stack.DialConfig{Owner: n.owner, LocalPort: localPort}
	switch network {
	case "tcp":
		conn, err := n.s.DialTCP(ctx, remote, c)
		if err != nil {
			return nil, err
		}
		return conn, nil
	case "udp":
		conn, err := n.s.DialUDP(remote, c)
		if err != nil {
			return nil, err
		}
		return conn, nil
	}
	return nil, net.UnknownNetworkError(network)
}

func (n sockets) SendLink(hw net.HardwareAddr, from, to netip.AddrPort, payload []byte) error {
	return n.s.SendLink(hw, from, to, payload)
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
