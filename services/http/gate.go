package http

import "sync"

// gate counts what is inside, up to a bound, and can be shut: after shut nothing
// enters, and empty is closed when the last one has left.
type gate struct {
	max   int
	empty chan struct{}

	mu     sync.Mutex
	inside int
	closed bool
}

func newGate(max int) *gate { return &gate{max: max, empty: make(chan struct{})} }

// enter reports whether there was room. Each success owes one leave.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.inside >= g.max {
		return false
	}
	g.inside++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.closed && g.inside == 0 {
		close(g.empty)
	}
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed && g.inside == 0 {
		close(g.empty)
	}
	g.closed = true
}
