package stack

import (
	"net"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"porthole/demux"
)

// DefaultBacklog is both queues of a listener that names none: what Go's listeners get
// on Linux since 5.4 (net.core.somaxconn).
const DefaultBacklog = 4096

// neverDecides is the backlog that netstack is given: ours is the one that counts.
const neverDecides = 1 << 20

// ListenConfig says how a port is bound.
type ListenConfig struct {
	Owner  string       // shown in the port table
	Limits demux.Limits // of the port's ingress queue; zero: the default
	// Door bounds the SYN queue and the accept queue; nil: DefaultBacklog for both,
	// cookies when the SYN queue is full.
	Door *demux.DoorConfig
	// ReceiveBuffer is of each connection, in bytes, from its first window on; 0:
	// auto-tuned. SetReceiveBuffer changes it.
	ReceiveBuffer int
}

// Listener is a TCP port on all of the host's addresses. Its door admits
// connections, netstack completes their handshakes, and the drain goroutine moves
// each at once into the door's accept queue, from which Accept takes it.
type Listener struct {
	s       *Stack
	port    uint16
	ep      tcpip.Endpoint
	wq      waiter.Queue
	entry   waiter.Entry
	door    *demux.Door
	pending atomic.Bool // it stands in the drain's list
	active  atomic.Bool // it stands in the door loop's list
	cookies cookies
	once    sync.Once
	closed  chan struct{}
	pace    pace
	rcvBuf  atomic.Int64 // of each connection's TCP receive buffer; 0: auto-tuning
}

var _ net.Listener = (*Listener)(nil)

// Listen binds a TCP port, on IPv4 and IPv6. Port 0 means any free one.
func (s *Stack) Listen(port uint16, c ListenConfig) (*Listener, error) {
	conf := demux.DoorConfig{Backlog: DefaultBacklog, SynQueue: DefaultBacklog}
	if c.Door != nil {
		conf = *c.Door
	}
	port, err := s.reap.listen(port, c.Owner, c.Limits)
	if err != nil {
		return nil, err
	}
	ln := &Listener{s: s, port: port, closed: make(chan struct{})}
	ln.rcvBuf.Store(int64(c.ReceiveBuffer))
	ln.cookies.clock, ln.cookies.port = s.net.Clock(), port
	ln.door = demux.NewDoor(conf, ln.cookies.valid)
	if err := ln.open(); err != nil {
		s.listeners[port].Store(nil)
		s.reap.unlisten(port)
		return nil, opError("listen", "tcp", nil, ln.Addr(), err)
	}
	s.flows.DoorLimits(port, conf.Backlog, conf.SynQueue)
	s.table.SetInline(demux.TCPPort(port), true)
	return ln, nil
}

func (ln *Listener) open() error {
	ep, terr := ln.s.net.NewEndpoint(tcp.ProtocolNumber, ipv6.ProtocolNumber, &ln.wq)
	if terr != nil {
		return errno(terr)
	}
	ep.SocketOptions().SetReuseAddress(true)
	ep.SocketOptions().SetV6Only(false)
	if n := ln.rcvBuf.Load(); n > 0 {
		setReceiveBuffer(ep, int(n))
	}
	if terr := ep.Bind(tcpip.FullAddress{Port: ln.port}); terr != nil {
		ep.Close()
		return errno(terr)
	}
	ln.ep = ep
	ln.entry.Init(ln, waiter.ReadableEvents)
	ln.wq.EventRegister(&ln.entry)
	ln.s.listeners[ln.port].Store(ln) // the door is there before the first SYN can be
	keys, err := ln.s.secrets.learn(func() tcpip.Error { return ep.Listen(neverDecides) })
	if err != nil {
		ln.wq.EventUnregister(&ln.entry)
		ep.Close()
		return err
	}
	ln.cookies.keys.Store(keys)
	return nil
}

// NotifyEvent is netstack's call that a handshake is complete. On some paths it
// holds the listener's locks, so Accept must wait for the drain goroutine.
func (ln *Listener) NotifyEvent(waiter.EventMask) { ln.s.drain.add(ln) }

// Accept implements net.Listener.
func (ln *Listener) Accept() (net.Conn, error) {
	if ln.pace.wait(ln.closed, nil) {
		defer ln.pace.pass()
	}
	if fl := ln.s.flows; fl != nil && ln.door.Stats().Waiting == 0 {
		fl.Idle(ln.s.now(), demux.TCPPort(ln.port))
	}
	c, ok := ln.door.Accept()
	if !ok {
		return nil, opError("accept", "tcp", nil, ln.Addr(), net.ErrClosed)
	}
	conn := c.(*Conn)
	if fl := ln.s.flows; fl != nil {
		now := ln.s.now()
		fl.Accepted(now, conn.flowKey(), now-conn.arrived)
		ln.s.table.Waited(demux.TCPPort(ln.port), now-conn.arrived)
	}
	return conn, nil
}

// Close ends Accept. Connections that nobody accepted get a RST; accepted ones live on.
func (ln *Listener) Close() error {
	err := opError("close", "tcp", nil, ln.Addr(), net.ErrClosed)
	ln.once.Do(func() {
		err = nil
		close(ln.closed)
		ln.s.table.SetInline(demux.TCPPort(ln.port), false)
		ln.s.listeners[ln.port].Store(nil)
		ln.s.flows.Released(ln.s.clock(), demux.TCPPort(ln.port))
		ln.wq.EventUnregister(&ln.entry)
		ln.ep.Close()
		for _, c := range ln.door.Close() { // netstack ends the half-open ones itself
			c.(*Conn).Abort()
		}
		ln.s.reap.unlisten(ln.port)
	})
	return err
}

// Addr is the wildcard address with the port.
func (ln *Listener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv6zero, Port: int(ln.port)} }

// Door is a snapshot of the queues of a listening port; ok is false when nobody
// listens there.
func (s *Stack) Door(port uint16) (st demux.DoorStats, ok bool) {
	ln := s.listeners[port].Load()
	if ln == nil {
		return st, false
	}
	return ln.door.Stats(), true
}

// SetDoor changes the bounds of a listening port's queues.
func (s *Stack) SetDoor(port uint16, c demux.DoorConfig) bool {
	ln := s.listeners[port].Load()
	if ln == nil {
		return false
	}
	ln.door.Set(c)
	s.flows.DoorLimits(port, c.Backlog, c.SynQueue)
	return true
}

// drain is the list of listeners that have connections to move. Its bound is the
// number of listeners: each stands in it at most once.
type drain struct {
	mu      sync.Mutex
	wake    sync.Cond
	list    []*Listener
	stopped bool
}

func (d *drain) init() { d.wake.L = &d.mu }

func (d *drain) add(ln *Listener) {
	if ln.pending.Swap(true) {
		return
	}
	d.mu.Lock()
	d.list = append(d.list, ln)
	d.mu.Unlock()
	d.wake.Signal()
}

func (d *drain) stop() {
	d.mu.Lock()
	d.stopped = true
	d.mu.Unlock()
	d.wake.Broadcast()
}

func (d *drain) take(buf []*Listener) ([]*Listener, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.list) == 0 && !d.stopped {
		d.wake.Wait()
	}
	if d.stopped {
		return nil, false
	}
	buf = append(buf[:0], d.list...)
	clear(d.list)
	d.list = d.list[:0]
	return buf, true
}

// drainLoop moves connections from netstack's accept lists into ours.
func (s *Stack) drainLoop() {
	var lns []*Listener
	for {
		var ok bool
		if lns, ok = s.drain.take(lns); !ok {
			return
		}
		for _, ln := range lns {
			ln.pending.Store(false)
			ln.drain()
		}
	}
}

// drain takes every connection that netstack has ready.
func (ln *Listener) drain() {
	for {
		ep, wq, err := ln.ep.Accept(nil)
		if err != nil {
			return // would block, or closed
		}
		if n := ln.rcvBuf.Load(); n > 0 {
			setReceiveBuffer(ep, int(n))
		}
		c := newConn(ln.s, ep, wq)
		k := demux.FlowKey{Remote: c.remote.AddrPort(), Local: c.local.AddrPort().Addr()}
		if ln.s.flows != nil {
			c.arrived = ln.s.now()
			st := ln.door.Stats()
			ln.s.flows.Established(c.arrived, c.flowKey(), uint32(st.Waiting+1), uint32(st.Backlog))
		}
		if !ln.door.Arrive(ln.s.doors.now(), k, c) {
			c.Abort()
		}
	}
}
