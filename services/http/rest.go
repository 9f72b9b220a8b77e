package http

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"porthole/services"
)

// A kept-alive connection that waits for its next request costs net/http a goroutine
// and two buffers, 17 KiB, more than all else that is known of it. So where the host
// can say when the next byte is there (services.Rester), a connection that has waited
// for restAfter is put to rest:
//
//	serving   net/http reads it
//	parting   its Read has told net/http that it is over; net/http gives all back and closes
//	resting   that Close has left it open: a timer and the host's call are what waits
//	serving   its next byte, or its end, is there: it goes back to net/http as a new one
//
// Nothing is in net/http's buffers then: the connection rests only while net/http says
// that it is idle and the bytes that went by are exactly the requests that were answered.
// The timer is the rest of idle-timeout. The end of the service ends resting connections
// first (slots.endRests), as net/http would end idle ones.
type rest struct {
	rester services.Rester // nil: it never rests
	back   *returned
	idle   atomic.Bool // net/http waits for a request, and Read may part
	until  time.Time   // when that is too long; of the goroutine that serves

	mu    sync.Mutex
	state restState
	timer *time.Timer
}

type restState uint8

const (
	serving restState = iota
	parting
	resting
	ended
)

// restAfter is short beside a user's pauses and long beside what taking up a connection
// again costs, some 20 us.
const restAfter = time.Second

// peeked is how many bytes net/http wants before it takes a wait for over.
const peeked = 4

// isIdle is net/http's word that it has answered a request and waits for the next.
// Nothing else reads or writes at that moment.
func (c *conn) isIdle() {
	c.answered++
	c.rest.idle.Store(c.rest.rester != nil && c.frames == nil && c.heads.between(c.answered))
}

// SetReadDeadline gives a wait that may become a rest a deadline of its own.
func (c *conn) SetReadDeadline(t time.Time) error {
	if c.rest.idle.Load() {
		c.rest.until = t
		if soon := time.Now().Add(restAfter); t.After(soon) {
			t = soon
		}
	}
	return c.Conn.SetReadDeadline(t)
}

// waited follows a Read in a wait that may become a rest, and reports whether it does.
func (c *conn) waited(n int, err error) bool {
	r := &c.rest
	switch {
	case n > 0:
		r.idle.Store(false)
		if n < peeked {
			c.Conn.SetReadDeadline(r.until)
		}
	case isTimeout(err) && time.Now().Before(r.until):
		r.idle.Store(false)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.state == serving {
			r.state = parting
			return true
		}
	}
	return false
}

// lieDown keeps a connection that net/http closes because it was told so. It reports
// whether the Close is thereby done.
func (c *conn) lieDown() bool {
	r := &c.rest
	r.mu.Lock()
	was := r.state
	if was == parting {
		r.state = resting
		r.timer = time.AfterFunc(time.Until(r.until), c.endRest)
	}
	r.mu.Unlock()
	if was == parting {
		c.Conn.SetReadDeadline(time.Time{})
		r.rester.WhenReadable(c.wake)
		if r.back.over() {
			c.endRest()
		}
	}
	return was == parting || was == resting
}

// wake gives the connection back to net/http, for which it is a new one. It is the host's
// call, which may not wait: who holds these locks waits for nobody, the host included. A
// connection that finds the server ending goes on resting, for endRest.
func (c *conn) wake() {
	r := &c.rest
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != resting {
		return
	}
	c.started, c.heads.lines, c.blanks = 0, 0, 0 // of HTTP/2 and of TLS it may be the start
	if r.back.push(c) {
		r.state = serving
		r.timer.Stop()
	}
}

// endRest ends the connection if it rests: its idle timeout is over, or the service.
func (c *conn) endRest() {
	r := &c.rest
	r.mu.Lock()
	over := r.state == resting
	if over {
		r.state = ended
	}
	r.mu.Unlock()
	if over {
		c.end()
	}
}

// up ends what a rest has begun.
func (r *rest) up() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state = ended
	if r.timer != nil {
		r.timer.Stop()
	}
}

// returned is the listener that hands connections back to the server: those that have
// rested and those that change to HTTP/2. It holds what Accept has not taken yet, at
// most all that are open.
type returned struct {
	mu     sync.Mutex
	some   sync.Cond
	conns  []net.Conn
	next   []net.Conn // those that were in conns before them
	closed bool
}

func newReturned() *returned {
	r := &returned{}
	r.some.L = &r.mu
	return r
}

// Accept implements net.Listener.
func (r *returned) Accept() (net.Conn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.next) == 0 {
		if r.closed {
			return nil, net.ErrClosed
		}
		if len(r.conns) == 0 {
			r.some.Wait()
		}
		r.next, r.conns = r.conns, nil
	}
	c := r.next[0]
	r.next[0], r.next = nil, r.next[1:]
	return c, nil
}

// push does not wait. It is false when the server takes no more.
func (r *returned) push(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.conns = append(r.conns, c)
	r.some.Signal()
	return true
}

// over reports whether push will be false.
func (r *returned) over() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

// Close implements net.Listener.
func (r *returned) Close() error {
	r.mu.Lock()
	r.closed = true
	r.conns, r.next = nil, nil
	r.mu.Unlock()
	r.some.Broadcast()
	return nil
}

// Addr is that of nothing: the connections have their own.
func (r *returned) Addr() net.Addr { return &net.TCPAddr{} }

// followState tells gate and connections what net/http says of them.
func followState(conns *gate) func(net.Conn, http.ConnState) {
	return func(nc net.Conn, s http.ConnState) {
		c, ours := nc.(*conn)
		if ours {
			c.heading.Store(s == http.StateNew || s == http.StateIdle)
		}
		switch s {
		case http.StateNew:
			conns.enter()
		case http.StateIdle:
			if ours {
				c.isIdle()
			}
		case http.StateClosed, http.StateHijacked:
			conns.leave()
		}
	}
}
