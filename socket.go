package porthole

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"

	"porthole/services"
	"porthole/stack"
)

// listen binds a TCP port with the settings that it has by configuration and Set.
func (h *Host) listen(port uint16, owner string) (*stack.Listener, error) {
	s := h.settingsOf(services.TCP(port))
	door := s.door()
	ln, err := h.stack.Listen(port, stack.ListenConfig{Owner: owner, Limits: s.limits(), Door: &door, ReceiveBuffer: int(*s.ReceiveBuffer)})
	if err != nil {
		return nil, err
	}
	// The rest, and all of it where the stack chose the port.
	_ = h.apply(services.TCP(uint16(ln.Addr().(*net.TCPAddr).Port)))
	return ln, nil
}

// listenPacket binds a UDP port likewise.
func (h *Host) listenPacket(port uint16, owner string) (*stack.PacketConn, error) {
	s := h.settingsOf(services.UDP(port))
	pc, err := h.stack.ListenPacket(port, stack.PacketConfig{Owner: owner, Limits: s.limits(), Policy: s.policy()})
	if err != nil {
		return nil, err
	}
	_ = h.apply(services.UDP(uint16(pc.LocalAddr().(*net.UDPAddr).Port)))
	return pc, nil
}

// listener is a TCP port of a service. When the host takes it, Accept waits until
// the service itself ends: it has lost a port, not met an error.
type listener struct {
	*stack.Listener
	r     *running
	taken chan struct{} // closed by lose
	over  chan struct{} // closed by the service's Close
	once  sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		if own, ok := l.r.adopt(l, c.(*stack.Conn)); ok {
			return own, nil
		}
		c.(*stack.Conn).Abort() // it was waiting when the port was taken
		err = net.ErrClosed
	}
	untilOver(l.taken, l.over)
	return nil, err
}

// Close is the service's.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.over) })
	return ignoreTaken(l.taken, l.Listener.Close())
}

func (l *listener) lose() { close(l.taken) }
func (l *listener) take() { _ = l.Listener.Close() }

// packetConn is a UDP port of a service, likewise.
type packetConn struct {
	*stack.PacketConn
	log         *slog.Logger
	taken, over chan struct{}
	once        sync.Once
}

// Answer implements services.Answerer. A function that panics is not called again:
// ReadFrom gets what it would have got.
func (p *packetConn) Answer(f services.AnswerFunc) {
	if f == nil {
		p.PacketConn.Answer(nil)
		return
	}
	broken := false // calls come one at a time
	p.PacketConn.Answer(func(msg []byte, from netip.AddrPort, reply func([]byte, netip.AddrPort) bool) (done bool) {
		if broken {
			return false
		}
		defer func() {
			if v := recover(); v != nil {
				broken, done = true, true
				p.log.Error("answer failed; datagrams take the slower way from now on", "client", from, "panic", v, "stack", string(debug.Stack()))
			}
		}()
		return f(msg, from, reply)
	})
}

func (p *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, a, err := p.PacketConn.ReadFrom(b)
	if err != nil {
		untilOver(p.taken, p.over)
	}
	return n, a, err
}

// ReadFromUDPAddrPort is what dns and others look for.
func (p *packetConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	n, a, err := p.PacketConn.ReadFromUDPAddrPort(b)
	if err != nil {
		untilOver(p.taken, p.over)
	}
	return n, a, err
}

func (p *packetConn) Close() error {
	p.once.Do(func() { close(p.over) })
	return ignoreTaken(p.taken, p.PacketConn.Close())
}

func (p *packetConn) lose() { close(p.taken) }
func (p *packetConn) take() { _ = p.PacketConn.Close() }

// untilOver waits for the service's own Close when the host has taken the port.
func untilOver(taken, over <-chan struct{}) {
	select {
	case <-taken:
		<-over
	default:
	}
}

// ignoreTaken: closing a port that the host has closed is no mistake of the service's.
func ignoreTaken(taken <-chan struct{}, err error) error {
	select {
	case <-taken:
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
	default:
	}
	return err
}

// conn is an accepted connection, counted until it is closed.
type conn struct {
	*stack.Conn
	r    *running
	once sync.Once
}

func (c *conn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.r.leave)
	return err
}

var _ services.Rester = (*conn)(nil)

// Abort ends the connection with a RST.
func (c *conn) Abort() {
	c.Conn.Abort()
	c.once.Do(c.r.leave)
}

// sockets is services.Net on the host's stack, under one service's name.
type sockets struct {
	h     *Host
	owner string
}

func (n sockets) Listen(port uint16) (net.Listener, error) {
	ln, err := n.h.listen(port, n.owner)
	if err != nil {
		return nil, err // not a nil *Listener in an interface
	}
	return ln, nil
}

func (n sockets) ListenPacket(port uint16) (net.PacketConn, error) {
	pc, err := n.h.listenPacket(port, n.owner)
	if err != nil {
		return nil, err
	}
	return pc, nil
}

func (n sockets) Dial(ctx context.Context, network string, localPort uint16, remote netip.AddrPort) (net.Conn, error) {
	c := stack.DialConfig{Owner: n.owner, LocalPort: localPort}
	switch network {
	case "tcp":
		conn, err := n.h.stack.DialTCP(ctx, remote, c)
		if err != nil {
			return nil, err
		}
		return conn, nil
	case "udp":
		conn, err := n.h.stack.DialUDP(remote, c)
		if err != nil {
			return nil, err
		}
		return conn, nil
	}
	return nil, net.UnknownNetworkError(network)
}

func (n sockets) SendLink(hw net.HardwareAddr, from, to netip.AddrPort, payload []byte) error {
	return n.h.stack.SendLink(hw, from, to, payload)
}
