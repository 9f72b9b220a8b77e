package impair

import (
	"cmp"
	"math"
	"math/rand/v2"

	"porthole/internal/codel"
)

// Bounds are the most packets and bytes that a line may hold whatever its rules say.
type Bounds struct{ Packets, Bytes int }

// DefaultBounds are some seconds of a fast link.
var DefaultBounds = Bounds{Packets: 32768, Bytes: 64 << 20}

// mtu is the backlog at which CoDel loses no packet: one full one.
const mtu = 1514

// Never is a time that does not come.
const Never = math.MaxInt64

// Line is one direction of a link under rules: the queue that waits for the rate, and
// behind it the packets in the delay. It holds what Push was given until Pop gives it
// back. Times are ns of the caller's clock, which never goes back. A Line is not safe
// for concurrent use.
//
// Each chance has a random sequence of its own, so that a packet is lost or not under
// one seed whatever other rules stand beside.
type Line[T any] struct {
	rules  Rules
	bounds Bounds

	loss, corrupt, duplicate, jitter, reorder *rand.Rand

	bad  bool // state of the Gilbert-Elliott model
	syns int  // SYNs dropped
	gap  int  // packets delayed since the last one that was reordered

	queue  fifo[T] // wait for the rate
	aging  codel.Law
	free   int64 // when the packet on the wire has left it
	flight flight[T]
	last   int64 // latest time to leave: behind a rate nothing overtakes

	stats Stats
}

// Stats count packets. Law: Arrived + Duplicated = Passed + Dropped() + Waiting.
type Stats struct {
	Arrived      uint64 `json:"arrived"` // copies not counted
	Passed       uint64 `json:"passed"`  // let through, copies too
	Lost         uint64 `json:"lost"`
	SYNDropped   uint64 `json:"syn_dropped"`
	OverLimit    uint64 `json:"over_limit"` // the queue, or the delay, was full
	Aged         uint64 `json:"aged"`       // by CoDel
	Corrupted    uint64 `json:"corrupted"`
	Duplicated   uint64 `json:"duplicated"`
	Delayed      uint64 `json:"delayed"`
	Reordered    uint64 `json:"reordered"`
	Queued       uint64 `json:"queued"`  // waited for the rate
	Waiting      int    `json:"waiting"` // now: in the queue and in the delay
	WaitingBytes int    `json:"waiting_bytes"`
	High         int    `json:"high_water"` // most that waited for the rate at once
}

// Dropped is all that was not let through.
func (s *Stats) Dropped() uint64 { return s.Lost + s.SYNDropped + s.OverLimit + s.Aged }

// Item is a packet that comes out of a line.
type Item[T any] struct {
	V     T
	Size  int
	Fault Fault // the rules that touched it; when it was Dropped, V is the caller's to throw away
	Due   int64 // when it left
	Since int64 // when it was pushed
}

// NewLine makes a line; the rules' own seed counts for nothing here.
func NewLine[T any](r Rules, seed uint64, b Bounds) *Line[T] {
	l := &Line[T]{rules: r, bounds: b, aging: r.aging()}
	l.Reseed(seed)
	return l
}

// Reseed begins the random sequences anew.
func (l *Line[T]) Reseed(seed uint64) {
	for i, s := range []**rand.Rand{&l.loss, &l.corrupt, &l.duplicate, &l.jitter, &l.reorder} {
		*s = rand.New(rand.NewPCG(seed, uint64(i)))
	}
}

// Rules are those in force.
func (l *Line[T]) Rules() Rules { return l.rules }

// Stats are a snapshot.
func (l *Line[T]) Stats() Stats {
	s := l.stats
	s.Waiting, s.WaitingBytes = l.Len(), l.queue.bytes+l.flight.bytes
	return s
}

// Len is how many packets wait.
func (l *Line[T]) Len() int { return l.queue.len() + len(l.flight.items) }

// SetRules changes the rules at now. What waits keeps its turn: in a new rate when
// there is one, and no longer than a new delay would hold it. The random sequences go
// on (see Reseed); the count of SYNs begins anew.
func (l *Line[T]) SetRules(now int64, r Rules) {
	l.advance(now)
	if r.Policy != l.rules.Policy || r.Target != l.rules.Target || r.Interval != l.rules.Interval {
		l.aging = r.aging() // CoDel begins anew
	}
	l.rules, l.syns = r, 0
	most := now + int64(r.Delay) + 4*int64(r.Jitter)
	old := l.flight
	l.flight = flight[T]{}
	for len(old.items) > 0 {
		it := old.pop()
		it.due = min(it.due, most)
		l.flight.push(it)
	}
	if r.Rate == 0 {
		l.free = now
		for l.queue.len() > 0 {
			it := l.queue.pop()
			it.due = most
			l.flight.push(it)
		}
	}
	l.last = min(l.last, most)
}

// aging is CoDel under these rules; no other policy asks it.
func (r *Rules) aging() codel.Law {
	return codel.Law{Target: cmp.Or(r.Target, DefaultTarget), Interval: cmp.Or(r.Interval, DefaultInterval)}
}

// Verdict is what Judge says.
type Verdict struct {
	Fault Fault // Dropped: it never gets in. Corrupted: the caller turns a bit (Flip)
	Copy  bool  // push a copy, too, with Fault Duplicated, behind the packet
}

// Judge decides what befalls a packet as it comes. syn says that it is a TCP segment
// with the SYN flag.
func (l *Line[T]) Judge(syn bool) (v Verdict) {
	l.stats.Arrived++
	r := &l.rules
	if syn && l.syns < r.DropSYN {
		l.syns++
		l.stats.SYNDropped++
		return Verdict{Fault: SYNDropped}
	}
	if l.loses() {
		l.stats.Lost++
		return Verdict{Fault: Lost}
	}
	v.Copy = hits(l.duplicate, r.Duplicate)
	if hits(l.corrupt, r.Corrupt) {
		v.Fault = Corrupted
		l.stats.Corrupted++
	}
	return v
}

// loses draws for the loss. The Gilbert-Elliott model loses by the state that it is in,
// and then may change it.
func (l *Line[T]) loses() bool {
	g := &l.rules.GE
	if g.P == 0 {
		return hits(l.loss, l.rules.Loss)
	}
	loss, change := g.Good, g.P
	if l.bad {
		loss, change = g.Bad, g.R
	}
	lost := hits(l.loss, loss)
	if hits(l.loss, change) {
		l.bad = !l.bad
	}
	return lost
}

// hits draws once, but for chances that leave nothing to draw.
func hits(r *rand.Rand, percent float64) bool {
	return percent > 0 && (percent >= 100 || r.Float64()*100 < percent)
}

// Flip says which bit of a packet of size bytes, one at least, a corruption turns: as
// netem does, one alone and anywhere.
func (l *Line[T]) Flip(size int) (at int, mask byte) {
	bit := l.corrupt.Uint64N(uint64(size) * 8)
	return int(bit / 8), 1 << (bit % 8)
}

// Push lets a packet in that Judge let pass, with its fault so far. It returns the
// fault with which it was refused, or without a drop: the line has it until Pop.
func (l *Line[T]) Push(now int64, v T, size int, f Fault) Fault {
	l.advance(now)
	if f&Duplicated != 0 {
		l.stats.Duplicated++
	}
	if l.full(now, size) {
		l.stats.OverLimit++
		return f | OverLimit
	}
	it := item[T]{v: v, size: size, since: now, fault: f}
	if l.rules.Rate == 0 {
		it.due = now
		l.depart(it)
		return f
	}
	l.queue.push(it)
	l.advance(now)
	l.stats.High = max(l.stats.High, l.queue.len())
	return f
}

// full reports whether one more packet of size bytes is too many: for the limit, which
// bounds what waits for the rate, or for the line as a whole.
func (l *Line[T]) full(now int64, size int) bool {
	r := &l.rules
	if l.Len() >= l.bounds.Packets || l.queue.bytes+l.flight.bytes+size > l.bounds.Bytes {
		return true
	}
	if !r.waits() {
		return false
	}
	n, bytes, limit := len(l.flight.items), l.flight.bytes, r.Limit
	if r.Rate > 0 {
		if n, bytes = l.queue.len(), l.queue.bytes; n == 0 && l.free <= now {
			return false // straight on the wire
		}
		if limit == 0 {
			limit = DefaultLimit
		}
	}
	return limit > 0 && n >= limit || r.LimitBytes > 0 && bytes+size > r.LimitBytes
}

// advance brings the rate up to now: each packet whose turn came goes on the wire when
// the one before has left it, and into the delay when it has left it itself. That
// nobody looked at the line meanwhile makes no difference.
func (l *Line[T]) advance(now int64) {
	for l.queue.len() > 0 {
		start := max(l.free, l.queue.first().since)
		if start > now {
			return
		}
		it := l.queue.pop()
		if l.rules.Policy == CoDelPolicy && l.aging.Judge(start, it.since, l.queue.bytes <= mtu) != codel.Pass {
			it.fault |= Aged
			it.due = start
			l.flight.push(it)
			continue
		}
		if start > it.since {
			it.fault |= Queued
			l.stats.Queued++
		}
		l.free = start + int64(l.rules.Rate.Time(it.size))
		it.due = l.free
		l.depart(it)
	}
}

// depart puts a packet that leaves at it.due into the delay.
func (l *Line[T]) depart(it item[T]) {
	d, skips := l.delay()
	switch {
	case skips:
		it.fault |= Reordered
		l.stats.Reordered++
	case d > 0:
		it.fault |= Delayed
		l.stats.Delayed++
		it.due += d
	}
	if l.rules.Rate > 0 && !skips { // netem's, too, keeps the order behind a rate
		it.due = max(it.due, l.last)
		l.last = it.due
	}
	l.flight.push(it)
}

// delay draws the next packet's, ns; skips says that it is reordered: it has none.
func (l *Line[T]) delay() (d int64, skips bool) {
	r := &l.rules
	if r.Delay == 0 && r.Jitter == 0 {
		return 0, false
	}
	if r.Reorder > 0 {
		if l.gap >= r.Gap-1 && hits(l.reorder, r.Reorder) {
			l.gap = 0
			return 0, true
		}
		l.gap++
	}
	if r.Jitter == 0 {
		return int64(r.Delay), false
	}
	return max(0, int64(r.Delay)+int64(spread(r.Distribution, l.jitter)*float64(r.Jitter))), false
}

// spread draws how far a delay is from its mean, in jitters.
func spread(d Distribution, r *rand.Rand) float64 {
	switch d {
	case Normal:
		return min(max(r.NormFloat64(), -4), 4)
	case Pareto:
		// Shape 3 and least 1, so mean 1.5; scaled as netem's table is.
		return min((math.Pow(1-r.Float64(), -1.0/3)-1.5)*4/3, 4)
	}
	return 2*r.Float64() - 1
}

// Pop gives a packet whose time has come by now, the earliest first, or one that the
// queue's policy has dropped meanwhile.
func (l *Line[T]) Pop(now int64) (it Item[T], ok bool) {
	l.advance(now)
	if len(l.flight.items) == 0 || l.flight.items[0].due > now {
		return it, false
	}
	return l.out(l.flight.pop()), true
}

// Next is when to Pop again, and by then something has left, or may have; Never when
// nothing waits. What CoDel drops is no reason to look.
func (l *Line[T]) Next() int64 {
	next := int64(Never)
	if len(l.flight.items) > 0 {
		next = l.flight.items[0].due
	}
	// What waits for the rate leaves behind what went before it, but for what skips the
	// delay, or finds packets there that came under rules with a longer one.
	if l.queue.len() > 0 && (l.rules.Reorder > 0 || next > l.last) {
		next = min(next, max(l.free, l.queue.first().since))
	}
	return next
}

// Drain takes out a packet whatever its time, for who ends the line: ok is false when
// none is left. It counts as passed.
func (l *Line[T]) Drain() (it Item[T], ok bool) {
	switch {
	case len(l.flight.items) > 0:
		return l.out(l.flight.pop()), true
	case l.queue.len() > 0:
		return l.out(l.queue.pop()), true
	}
	return it, false
}

func (l *Line[T]) out(it item[T]) Item[T] {
	if it.fault.Dropped() {
		l.stats.Aged++
	} else {
		l.stats.Passed++
	}
	return Item[T]{V: it.v, Size: it.size, Fault: it.fault, Due: it.due, Since: it.since}
}
