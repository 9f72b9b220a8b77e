package stack

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Conn is a TCP connection of the host. Unlike gonet's it gives the errors that
// callers of net test for, and registers with netstack once, not once per wait.
type Conn struct {
	s     *Stack
	ep    tcpip.Endpoint
	wq    *waiter.Queue
	entry waiter.Entry

	local, remote *net.TCPAddr

	rmu, wmu     sync.Mutex    // one reader, one writer at a time
	readable     chan struct{} // one token: there may be something, the deadline has passed, or c is closed
	writable     chan struct{} // likewise
	rdead, wdead deadline
	closed       chan struct{}
	arrived      int64             // in the accept queue, by the flows' clock
	hasRead      bool              // guarded by rmu
	copied       int               // bytes that were read and netstack does not know of; guarded by rmu
	in           tcpip.SliceWriter // what Read fills; guarded by rmu
	out          bytes.Reader      // what Write has in its hands; guarded by wmu
	closeOnce    sync.Once
	port         uint16
	resting      atomic.Pointer[func()] // of WhenReadable
	ack          ack
}

var _ net.Conn = (*Conn)(nil)

// moderateEvery is how many bytes are read before netstack hears of them and sizes the
// receive buffer: far less than it begins with.
const moderateEvery = 16 << 10

func newConn(s *Stack, ep tcpip.Endpoint, wq *waiter.Queue) *Conn {
	c := &Conn{
		s: s, ep: ep, wq: wq,
		readable: make(chan struct{}, 1), writable: make(chan struct{}, 1),
		closed: make(chan struct{}),
	}
	// Not GetRemoteAddress: it knows none of a connection that its peer has reset
	// already, and a service may ask for it all the same.
	if i, ok := ep.Info().(*netstack.TransportEndpointInfo); ok {
		c.local = tcpAddr(tcpip.FullAddress{Addr: i.ID.LocalAddress, Port: i.ID.LocalPort})
		c.remote = tcpAddr(tcpip.FullAddress{Addr: i.ID.RemoteAddress, Port: i.ID.RemotePort})
		c.port = i.ID.LocalPort
	}
	c.rdead.pokes, c.wdead.pokes = c.readable, c.writable
	c.entry.Init(c, waiter.EventIn|waiter.EventOut|waiter.EventErr|waiter.EventHUp|waiter.EventRdHUp)
	wq.EventRegister(&c.entry)
	c.ack.own(c)
	return c
}

func tcpAddr(a tcpip.FullAddress) *net.TCPAddr {
	return net.TCPAddrFromAddrPort(addrPort(a))
}

// NotifyEvent is netstack's call that something changed. It never waits.
func (c *Conn) NotifyEvent(mask waiter.EventMask) {
	if mask&^waiter.EventOut != 0 {
		poke(c.readable)
		c.arouse()
	}
	if mask&^waiter.EventIn != 0 {
		poke(c.writable)
	}
}

// WhenReadable implements services.Rester.
func (c *Conn) WhenReadable(f func()) {
	c.resting.Store(&f)
	if isClosed(c.closed) {
		c.resting.Store(nil)
	} else if c.ep.Readiness(readable) != 0 {
		c.arouse()
	}
}

const readable = waiter.EventIn | waiter.EventErr | waiter.EventHUp | waiter.EventRdHUp

func (c *Conn) arouse() {
	if c.resting.Load() == nil {
		return
	}
	if f := c.resting.Swap(nil); f != nil {
		(*f)()
	}
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if len(b) == 0 {
		return c.readLocked(nil)
	}
	c.in = b
	n, err := c.readLocked(&c.in)
	c.in = nil
	return n, err
}

// Discard implements services.Discarder.
func (c *Conn) Discard() (int, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	return c.readLocked(io.Discard)
}

// readLocked waits for data and writes what has come to w, as much as it takes; nil takes
// nothing, and does not wait. Netstack holds the connection meanwhile, so w must not wait.
func (c *Conn) readLocked(w io.Writer) (int, error) {
	for {
		if isClosed(c.closed) {
			return 0, c.err("read", net.ErrClosed)
		}
		if c.rdead.passed() {
			return 0, c.err("read", errTimeout)
		}
		if w == nil {
			return 0, nil
		}
		res, err := c.ep.Read(w, tcpip.ReadOptions{})
		switch err.(type) {
		case nil:
			if c.copied += res.Count; c.copied >= moderateEvery {
				c.ep.ModerateRecvBuf(c.copied)
				c.copied = 0
			}
			if !c.hasRead {
				c.hasRead = true
				if c.s.flows != nil {
					c.s.flows.FirstRead(c.s.now(), c.flowKey())
				}
			}
			return res.Count, nil
		case *tcpip.ErrClosedForReceive:
			return 0, io.EOF
		case *tcpip.ErrWouldBlock:
		default:
			return 0, c.err("read", errno(err))
		}
		if len(c.in) != 1 { // net/http reads one byte to hear of the client's end while a handler works
			c.ack.send()
		}
		<-c.readable
	}
}

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (n int, _ error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	for {
		if isClosed(c.closed) {
			return n, c.err("write", net.ErrClosed)
		}
		if c.wdead.passed() {
			return n, c.err("write", errTimeout)
		}
		if n == len(b) {
			return n, nil
		}
		c.out.Reset(b[n:min(len(b), n+c.s.link.fullSegment())])
		k, err := c.ep.Write(&c.out, tcpip.WriteOptions{})
		c.out.Reset(nil) // netstack remembers the reader
		n += int(k)
		switch err.(type) {
		case nil:
			continue
		case *tcpip.ErrWouldBlock:
		default:
			return n, c.err("write", errno(err))
		}
		<-c.writable
	}
}

// Close implements net.Conn: what was written is still sent, then FIN; bytes that
// came and were not read make it a RST, as in Linux.
func (c *Conn) Close() error {
	first := false
	c.closeOnce.Do(func() {
		first = true
		close(c.closed)
		poke(c.readable)
		poke(c.writable)
		c.wq.EventUnregister(&c.entry)
		c.ep.Close()
		c.ended()
		c.resting.Store(nil)
		c.rdead.drop()
		c.wdead.drop()
		c.s.reap.consider(c.port)
	})
	if !first {
		return c.err("close", net.ErrClosed)
	}
	return nil
}

// ended settles what is known of netstack's connection, which may live on for a while.
func (c *Conn) ended() {
	ep, ok := c.ep.(*tcp.Endpoint)
	if !ok {
		return
	}
	ep.LockUser()
	c.ack.endLocked(ep)
	c.s.lostFINs.closed(c, ep)
	una, bytes, ok := unacknowledged(ep)
	waits := waitsForPeer(ep.EndpointState())
	ep.UnlockUser()
	if ok && waits {
		c.s.orphans.closed(ep, una, bytes)
	}
}

// CloseWrite sends FIN and keeps reading.
func (c *Conn) CloseWrite() error {
	if isClosed(c.closed) {
		return c.err("close", net.ErrClosed)
	}
	if err := c.ep.Shutdown(tcpip.ShutdownWrite); err != nil {
		return c.err("close", errno(err))
	}
	return nil
}

// CloseRead ends reading; what still comes is discarded.
func (c *Conn) CloseRead() error {
	if isClosed(c.closed) {
		return c.err("close", net.ErrClosed)
	}
	if err := c.ep.Shutdown(tcpip.ShutdownRead); err != nil {
		return c.err("close", errno(err))
	}
	return nil
}

// Abort ends the connection with a RST.
func (c *Conn) Abort() {
	if a, ok := c.ep.(interface{ Abort() }); ok {
		a.Abort()
	}
	c.Close()
}

// SetLinger implements what net/http and others ask of a *net.TCPConn: 0 makes
// Close send RST.
func (c *Conn) SetLinger(sec int) error {
	o := tcpip.LingerOption{Enabled: sec >= 0, Timeout: time.Duration(max(sec, 0)) * time.Second}
	c.ep.SocketOptions().SetLinger(o)
	return nil
}

// SetKeepAlive implements the method of *net.TCPConn.
func (c *Conn) SetKeepAlive(on bool) error {
	c.ep.SocketOptions().SetKeepAlive(on)
	return nil
}

// SetKeepAlivePeriod implements the method of *net.TCPConn.
func (c *Conn) SetKeepAlivePeriod(d time.Duration) error {
	idle, interval := tcpip.KeepaliveIdleOption(d), tcpip.KeepaliveIntervalOption(d)
	if err := c.ep.SetSockOpt(&idle); err != nil {
		return c.err("set", errno(err))
	}
	if err := c.ep.SetSockOpt(&interval); err != nil {
		return c.err("set", errno(err))
	}
	return nil
}

// SetNoDelay implements the method of *net.TCPConn. On by default, as in Go.
func (c *Conn) SetNoDelay(on bool) error {
	c.ep.SocketOptions().SetDelayOption(!on)
	return nil
}

// LocalAddr and RemoteAddr give *net.TCPAddr.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if isClosed(c.closed) {
		return c.err("set", net.ErrClosed)
	}
	c.rdead.set(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if isClosed(c.closed) {
		return c.err("set", net.ErrClosed)
	}
	c.wdead.set(t)
	return nil
}

func (c *Conn) err(op string, err error) error {
	return opError(op, "tcp", c.local, c.remote, err)
}

// Peer is the remote address as a value.
func (c *Conn) Peer() netip.AddrPort { return c.remote.AddrPort() }
