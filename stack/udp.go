package stack

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/ports"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"porthole/demux"
)

// hopLimit is the TTL of what the host sends (RFC 1700; Linux: ip_default_ttl).
const hopLimit = 64

// maxUDP4 and maxUDP6 are the longest UDP payloads that one IP packet can carry.
const (
	maxUDP4 = 65535 - 20 - 8
	maxUDP6 = 65535 - 8
)

// yieldAfter is how many datagrams the readers of a socket take before they let others
// run.
const yieldAfter = 16

// PacketConfig says how a UDP port is bound.
type PacketConfig struct {
	Owner  string
	Limits demux.Limits // of the port's queue, which is the socket's receive queue
	Policy demux.Policy
}

// PacketConn is a UDP port on all of the host's addresses. ReadFrom takes packets
// out of the port's own queue; WriteTo writes to the device, or through netstack
// where fragments or a link address are needed. Fragments that netstack has put
// together come back into the same queue through HandlePacket.
type PacketConn struct {
	s    *Stack
	port demux.Port

	remote netip.AddrPort // of a connected socket (Conn methods); else invalid

	rdead   deadline
	wdead   deadline
	closed  chan struct{}
	once    sync.Once
	readers atomic.Int32                  // in ReadFrom now: more than one pass the wake token on
	soft    atomic.Pointer[syscall.Errno] // pending ICMP error of a connected socket
	ipID    atomic.Uint32
	told    told
	pace    pace
	taken   atomic.Uint32 // by ReadFrom

	answerer answerer
}

var (
	_ net.PacketConn             = (*PacketConn)(nil)
	_ net.Conn                   = (*PacketConn)(nil)
	_ netstack.TransportEndpoint = (*udpEndpoint)(nil)
)

// ListenPacket binds a UDP port, on IPv4 and IPv6. Port 0 means any free one.
func (s *Stack) ListenPacket(port uint16, c PacketConfig) (*PacketConn, error) {
	return s.openUDP(port, netip.AddrPort{}, c)
}

// openUDP binds a port, connected when remote is valid.
func (s *Stack) openUDP(port uint16, remote netip.AddrPort, c PacketConfig) (*PacketConn, error) {
	pc := &PacketConn{s: s, remote: remote, closed: make(chan struct{})}
	pc.ipID.Store(rand.Uint32())
	var err error
	if pc.port, err = s.bindUDP(port, c); err != nil {
		return nil, err
	}
	if terr := s.net.RegisterTransportEndpoint(bothProtos, udp.ProtocolNumber, pc.id(),
		(*udpEndpoint)(pc), ports.Flags{}, 0); terr != nil {
		s.table.Release(pc.port)
		return nil, opError("listen", "udp", nil, pc.LocalAddr(), errno(terr))
	}
	s.sockets[pc.port.Number()].Store(pc)
	return pc, nil
}

var bothProtos = []tcpip.NetworkProtocolNumber{ipv4.ProtocolNumber, ipv6.ProtocolNumber}

// id is what netstack knows the socket by. A connected one is named whole, so that
// only errors about its own datagrams come to it (RFC 5927, 4).
func (pc *PacketConn) id() netstack.TransportEndpointID {
	id := netstack.TransportEndpointID{LocalPort: pc.port.Number()}
	if pc.remote.IsValid() {
		local, _ := pc.s.source(pc.remote.Addr())
		id.LocalAddress = address(local)
		id.RemoteAddress, id.RemotePort = address(pc.remote.Addr()), pc.remote.Port()
	}
	return id
}

func (s *Stack) bindUDP(port uint16, c PacketConfig) (demux.Port, error) {
	conf := demux.Config{Owner: c.Owner, Limits: c.Limits, Policy: c.Policy, Socket: true}
	if port != 0 {
		return demux.UDPPort(port), s.table.Bind(demux.UDPPort(port), conf)
	}
	const n = ephemeralLast - ephemeralFirst + 1
	start := rand.IntN(n)
	for i := range n {
		p := demux.UDPPort(uint16(ephemeralFirst + (start+i)%n))
		err := s.table.Bind(p, conf)
		var be *demux.BoundError
		if !errors.As(err, &be) {
			return p, err
		}
	}
	return 0, &net.OpError{Op: "bind", Net: "udp", Err: syscall.EADDRNOTAVAIL}
}

// ReadFrom implements net.PacketConn; the address is a *net.UDPAddr.
func (pc *PacketConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := pc.ReadFromUDPAddrPort(b)
	if err != nil {
		return n, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// ReadFromUDPAddrPort is ReadFrom without allocating the address. A datagram
// longer than b is cut, as a kernel socket does.
func (pc *PacketConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	pc.readers.Add(1)
	defer pc.readers.Add(-1)
	if pc.pace.wait(pc.closed, &pc.rdead) {
		defer pc.pace.pass()
	}
	for {
		if isClosed(pc.closed) {
			return 0, netip.AddrPort{}, pc.err("read", net.ErrClosed)
		}
		if pc.rdead.passed() {
			return 0, netip.AddrPort{}, pc.err("read", errTimeout)
		}
		if e := pc.soft.Swap(nil); e != nil {
			pc.passOn() // the token may have meant a packet
			return 0, netip.AddrPort{}, pc.err("read", *e)
		}
		p, ok, err := pc.s.table.Pop(pc.port)
		if err != nil {
			return 0, netip.AddrPort{}, pc.err("read", net.ErrClosed)
		}
		if ok {
			if pc.taken.Add(1)%yieldAfter == 0 {
				// A flooded service never waits here: others run in between, not
				// when the scheduler takes it off its processor after 10 ms.
				runtime.Gosched()
			}
			pc.passOn()
			from := p.From()
			if pc.remote.IsValid() && from != pc.remote {
				pc.s.deliver(p) // netstack tells the stranger that nobody is there
				pc.s.table.Free(p)
				continue
			}
			n, _ := p.CopyPayload(b)
			pc.heard(from, p.To().Addr())
			if pc.s.flows != nil {
				now := pc.s.now()
				pc.s.flows.Read(now, p.IP(), p.Info(), now-p.At())
				pc.s.table.Waited(pc.port, now-p.At())
			}
			pc.s.table.Free(p)
			return n, from, nil
		}
		pc.wait()
	}
}

// passOn wakes another reader, if there is one: a batch wakes only one.
func (pc *PacketConn) passOn() {
	if pc.readers.Load() > 1 {
		pc.s.table.Signal(pc.port)
	}
}

func (pc *PacketConn) wait() {
	if pc.s.flows != nil {
		pc.s.flows.Idle(pc.s.now(), pc.port)
	}
	select {
	case <-pc.s.table.Wake(pc.port):
	case <-pc.rdead.wait():
	case <-pc.closed:
	}
}

// WriteTo implements net.PacketConn.
func (pc *PacketConn) WriteTo(b []byte, to net.Addr) (int, error) {
	switch a := to.(type) {
	case *net.UDPAddr:
		return pc.WriteToUDPAddrPort(b, a.AddrPort())
	case interface{ AddrPort() netip.AddrPort }:
		return pc.WriteToUDPAddrPort(b, a.AddrPort())
	}
	return 0, pc.err("write", net.InvalidAddrError("not a UDP address"))
}

// WriteToUDPAddrPort sends one datagram.
func (pc *PacketConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	if isClosed(pc.closed) {
		return 0, pc.err("write", net.ErrClosed)
	}
	if pc.wdead.passed() {
		return 0, pc.err("write", errTimeout)
	}
	to = netip.AddrPortFrom(to.Addr().Unmap().WithZone(""), to.Port())
	if err := pc.s.sendUDP(netip.AddrPortFrom(pc.source(to), pc.port.Number()), to, b, &pc.ipID); err != nil {
		return 0, pc.err("write", err)
	}
	return len(b), nil
}

// Read implements net.Conn for a connected socket.
func (pc *PacketConn) Read(b []byte) (int, error) {
	n, _, err := pc.ReadFromUDPAddrPort(b)
	return n, err
}

// Write implements net.Conn for a connected socket.
func (pc *PacketConn) Write(b []byte) (int, error) {
	if !pc.remote.IsValid() {
		return 0, pc.err("write", syscall.EDESTADDRREQ)
	}
	if e := pc.soft.Swap(nil); e != nil {
		return 0, pc.err("write", *e)
	}
	return pc.WriteToUDPAddrPort(b, pc.remote)
}

// Close releases the port; what is queued has the fate port-released.
func (pc *PacketConn) Close() error {
	err := pc.err("close", net.ErrClosed)
	pc.once.Do(func() {
		err = nil
		close(pc.closed)
		pc.rdead.drop()
		pc.wdead.drop()
		pc.Answer(nil)
		pc.s.sockets[pc.port.Number()].CompareAndSwap(pc, nil)
		pc.s.net.UnregisterTransportEndpoint(bothProtos, udp.ProtocolNumber, pc.id(), (*udpEndpoint)(pc), ports.Flags{}, 0)
		pc.s.table.Release(pc.port)
		pc.s.flows.Released(pc.s.clock(), pc.port)
	})
	return err
}

// LocalAddr is the wildcard address, or the one a connected socket speaks from.
func (pc *PacketConn) LocalAddr() net.Addr {
	a := &net.UDPAddr{IP: net.IPv6zero, Port: int(pc.port.Number())}
	if pc.remote.IsValid() {
		if src, ok := pc.s.source(pc.remote.Addr()); ok {
			a.IP = src.AsSlice()
		}
	}
	return a
}

// RemoteAddr is nil for a socket that is not connected.
func (pc *PacketConn) RemoteAddr() net.Addr {
	if !pc.remote.IsValid() {
		return nil
	}
	return net.UDPAddrFromAddrPort(pc.remote)
}

// SetDeadline sets both deadlines.
func (pc *PacketConn) SetDeadline(t time.Time) error {
	return errors.Join(pc.SetReadDeadline(t), pc.SetWriteDeadline(t))
}

// SetReadDeadline implements net.PacketConn.
func (pc *PacketConn) SetReadDeadline(t time.Time) error {
	if isClosed(pc.closed) {
		return pc.err("set", net.ErrClosed)
	}
	pc.rdead.set(t)
	return nil
}

// SetWriteDeadline implements net.PacketConn; a write waits for nothing but the
// device, so the deadline only refuses writes that begin after it.
func (pc *PacketConn) SetWriteDeadline(t time.Time) error {
	if isClosed(pc.closed) {
		return pc.err("set", net.ErrClosed)
	}
	pc.wdead.set(t)
	return nil
}

func (pc *PacketConn) err(op string, err error) error {
	return opError(op, "udp", pc.LocalAddr(), pc.RemoteAddr(), err)
}

// udpEndpoint is the PacketConn as netstack sees it: where reassembled datagrams
// and ICMP errors for the port go.
type udpEndpoint PacketConn

// HandleError keeps an ICMP error for a connected socket (RFC 1122, 4.1.3.3); one
// that is not connected cannot tell whom it concerns.
func (e *udpEndpoint) HandleError(te netstack.TransportError, pkt *netstack.PacketBuffer) {
	if !e.remote.IsValid() || te.Kind() != netstack.DestinationPortUnreachableTransportError {
		return
	}
	no := syscall.ECONNREFUSED
	e.soft.Store(&no)
	e.s.table.Signal(e.port)
}

// Abort is netstack's call when it is destroyed.
func (e *udpEndpoint) Abort() { (*PacketConn)(e).Close() }

// Wait implements netstack.TransportEndpoint: no goroutine to wait for.
func (e *udpEndpoint) Wait() {}
