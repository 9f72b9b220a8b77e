package demux

import "sync"

// Backlog is the accept queue of one listener: connections that finished their
// handshake and wait for the service. As in Linux, a backlog of N holds N+1. A SYN
// that comes while it is full is dropped, so that the client tries again. The owner
// of the listener closes it; what is left then is returned to be reset.
type Backlog struct {
	mu      sync.Mutex
	nonzero sync.Cond
	limit   int
	waiting []any // oldest first
	high    int
	closed  bool
	kick    func() // called after a Pop made room, without the lock
}

// NewBacklog makes an accept queue for limit+1 connections. kick, if not nil, is
// called whenever room was made.
func NewBacklog(limit int, kick func()) *Backlog {
	b := &Backlog{limit: limit, kick: kick}
	b.nonzero.L = &b.mu
	return b
}

// Full reports whether another connection would not fit.
func (b *Backlog) Full() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.waiting) > b.limit
}

// Push adds an established connection; false when it is full or closed.
func (b *Backlog) Push(c any) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || len(b.waiting) > b.limit {
		return false
	}
	b.waiting = append(b.waiting, c)
	b.high = max(b.high, len(b.waiting))
	b.nonzero.Signal()
	return true
}

// Pop waits for the oldest connection; ok is false after Close.
func (b *Backlog) Pop() (c any, ok bool) {
	b.mu.Lock()
	for len(b.waiting) == 0 && !b.closed {
		b.nonzero.Wait()
	}
	if b.closed {
		b.mu.Unlock()
		return nil, false
	}
	wasFull := len(b.waiting) > b.limit
	c = b.waiting[0]
	b.waiting[0] = nil
	b.waiting = b.waiting[1:]
	b.mu.Unlock()
	if wasFull && b.kick != nil {
		b.kick()
	}
	return c, true
}

// SetLimit changes the bound; what waits stays.
func (b *Backlog) SetLimit(n int) {
	b.mu.Lock()
	b.limit = n
	b.mu.Unlock()
	if b.kick != nil {
		b.kick()
	}
}

// Len is the number that wait; Limit the bound; High the most that waited at once.
func (b *Backlog) Stats() (n, limit, high int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.waiting), b.limit, b.high
}

// Close ends every Pop and returns what still waited.
func (b *Backlog) Close() []any {
	b.mu.Lock()
	defer b.mu.Unlock()
	left := b.waiting
	b.waiting, b.closed = nil, true
	b.nonzero.Broadcast()
	return left
}
