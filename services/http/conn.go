package http

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Connections are limited before they are accepted: a slot is taken first, so
// that a connection beyond the limit waits in the port's accept queue, where the
// port table shows it, and not in this process. A slot is given back when its
// connection is closed. The set of open connections exists so that the end of
// the service can close hijacked ones too, which http.Server forgets.

// slots is the number of connections that may be open, over all listeners.
type slots struct {
	free chan struct{}
	done chan struct{}

	mu     sync.Mutex
	open   map[*conn]struct{}
	closed bool
}

func newSlots(n int) *slots {
	return &slots{free: make(chan struct{}, n), done: make(chan struct{}), open: map[*conn]struct{}{}}
}

// closeAll closes every open connection and lets no other be accepted.
func (s *slots) closeAll() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	close(s.done)
	open := make([]*conn, 0, len(s.open))
	for c := range s.open {
		open = append(open, c)
	}
	s.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
}

func (s *slots) add(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.open[c] = struct{}{}
	return true
}

func (s *slots) remove(c *conn) {
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	<-s.free
}

// listener takes a slot, then accepts.
type listener struct {
	net.Listener
	slots        *slots
	writeTimeout time.Duration

	once   sync.Once
	closed chan struct{}
}

func newListener(ln net.Listener, s *slots, writeTimeout time.Duration) *listener {
	return &listener{Listener: ln, slots: s, writeTimeout: writeTimeout, closed: make(chan struct{})}
}

// Accept waits for a free slot and then for a connection.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.slots.free <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	case <-l.slots.done:
		return nil, net.ErrClosed
	}
	nc, err := l.Listener.Accept()
	if err != nil {
		<-l.slots.free
		return nil, err
	}
	c := &conn{Conn: nc, slots: l.slots, timeout: l.writeTimeout}
	if !l.slots.add(c) {
		<-l.slots.free
		nc.Close()
		return nil, net.ErrClosed
	}
	return c, nil
}

// Close frees a waiting Accept.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// conn is one connection, whose every write has a deadline: a client that takes
// nothing for the write timeout loses the connection, however long the whole
// response may be. One deadline serves many small writes: it is set anew when a
// quarter of it has gone by.
type conn struct {
	net.Conn
	slots   *slots
	timeout time.Duration
	once    sync.Once

	// armed is when the deadline in force was set (Unix nanoseconds), 0 when there
	// is none, foreign when a handler set its own (a hijacked connection may).
	armed atomic.Int64
}

const foreign = -1

// writePiece bounds what one deadline covers: 64 KiB must go within the timeout,
// however much a handler writes at once.
const writePiece = 64 << 10

func (c *conn) Write(p []byte) (n int, err error) {
	for {
		c.arm()
		piece := p[n:min(len(p), n+writePiece)]
		m, err := c.Conn.Write(piece)
		n += m
		if err != nil || n == len(p) {
			return n, err
		}
	}
}

func (c *conn) arm() {
	was := c.armed.Load()
	if was == foreign {
		return
	}
	now := time.Now() // a socket's deadline is compared with the wall clock, whatever env.Now says
	if was != 0 && now.UnixNano()-was < int64(c.timeout/4) {
		return
	}
	if c.armed.CompareAndSwap(was, now.UnixNano()) {
		c.Conn.SetWriteDeadline(now.Add(c.timeout))
	}
}

// SetWriteDeadline lets a handler have its own deadline. Clearing it, which
// net/http does after each response, brings ours back with the next write.
func (c *conn) SetWriteDeadline(t time.Time) error {
	if t.IsZero() {
		c.armed.CompareAndSwap(foreign, 0)
		return nil
	}
	c.armed.Store(foreign)
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline sets both.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// CloseWrite sends the FIN and keeps reading, so that a client that is still
// sending gets the answer before the connection ends (RFC 9112, 9.6).
func (c *conn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close closes the connection and gives its slot back, once.
func (c *conn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = c.Conn.Close()
		c.slots.remove(c)
	})
	return err
}
