package flow

import "time"

// Receive is how a TCP connection of the host stands that somebody sends to.
type Receive struct {
	// Window is what the host last offered its peer, in bytes: what may still come
	// beyond what it has acknowledged.
	Window int `json:"window"`
	// Queued is what has come and the service has not read, Buffer what the
	// connection's receive buffer holds; both are the stack's to fill in.
	Queued int `json:"queued"`
	Buffer int `json:"buffer"`
}

// window is what the host offered last.
func (c *cold) window(r *hot) int {
	w := r.window.Load()
	if w&inSYN != 0 || c.opts[In]&c.opts[Out]&optScale == 0 {
		return int(w &^ inSYN)
	}
	return int(w) << c.scale[Out]
}

// Window is what the host last offered a peer of an open connection.
func (t *Table) Window(k Key) (bytes int, ok bool) {
	if t == nil {
		return 0, false
	}
	w := k.key()
	h := t.hash(&w)
	t.mu.Lock()
	defer t.mu.Unlock()
	r, slot := t.search(h, &w)
	if r == nil {
		return 0, false
	}
	return t.coldLocked(slot).window(r), true
}

// ZeroWindows is how often, and for how long in all, the host closed its window to
// the clients of one port, spells that still last included.
type ZeroWindows struct {
	Count uint64
	Now   int // still closed
	For   time.Duration
}

// spells count those of one port.
type spells struct {
	count uint64
	done  int64 // ns, of those that have ended
	open  int
	since int64 // sum of when the open ones began
}

// ZeroWindows is by port; one that never closed a window is not in it.
func (t *Table) ZeroWindows(now int64) map[uint16]ZeroWindows {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	m := make(map[uint16]ZeroWindows, len(t.zeros))
	for p, s := range t.zeros {
		m[p] = ZeroWindows{s.count, s.open, time.Duration(s.done + int64(s.open)*now - s.since)}
	}
	return m
}

// closedLocked notes that a side's window has closed.
func (t *Table) closedLocked(r *hot, c *cold, d Direction, now int64) {
	r.set(zeroIn << d)
	c.zeros[d]++
	c.zeroSince[d] = now
	if d == Out && !c.hostFirst {
		s := t.zeros[c.k.local()]
		if s == nil {
			s = &spells{}
			t.zeros[c.k.local()] = s
		}
		s.count++
		s.open++
		s.since += now
	}
}

// openedLocked notes that it is open again, or that it does not matter any more.
func (t *Table) openedLocked(r *hot, c *cold, d Direction, now int64) {
	if r.state.Load()&(zeroIn<<d) == 0 {
		return
	}
	r.clear(zeroIn << d)
	c.zeroFor[d] += now - c.zeroSince[d]
	if s := t.zeros[c.k.local()]; s != nil && d == Out && !c.hostFirst {
		s.done += now - c.zeroSince[d]
		s.open--
		s.since -= c.zeroSince[d]
	}
}
