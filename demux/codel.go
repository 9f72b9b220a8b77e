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

// pullLocked takes a packet that may go on out of a queue that holds one; those that
// CoDel drops before it go to lost. The last packet is never dropped.
func (t *Table) pullLocked(p Port, l *line, co *cold, now int64, lost *chain) ref {
	for c := co.codel; ; {
		r := l.popLocked(t.pool)
		c.largest = max(c.largest, r.s.charge)
		switch c.Judge(now, r.s.at, l.bytes <= c.largest) {
		case codel.Pass:
			return r
		case codel.Begin:
			t.log.Add(Event{Type: QueueStands, Port: p, Fate: CoDelDropped, Count: uint64(l.n) + 1})
		}
		t.loseLocked(p, l, co, r, lost, now)
	}
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
