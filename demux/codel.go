package demux

import "porthole/internal/codel"

// aging is CoDel for one queue. Times are ns of Options.Now, arrivals those of the
// batches. It is guarded by its line's mutex.
type aging struct {
	codel.Law
	largest uint32 // charge seen: a queue of no more than one such packet is no standing queue
}

func newAging(pol Policy) *aging {
	return &aging{Law: codel.Law{Target: pol.Target, Interval: pol.Interval}}
}

// popCodelLocked is popLocked under CoDel, which drops what it does not let through. The
// last packet is never dropped.
func (t *Table) popCodelLocked(p Port, l *line) ref {
	co, now := t.cold[p].Load(), t.now()
	for c := co.codel; ; {
		r := l.popLocked(t.pool)
		c.largest = max(c.largest, r.s.charge)
		switch c.Judge(now, r.s.at, l.bytes <= c.largest) {
		case codel.Pass:
			return r
		case codel.Begin:
			t.log.Add(Event{Type: QueueStands, Port: p, Fate: CoDelDropped, Count: uint64(l.n) + 1})
		}
		t.lostLocked(p, l, co, r, CoDelDropped, now)
		t.pool.give(r.h, r.s, 1)
	}
}
