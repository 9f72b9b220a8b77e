package http

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"porthole/services"
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
	open := slices.Collect(maps.Keys(s.open))
	s.mu.Unlock()
	for _, c := range open {
		c.end()
	}
}

// endRests closes the connections that rest.
func (s *slots) endRests() {
	s.mu.Lock()
	open := slices.Collect(maps.Keys(s.open))
	s.mu.Unlock()
	for _, c := range open {
		c.endRest()
	}
}

// ending reports whether closeAll was called.
func (s *slots) ending() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
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
	refuse       func(from net.Addr, request, status string) []byte // see conn.Write
	h2           int                                                // see conn
	back         *returned                                          // see rest

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
	c := &conn{Conn: nc, slots: l.slots, timeout: l.writeTimeout, refuse: l.refuse, h2: l.h2}
	c.rest.back = l.back
	c.rest.rester, _ = nc.(services.Rester)
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
	refuse  func(from net.Addr, request, status string) []byte
	once    sync.Once
	heads   heads
	start   [prefaceLen]byte // the connection's first bytes
	started int
	h2      int         // header limit of HTTP/2, 0 without it
	frames  *frames     // from the end of an HTTP/2 preface on
	blanks  int         // CR and LF that were skipped, blanksOver when a request has begun
	refused atomic.Bool // the last that passed was the start of an error answer
	heading atomic.Bool // net/http reads a request's head, or waits for one
	late    bool        // a head has not come in time, and was answered

	answered int // requests, by net/http's word
	rest     rest

	// armed is when the deadline in force was set (Unix nanoseconds), 0 when there
	// is none, foreign when a handler set its own (a hijacked connection may).
	armed atomic.Int64
}

const foreign = -1

// writePiece is the most that is handed to the socket at once: four super-packets, as
// full as they may be with all their headers, and no short one after them. Longer ones
// would be out of the processor's cache before they are sent. writePace is what must go
// within the timeout, however much a handler writes.
const (
	writePiece = 4 * 63 << 10
	writePace  = 64 << 10
)

// A server should skip an empty line before the first request line (RFC 9112,
// 2.2); net/http answers 400. Two lines are skipped, no more.
const (
	blanksMost = 4
	blanksOver = blanksMost + 1
)

// Read is called by one goroutine at a time: net/http sees to that.
func (c *conn) Read(p []byte) (int, error) {
	if c.frames != nil {
		return c.frames.Read(p)
	}
	if c.refused.Load() {
		c.refused.Store(false)
	}
	n, err := c.Conn.Read(p)
	if c.rest.idle.Load() && c.waited(n, err) {
		return 0, io.EOF
	}
	for c.blanks != blanksOver && n > 0 {
		i := 0
		for i < n && c.blanks < blanksMost && (p[i] == '\r' || p[i] == '\n') {
			i++
			c.blanks++
		}
		if i < n {
			c.blanks = blanksOver
		}
		if n = copy(p, p[i:n]); n > 0 || err != nil {
			break
		}
		n, err = c.Conn.Read(p)
	}
	if c.started < prefaceLen && n > 0 {
		fits := n <= prefaceLen-c.started // net/http asks for no more before it knows
		c.started += copy(c.start[c.started:], p[:n])
		if fits && c.h2 > 0 && string(c.start[:c.started]) == clientPreface {
			c.frames = newFrames(c.Conn, c.h2, c.tooLong)
		}
	}
	if n == 0 && isTimeout(err) && !c.late && c.refuse != nil && c.heading.Load() && c.heads.partial() {
		c.late = true
		c.refused.Store(true)
		c.write(c.refuse(c.RemoteAddr(), c.heads.text(), "408 Request Timeout"))
	}
	if !c.heads.off && n > 0 {
		c.heads.see(p[:n])
		switch {
		case err != nil:
		case c.heads.hopeless():
			err = io.EOF
		case c.heads.isTLS() && c.refuse != nil:
			// A client that waits for the answer to its hello would wait for the header
			// timeout.
			c.refused.Store(true)
			c.write(c.refuse(c.RemoteAddr(), "TLS", "400 Bad Request: TLS on a port without it"))
			err = io.EOF
		}
	}
	return n, err
}

// tooLong writes the access line of a request whose header list gets 431 from net/http.
func (c *conn) tooLong(request string) {
	if c.refuse != nil {
		c.refuse(c.RemoteAddr(), request, "431")
	}
}

// bareError is how the answers go on that net/http gives by itself, in one write
// and before any handler, to what it cannot read. They lack Date (RFC 9110, 6.6.1:
// must be there), Content-Length and the access line. bare417 is its answer to an
// unknown expectation, which lacks the line, too. Handlers' answers have Server.
const (
	bareError = "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
	bare417   = "\r\nConnection: close\r\nDate: "
)

func (c *conn) Write(p []byte) (int, error) {
	if len(p) > 9 && (p[9] == '4' || p[9] == '5') && (string(p[:9]) == "HTTP/1.1 " || string(p[:9]) == "HTTP/1.0 ") {
		c.refused.Store(true)
		i := bytes.IndexByte(p, '\r')
		unmet := i > 0 && string(p[9:12]) == "417" && bytes.HasPrefix(p[i:], []byte(bare417))
		if c.refuse != nil && i > 0 && (unmet || bytes.HasPrefix(p[i:], []byte(bareError))) {
			// The goroutine that writes this one is the reader.
			if c.late {
				return len(p), nil
			}
			status := string(p[9:i])
			if strings.HasPrefix(status, "431 ") && c.heads.inRequestLine() {
				status = "414 " + http.StatusText(http.StatusRequestURITooLong)
			}
			if _, err := c.write(c.refuse(c.RemoteAddr(), c.heads.text(), status)); err != nil {
				return 0, err
			}
			if unmet { // net/http will look for the body, which nothing has given a deadline
				c.Conn.SetReadDeadline(time.Now().Add(lingerTime))
			}
			return len(p), nil
		}
	}
	return c.write(p)
}

func (c *conn) write(p []byte) (n int, err error) {
	for {
		c.arm()
		piece := p[n:min(len(p), n+writePiece)]
		m, err := c.Conn.Write(piece)
		n += m
		if err != nil && m >= writePace && isTimeout(err) && c.disarm() {
			continue // slow, but not too slow
		}
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

// disarm makes the next write begin with a new deadline; not one of a handler's own.
func (c *conn) disarm() bool {
	was := c.armed.Load()
	return was != foreign && c.armed.CompareAndSwap(was, 0)
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

// Close closes the connection, but for net/http's Close of one that goes to rest.
func (c *conn) Close() error {
	if c.lieDown() {
		return nil
	}
	return c.end()
}

// end closes the connection and gives its slot back, once.
func (c *conn) end() error {
	err := net.ErrClosed
	c.once.Do(func() {
		c.rest.up()
		if c.refused.Load() {
			c.linger()
		}
		err = c.Conn.Close()
		c.slots.remove(c)
	})
	return err
}

// A connection that is closed while data of the client is unread ends with RST,
// and the client may never see the answer that was on its way (RFC 9112, 9.6).
// net/http lingers after a 413 or 431 of its own, but not after 400, 501 or 505,
// nor when the client had asked for the close. So after an error answer the FIN
// goes first and what still comes is read, within these bounds.
const (
	lingerTime  = 100 * time.Millisecond
	lingerBytes = 1 << 20
)

func (c *conn) linger() {
	if c.slots.ending() || c.CloseWrite() != nil {
		return
	}
	c.Conn.SetReadDeadline(time.Now().Add(lingerTime))
	io.CopyN(io.Discard, c.Conn, lingerBytes)
}
