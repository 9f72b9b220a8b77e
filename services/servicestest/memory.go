package servicestest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"porthole/services"
)

// Memory is a services.Net without a kernel, for a test in a synctest bubble. Whoever
// waits for its sockets lets the bubble's clock go on, so that a time limit is exact
// on a machine of any speed. Its connections are those of net.Pipe: a write waits for
// its reader, and none can be closed half. No datagram ever comes.
type Memory struct {
	mu        sync.Mutex
	listeners map[uint16]*memoryListener
	last      uint16 // port that was given out of those nobody asked for
}

var _ services.Net = (*Memory)(nil)

// NewMemory is an empty network.
func NewMemory() *Memory {
	return &Memory{listeners: map[uint16]*memoryListener{}, last: 1023}
}

func (m *Memory) next() uint16 {
	for m.last++; m.listeners[m.last] != nil; m.last++ {
	}
	return m.last
}

func memoryAddr(port uint16) *net.TCPAddr {
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)}
}

// Listen binds 127.0.0.1:port.
func (m *Memory) Listen(port uint16) (net.Listener, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if port == 0 {
		port = m.next()
	}
	if m.listeners[port] != nil {
		return nil, syscall.EADDRINUSE
	}
	ln := &memoryListener{m: m, port: port, queue: make(chan net.Conn, 128), closed: make(chan struct{})}
	m.listeners[port] = ln
	return ln, nil
}

// ListenPacket gives a socket that nobody sends to.
func (m *Memory) ListenPacket(port uint16) (net.PacketConn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if port == 0 {
		port = m.next()
	}
	// Reading from a pipe whose other end is silent waits for Close.
	near, _ := net.Pipe()
	return silence{near, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)}}, nil
}

// Dial connects to a listener of the network. It does not wait for Accept.
func (m *Memory) Dial(_ context.Context, network string, localPort uint16, remote netip.AddrPort) (net.Conn, error) {
	if network != "tcp" {
		return nil, errors.ErrUnsupported
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	ln := m.listeners[remote.Port()]
	if ln == nil {
		return nil, syscall.ECONNREFUSED
	}
	if localPort == 0 {
		localPort = m.next()
	}
	here, there := memoryAddr(localPort), memoryAddr(remote.Port())
	client, server := net.Pipe()
	select {
	case ln.queue <- memoryConn{server, there, here}:
		return memoryConn{client, here, there}, nil
	default:
		return nil, syscall.ECONNREFUSED
	}
}

// SendLink is not supported.
func (*Memory) SendLink(net.HardwareAddr, netip.AddrPort, netip.AddrPort, []byte) error {
	return errors.ErrUnsupported
}

type memoryListener struct {
	m      *Memory
	port   uint16
	queue  chan net.Conn
	closed chan struct{}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept, and whoever waits for it.
func (l *memoryListener) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if l.m.listeners[l.port] != l {
		return net.ErrClosed
	}
	delete(l.m.listeners, l.port)
	close(l.closed)
	for len(l.queue) > 0 {
		_ = (<-l.queue).Close()
	}
	return nil
}

func (l *memoryListener) Addr() net.Addr { return memoryAddr(l.port) }

// memoryConn is one end of a connection.
type memoryConn struct {
	net.Conn
	local, remote net.Addr
}

func (c memoryConn) LocalAddr() net.Addr  { return c.local }
func (c memoryConn) RemoteAddr() net.Addr { return c.remote }

// silence is a socket on which nothing comes.
type silence struct {
	net.Conn
	local net.Addr
}

func (s silence) LocalAddr() net.Addr { return s.local }

func (s silence) ReadFrom(b []byte) (int, net.Addr, error) {
	_, err := s.Read(b)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		err = net.ErrClosed // io.ErrClosedPipe, of a pipe
	}
	return 0, nil, err
}

func (s silence) WriteTo(b []byte, _ net.Addr) (int, error) { return len(b), nil }
