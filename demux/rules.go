package demux

import (
	"container/heap"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"porthole/impair"
)

// The rules of a port stand between the verdict and the queue: what they drop has the
// fate fault-injected, what they hold back has arrived and counts as queued, and comes
// into the queue when its time has come, where the port's limits apply. They hold
// rulesBounds at most, and less when packet memory is scarce. Who brings a packet takes
// out what is due at once; one goroutine, ReleaseDelayed, does so later. Only one of
// them at a time takes from one port (busy), so that order is kept.

// rulesBounds are the most packets and bytes that one port's rules hold back.
var rulesBounds = impair.Bounds{Packets: 4096, Bytes: 8 << 20}

// portRules are the rules of one port; guarded by the line's mutex.
type portRules struct {
	line  *impair.Line[uint32] // of slot handles
	busy  bool                 // somebody takes out what is due
	armed int64                // the earliest time at which ReleaseDelayed will look here; impair.Never: it will not
}

// delays says when which port has something due.
type delays struct {
	t     *Table
	ports atomic.Int32 // that are impaired
	clock func() int64
	in    *Ingress // by which packets go on; used under its inject
	wake  chan struct{}
	quit  chan struct{}
	once  sync.Once

	mu  sync.Mutex
	due dueHeap
}

type dueAt struct {
	at   int64
	port Port
}

// dueHeap has the earliest first. A port is in it again only for an earlier time.
type dueHeap []dueAt

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(dueAt)) }
func (h *dueHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

func (d *delays) init(t *Table) {
	d.t, d.wake, d.quit = t, make(chan struct{}, 1), make(chan struct{})
	if d.clock = t.now; d.clock == nil {
		start := time.Now()
		d.clock = func() int64 { return int64(time.Since(start)) }
	}
	d.in = t.newIngress(Duplicated, 1) // nothing arrives here: all of it has
	d.in.slow, d.in.releasing = true, true
}

func (d *delays) stop() { d.once.Do(func() { close(d.quit) }) }

// arm makes ReleaseDelayed look at a port at that time.
func (d *delays) arm(p Port, at int64) {
	d.mu.Lock()
	first := len(d.due) == 0 || at < d.due[0].at
	heap.Push(&d.due, dueAt{at, p})
	d.mu.Unlock()
	if first {
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
}

// SetRules puts what arrives at a bound TCP or UDP port under rules, while packets
// pass; zero rules let all through that they have held back. The seed is for rules
// that bring none.
func (t *Table) SetRules(p Port, r impair.Rules, seed uint64) error {
	l := &t.lines[p]
	l.mu.Lock()
	st := l.state
	if st&bound == 0 || p.IsLane() {
		l.mu.Unlock()
		return fmt.Errorf("set rules of %v: not bound", p)
	}
	co := t.cold[p].Load()
	if co.rules == nil && r.IsZero() {
		l.mu.Unlock()
		return nil
	}
	if r.Seed != 0 {
		seed = r.Seed
	}
	if co.rules == nil {
		co.rules = &portRules{line: impair.NewLine[uint32](r, seed, rulesBounds), armed: impair.Never}
	} else {
		co.rules.line.SetRules(t.delays.clock(), r)
		co.rules.line.Reseed(seed)
	}
	if st&impaired == 0 {
		l.state = st | impaired
		t.delays.ports.Add(1)
	}
	l.mu.Unlock()
	t.release(p, notTimed)
	return nil
}

// unruleLocked forgets a port's rules. What they held is gone already.
func (t *Table) unruleLocked(l *line, co *cold) {
	co.rules = nil
	if l.state&impaired != 0 {
		l.state &^= impaired
		t.delays.ports.Add(-1)
	}
}

// arriveAllLocked puts all that a port's rules hold behind its queue, whatever its
// limits: it is emptied then.
func (t *Table) arriveAllLocked(l *line, co *cold) {
	if co.rules == nil {
		return
	}
	for it, ok := co.rules.line.Drain(); ok; it, ok = co.rules.line.Drain() {
		r := ref{t.pool.slot(it.V), it.V}
		r.s.mark = it.Fault
		l.arrived++
		co.waits[r.s.kind]--
		co.kinds[r.s.kind]++
		l.appendLocked(t.pool, chain{first: r.h, last: r, n: 1, bytes: r.s.charge})
	}
}

// divert sends frame i, one packet, through the rules of its port.
func (in *Ingress) divert(p Port, i int) {
	t, r := in.t, in.slots[i]
	l := &t.lines[p]
	l.mu.Lock()
	if l.state&impaired == 0 { // no longer
		l.mu.Unlock()
		in.push(p, i, i+1)
		in.flush()
		return
	}
	line := t.cold[p].Load().rules.line
	v := line.Judge(r.s.info.TCPFlags&2 != 0) // zero but for TCP
	at, mask := 0, byte(0)
	if v.Fault&impair.Corrupted != 0 {
		at, mask = line.Flip(int(r.s.info.Length))
	}
	l.mu.Unlock()
	if v.Fault.Dropped() {
		r.s.mark |= v.Fault
		in.lose(p, i, FaultInjected)
		return
	}
	twin, copied := ref{}, false
	if v.Copy {
		twin, copied = in.twin(r)
	}
	if v.Fault&impair.Corrupted != 0 {
		in.corrupt(p, i, at, mask)
	} else {
		in.hold(p, i)
	}
	if copied {
		in.arrived++
		in.odd[Duplicated]++
		was := in.slots[i]
		in.slots[i] = twin
		in.hold(p, i)
		in.freeAt(i)
		in.slots[i] = was
	}
}

// twin is a copy of a packet, when there is memory for one.
func (in *Ingress) twin(r ref) (c ref, ok bool) {
	var one [1]ref
	n, scarce := in.t.pool.take(one[:])
	if in.scarce = scarce; n == 0 {
		return c, false
	}
	c = one[0]
	*c.s = *r.s
	c.s.kind, c.s.mark, c.s.more = Duplicated, impair.Duplicated, 0
	if r.s.more != 0 {
		in.t.pool.setTail(c, Tail{Bytes: append([]byte(nil), in.rest(r)...)})
	}
	return c, true
}

// corrupt turns a bit of frame i, whose checksums nobody vouches for from then on, and
// judges it anew: as a rule it is its checksum that is wrong.
func (in *Ingress) corrupt(p Port, i, at int, mask byte) {
	t, r := in.t, in.slots[i]
	if ip := r.s.room[r.s.l2:r.s.headLen]; at < len(ip) {
		ip[at] ^= mask
	} else if rest := in.rest(r); at-len(ip) < len(rest) {
		rest[at-len(ip)] ^= mask
	}
	r.s.mark |= impair.Corrupted
	r.s.off = Offload{}
	q, f := in.classify(r, t.addrs.Load(), r.s.at)
	switch in.line[i] = q; q {
	case p:
		in.hold(p, i)
	case LaneHost:
		in.fate[i] = f
		in.count(i, i+1)
	default:
		in.push(q, i, i+1)
		in.flush()
	}
}

// hold lets frame i, which is not lost, into the rules' queue and delay, and takes out
// what is due.
func (in *Ingress) hold(p Port, i int) {
	t, r := in.t, in.slots[i]
	if in.spareN == 0 {
		in.spareN, in.scarce = t.pool.take(in.spare[:BatchSize/4])
	}
	l := &t.lines[p]
	l.mu.Lock()
	if l.state&impaired == 0 {
		l.mu.Unlock()
		in.push(p, i, i+1)
		in.flush()
		return
	}
	co := t.cold[p].Load()
	line := co.rules.line
	if in.spareN == 0 || in.scarce && line.Len() >= littlePackets ||
		r.s.more != 0 && !t.pool.grantsTail(math.MaxUint32, in.scarce) {
		l.mu.Unlock()
		in.lose(p, i, NoBuffer)
		return
	}
	r.s.mark = line.Push(t.delays.clock(), r.h, int(r.s.info.Length), r.s.mark)
	if r.s.mark.Dropped() {
		l.mu.Unlock()
		in.lose(p, i, FaultInjected)
		return
	}
	co.waits[r.s.kind]++
	in.spareN--
	in.slots[i] = in.spare[in.spareN]
	l.mu.Unlock()
	in.releaseDue(p, i, notTimed)
}

// releaseDue takes what is due out of a port's rules into its queue, in the place of
// frame i. at is the time for which it was armed, or notTimed.
func (in *Ingress) releaseDue(p Port, i int, at int64) {
	t := in.t
	l := &t.lines[p]
	var due [16]impair.Item[uint32]
	var mine *portRules // a port's next owner has others, and who made them releases for them
	for first := true; ; first = false {
		l.mu.Lock()
		rs := t.cold[p].Load().rules
		if first {
			mine = rs
		}
		if rs == nil || rs != mine { // the port was released, and perhaps bound again
			l.mu.Unlock()
			return
		}
		if first && at != notTimed {
			if at != rs.armed { // armed for an earlier time meanwhile, and looked at then
				l.mu.Unlock()
				return
			}
			rs.armed = impair.Never
		}
		if first && rs.busy { // who is busy looks again before it ends
			l.mu.Unlock()
			return
		}
		now, n := t.delays.clock(), 0
		for n < len(due) {
			it, ok := rs.line.Pop(now)
			if !ok {
				break
			}
			due[n] = it
			n++
		}
		rs.busy = n > 0
		if n == 0 {
			next := rs.line.Next()
			arm := next < rs.armed
			if arm {
				rs.armed = next
			}
			if r := rs.line.Rules(); next == impair.Never && r.IsZero() && l.state&impaired != 0 {
				l.state &^= impaired
				t.delays.ports.Add(-1)
			}
			l.mu.Unlock()
			if arm {
				t.delays.arm(p, next)
			}
			return
		}
		l.mu.Unlock()
		for _, it := range due[:n] {
			in.arrive(p, i, it)
		}
	}
}

// arrive puts a packet that comes out of its port's rules into the queue, in the place
// of frame i.
func (in *Ingress) arrive(p Port, i int, it impair.Item[uint32]) {
	t, was, releasing := in.t, in.slots[i], in.releasing
	r := ref{t.pool.slot(it.V), it.V}
	r.s.mark = it.Fault
	r.s.at = t.clock() // as if it came only now
	if in.spareN == 0 {
		in.spareN, in.scarce = t.pool.take(in.spare[:BatchSize/4])
	}
	in.slots[i], in.releasing = r, true
	if it.Fault.Dropped() { // by the policy of the rules' queue
		in.lose(p, i, FaultInjected)
	} else {
		in.push(p, i, i+1)
		in.flush()
	}
	in.freeAt(i)
	in.slots[i], in.releasing = was, releasing
}

// notTimed is for who looks at a port's rules because something has changed.
const notTimed = -1

// release takes what is due out of a port's rules, for who holds no batch.
func (t *Table) release(p Port, at int64) {
	in := t.delays.in
	in.inject.Lock()
	defer in.inject.Unlock()
	in.mu.Lock()
	in.watch = t.watch.Load()
	in.nr, in.nw, in.nrun = 0, 0, 0
	in.releaseDue(p, 0, at)
	in.mu.Unlock()
	if in.nr > 0 {
		t.rq.add(in.ready[:in.nr]...)
	}
	for _, co := range in.wakes[:in.nw] {
		co.signal()
	}
}

// ReleaseDelayed lets packets go on whose rules have held them back for long enough,
// until StopWork: the body of one goroutine.
func (t *Table) ReleaseDelayed() {
	d := &t.delays
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait := t.releaseUntilNow()
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-d.wake:
		case <-d.quit:
			return
		}
	}
}

// releaseUntilNow lets go on what is due, and says how long nothing else will be.
func (t *Table) releaseUntilNow() time.Duration {
	d := &t.delays
	for {
		d.mu.Lock()
		if len(d.due) == 0 {
			d.mu.Unlock()
			return math.MaxInt64
		}
		if wait := d.due[0].at - d.clock(); wait > 0 {
			d.mu.Unlock()
			return time.Duration(wait)
		}
		next := heap.Pop(&d.due).(dueAt)
		d.mu.Unlock()
		t.release(next.port, next.at)
	}
}
