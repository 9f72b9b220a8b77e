package flow

import (
	"math/bits"
	"sync/atomic"
)

// The index is open addressing over words that hold a record's number plus one and,
// above it, some bits of the hash; 0 is a free place. It is at most half full, so a
// search ends. Holders of mu write it. Taps read it without a lock: a search that
// runs beside a removal may miss a record, never find a wrong one, since the key is
// compared; who misses looks again with mu held. The hash has a seed, so nobody can
// choose addresses that collide.

func (t *Table) initIndex(n int) {
	t.low = 1<<bits.Len(uint(n)) - 1
	t.index = make([]atomic.Uint32, max(1<<bits.Len(uint(2*n-1)), 4))
	t.mask = uint32(len(t.index) - 1)
}

func (t *Table) hash4(meta, addrs uint64) uint64 {
	a, b := bits.Mul64(meta^t.seed[0], addrs^t.seed[1])
	return a ^ b
}

func (t *Table) hash(k *key) uint64 {
	if uint8(k.meta>>40) == 4 {
		return t.hash4(k.meta, k.addr[0])
	}
	a, b := bits.Mul64(k.addr[0]^t.seed[0], k.addr[1]^t.seed[1])
	c, d := bits.Mul64(k.addr[2]^t.seed[2], k.addr[3]^t.seed[0])
	a, b = bits.Mul64(a^b^k.meta^t.seed[1], c^d^t.seed[2])
	return a ^ b
}

// find gives the record of a key, or nil. The key was equal at some moment.
func (t *Table) find(k *key) *hot {
	r, _ := t.search(t.hash(k), k)
	return r
}

func (t *Table) search(h uint64, k *key) (r *hot, slot uint32) {
	tag := uint32(h>>32) &^ t.low
	for at := uint32(h) & t.mask; ; at = (at + 1) & t.mask {
		e := t.index[at].Load()
		if e == 0 {
			return nil, 0
		}
		if e&^t.low == tag {
			if r := &t.hot[e&t.low-1]; r.is(k) {
				return r, e&t.low - 1
			}
		}
	}
}

func (t *Table) insertLocked(h uint64, slot uint32) {
	at := uint32(h) & t.mask
	for t.index[at].Load() != 0 {
		at = (at + 1) & t.mask
	}
	t.hashes[slot] = uint32(h)
	t.index[at].Store(uint32(h>>32)&^t.low | slot + 1)
}

// removeLocked takes a record out and moves those after it up, so that searches need
// no tombstones. It does nothing for a record that is not in the index.
func (t *Table) removeLocked(slot uint32) {
	mask, low := t.mask, t.low
	at := t.hashes[slot] & mask
	for e := t.index[at].Load(); e&low != slot+1; e = t.index[at].Load() {
		if e == 0 {
			return
		}
		at = (at + 1) & mask
	}
	for next := (at + 1) & mask; ; next = (next + 1) & mask {
		e := t.index[next].Load()
		if e == 0 {
			break
		}
		home := t.hashes[e&low-1] & mask
		if (next-home)&mask >= (next-at)&mask { // may stand at the gap
			t.index[at].Store(e)
			at = next
		}
	}
	t.index[at].Store(0)
}

// ages orders the records by when they were last seen. A data segment does not touch
// it: the heap holds the tick that was true when it last looked, which is never later
// than the truth. A root that has been seen since is put where it belongs, until one
// has not: that is the oldest. At most ageLooks roots are looked at for one eviction;
// then the oldest of those goes. So it is exact for tables up to that size, and for
// larger ones unless that many of the oldest became active again at once.
type ages struct {
	slot []uint32
	key  []int64 // ns, in ticks
}

const ageLooks = 64

func (a *ages) init(n int) { a.slot, a.key = make([]uint32, 0, n), make([]int64, 0, n) }

func (a *ages) push(slot uint32, at int64) {
	a.slot, a.key = append(a.slot, slot), append(a.key, at)
	for i := len(a.slot) - 1; i > 0; {
		up := (i - 1) / 2
		if a.key[up] <= a.key[i] {
			break
		}
		a.swap(i, up)
		i = up
	}
}

func (a *ages) swap(i, k int) {
	a.slot[i], a.slot[k] = a.slot[k], a.slot[i]
	a.key[i], a.key[k] = a.key[k], a.key[i]
}

// down puts entry i where it belongs after its key grew.
func (a *ages) down(i int) {
	for {
		c := 2*i + 1
		if c >= len(a.key) {
			return
		}
		if c+1 < len(a.key) && a.key[c+1] < a.key[c] {
			c++
		}
		if a.key[i] <= a.key[c] {
			return
		}
		a.swap(i, c)
		i = c
	}
}

// oldestLocked finds the record to evict and puts another age at its place in the
// heap: the record is used again at once.
func (t *Table) oldestLocked(now int64) uint32 {
	a := &t.ages
	best, bestAt := uint32(0), int64(0)
	for n := 0; ; n++ {
		slot, at := a.slot[0], t.seenLocked(now, a.slot[0])
		if at <= a.key[0] {
			best = slot
			break
		}
		if n == 0 || at < bestAt {
			best, bestAt = slot, at
		}
		if n == ageLooks {
			// best is one of those that were put back: its age is mended below,
			// as its next look finds the new flow's.
			return best
		}
		a.key[0] = at
		a.down(0)
	}
	a.key[0] = floorTick(now)
	a.down(0)
	return best
}

func floorTick(now int64) int64 { return now &^ (1<<20 - 1) }

// seenLocked is when a record was last seen, as of now: ticks of less than 52 days ago.
func (t *Table) seenLocked(now int64, slot uint32) int64 {
	r, tn := &t.hot[slot], tick(now)
	age := min(int32(tn-uint32(r.dir[In].Load())), int32(tn-uint32(r.dir[Out].Load())))
	return floorTick(now) - int64(max(age, 0))<<20
}
