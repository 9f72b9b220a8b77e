package demux

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Waits counts by how long things waited in a port's queue until the service took
// them: datagrams in the port's own, connections in its accept queue. Whoever takes
// them tells it, once each.
type Waits struct {
	Counts [WaitBuckets]uint64 // of those below WaitBound(i), and not below the one before
	Sum    time.Duration
}

// WaitBuckets is how many lengths are told apart; the last has no bound.
const WaitBuckets = 13

// WaitBound is what bucket i ends at: 8 us and then four times as much each, up to
// 34 s. The last bucket, WaitBuckets-1, has none.
func WaitBound(i int) time.Duration { return 1 << (13 + 2*i) }

// Count is how many were told.
func (w Waits) Count() (n uint64) {
	for _, c := range w.Counts {
		n += c
	}
	return n
}

type waits struct {
	counts [WaitBuckets]atomic.Uint64
	sum    atomic.Int64
}

// Waited tells that something that waited so many ns was taken from a port's queue.
func (t *Table) Waited(p Port, ns int64) {
	co := t.cold[p].Load()
	if co == nil {
		return
	}
	w := co.taken.Load()
	if w == nil {
		co.taken.CompareAndSwap(nil, new(waits))
		w = co.taken.Load()
	}
	ns = max(ns, 0)
	w.counts[min((max(bits.Len64(uint64(ns)), 12)-12)/2, WaitBuckets-1)].Add(1)
	w.sum.Add(ns)
}

func (c *cold) waited() (s Waits) {
	if w := c.taken.Load(); w != nil {
		for i := range w.counts {
			s.Counts[i] = w.counts[i].Load()
		}
		s.Sum = time.Duration(w.sum.Load())
	}
	return s
}
