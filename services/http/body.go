package http

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// body limits a request's body in bytes and in time. The time limit is on
// progress, not on the whole: each bodyPace bytes move the deadline, so a long
// upload at any honest speed goes on, and one that trickles byte by byte ends.
// A body that no page reads has its deadline too: net/http reads what is left of
// it, up to 256 KiB, to find the next request.
type body struct {
	io.ReadCloser // net/http's, then http.MaxBytesReader
	set           func(time.Time) error
	timeout       time.Duration
	expects       bool // the client may be waiting for 100-continue

	mu      sync.Mutex // a handler may read and write at the same time
	since   int        // bytes that came since the deadline was set
	armed   time.Time  // when it was set
	off     bool       // no deadline stands
	begun   bool       // somebody has asked for a byte of it
	broken  bool       // it ended in an error
	room    int        // most that one Read may take
	tooLong bool
	tooSlow bool
}

// bodyPace is what a body must bring within the body timeout. Under a chunked
// coding one Read may wait for as much as it has room for, so the room starts
// there, doubles from read to read, and starts again when the deadline moves: a
// fast body soon comes in whole buffers, a slow one never waits for more than it
// owes.
const bodyPace = 4 << 10

// hasBody reports whether there is anything to read.
func hasBody(r *http.Request) bool {
	return r.ContentLength != 0 && r.Body != nil && r.Body != http.NoBody
}

// newBody takes r's body and starts its clock. raw must be net/http's own writer.
func newBody(raw http.ResponseWriter, r *http.Request, timeout time.Duration) *body {
	b := &body{
		ReadCloser: r.Body,
		set:        http.NewResponseController(raw).SetReadDeadline,
		timeout:    timeout,
		expects:    r.ProtoMajor == 1 && r.ProtoMinor > 0 && hasToken(r.Header["Expect"], "100-continue"),
	}
	b.armLocked(time.Now())
	return b
}

// limit bounds it in bytes. raw then closes the connection properly when more come.
func (b *body) limit(raw http.ResponseWriter, n int64) {
	b.ReadCloser = http.MaxBytesReader(raw, b.ReadCloser, n)
}

// finish follows the answer. A client that got it instead of its 100-continue sends no
// body (RFC 9110, 10.1.1), and net/http would listen for one for the whole timeout.
func (b *body) finish() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.expects && !b.begun {
		b.set(time.Now().Add(lingerTime))
	}
}

func (b *body) armLocked(now time.Time) {
	b.set(now.Add(b.timeout))
	b.armed, b.since, b.room, b.off = now, 0, bodyPace, false
}

// release takes the deadline away until the next Read: a handler may answer for longer
// before it reads on. After the end of the body, also of one that is read once more, it
// would end the connection's background read, and with it the request's context.
func (b *body) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.releaseLocked()
}

func (b *body) releaseLocked() {
	if !b.off {
		b.set(time.Time{})
		b.off = true
	}
}

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	b.begun = true
	if b.off || b.since >= bodyPace {
		if now := time.Now(); b.off || now.Sub(b.armed) > b.timeout/8 {
			b.armLocked(now)
		}
	}
	if len(p) > b.room {
		p = p[:b.room]
		b.room *= 2
	}
	b.mu.Unlock()
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.since += n
	if err == nil {
		return n, nil
	}
	b.broken = err != io.EOF
	var long *http.MaxBytesError
	switch {
	case errors.As(err, &long):
		b.tooLong = true
	case errors.Is(err, os.ErrDeadlineExceeded), isTimeout(err):
		b.tooSlow = true
	default:
		b.releaseLocked()
	}
	return n, err
}

// isTimeout knows the deadline errors of sockets that are not the kernel's.
func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// status is what to answer instead of a handler's own complaint about the body, and
// whether the connection ends with it: where the next request begins is not known.
func (b *body) status(s int) (status int, last bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.tooLong:
		return http.StatusRequestEntityTooLarge, true
	case b.tooSlow:
		return http.StatusRequestTimeout, true
	}
	return s, b.broken
}
