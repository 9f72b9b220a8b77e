package demux

import "math"

// codel is RFC 8289 for one queue: it looks at how long packets have waited when they
// are taken. As long as any wait within an interval was below the target, the queue
// only absorbs bursts; when none was, it is a standing queue, and packets are dropped
// at the head, at first one an interval, then ever more often, until waits are below
// the target again.
//
// It knows no clock: times are ns of Options.Now, arrivals those of the batches. It is
// guarded by its line's mutex.
type codel struct {
	target, interval int64

	dropping   bool
	above      int64  // when the wait will have been above the target for an interval; 0: it is not above
	next       int64  // when to drop the next, while dropping
	count      uint32 // dropped since dropping began
	lastCount  uint32 // count as the present cycle of dropping began
	largest    uint32 // charge seen: a queue of no more than one such packet is no standing queue
	lastWaited int64  // of the packet that was taken last
}

func newCodel(pol Policy) *codel {
	return &codel{target: int64(pol.Target), interval: int64(pol.Interval)}
}

// standing judges the packet that was just taken, with left bytes behind it: true
// says that it may be dropped (dodequeue of the RFC).
func (c *codel) standing(now, at int64, charge, left uint32) bool {
	c.lastWaited = now - at
	c.largest = max(c.largest, charge)
	switch {
	case now-at < c.target || left <= c.largest:
		c.above = 0
	case c.above == 0:
		c.above = now + c.interval
	default:
		return now >= c.above
	}
	return false
}

// after is the control law: drops come closer by the square root of their number, so
// that a flow that heeds them slows down linearly.
func (c *codel) after(t int64) int64 {
	return t + int64(float64(c.interval)/math.Sqrt(float64(c.count)))
}

// begin begins to drop; fresh says that it did not do so a moment ago. When it did, the
// rate that controlled the queue then is where to begin.
func (c *codel) begin(now int64) (fresh bool) {
	fresh = c.next == 0 || now-c.next >= 16*c.interval
	delta := c.count - c.lastCount
	c.count = 1
	if delta > 1 && !fresh {
		c.count = delta
	}
	c.dropping, c.lastCount = true, c.count
	c.next = c.after(now)
	return fresh
}

// pullLocked takes a packet that may go on out of a queue that holds one; those that
// CoDel drops before it go to lost. The last packet is never dropped.
func (t *Table) pullLocked(p Port, l *line, co *cold, now int64, lost *chain) ref {
	c := co.codel
	r, drop := t.judgeLocked(l, c, now)
	if !c.dropping {
		if drop {
			depth := l.n + 1
			t.loseLocked(p, l, co, r, lost, now)
			r, _ = t.judgeLocked(l, c, now)
			if c.begin(now) {
				t.log.Add(Event{Type: QueueStands, Port: p, Fate: CoDelDropped, Count: uint64(depth)})
			}
		}
		return r
	}
	c.dropping = drop
	for c.dropping && now >= c.next {
		t.loseLocked(p, l, co, r, lost, now)
		c.count++
		if r, c.dropping = t.judgeLocked(l, c, now); c.dropping {
			c.next = c.after(c.next)
		}
	}
	return r
}

// judgeLocked takes the oldest packet and says whether it may be dropped.
func (t *Table) judgeLocked(l *line, c *codel, now int64) (r ref, drop bool) {
	r = l.popLocked(t.pool)
	return r, c.standing(now, r.s.at, r.s.charge, l.bytes)
}

// loseLocked drops a packet that was just taken.
func (t *Table) loseLocked(p Port, l *line, co *cold, r ref, lost *chain, now int64) {
	t.lostLocked(p, l, co, r, CoDelDropped, now)
	if lost.last.s == nil {
		lost.first = r.h
	} else {
		lost.last.s.next = r.h
	}
	lost.last = r
	lost.n++
}

// popCodelLocked is PopAll of a queue under CoDel: each packet is judged as if it were
// taken alone.
func (t *Table) popCodelLocked(p Port, l *line, dst []Packet) (n int) {
	co, now := t.cold[p].Load(), t.now()
	var lost chain
	for n < len(dst) && l.n > 0 {
		r := t.pullLocked(p, l, co, now, &lost)
		dst[n] = t.packet(r.h, r.s)
		n++
	}
	t.pool.give(lost.first, lost.last.s, int(lost.n))
	return n
}
