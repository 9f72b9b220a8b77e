package demux

import (
	"errors"
	"fmt"
	"time"

	"porthole/internal/codel"
)

// Discipline names what a socket port's queue does when more comes than its owner
// takes.
type Discipline uint8

// The disciplines. None of them loses what is queued when it is chosen.
const (
	TailDrop Discipline = iota // the newest packet finds no place: queue-full
	HeadDrop                   // the oldest make place for it: head-drop each
	CoDel                      // RFC 8289: whoever waited too long, for too long, goes when it is taken: codel-drop; a full queue drops its tail
	numDisciplines
)

func (d Discipline) String() string {
	return [...]string{"tail-drop", "head-drop", "codel"}[d]
}

// Disciplines lists them all.
func Disciplines() []Discipline { return []Discipline{TailDrop, HeadDrop, CoDel} }

// ParseDiscipline finds one by its name.
func ParseDiscipline(name string) (Discipline, bool) {
	for d := range numDisciplines {
		if d.String() == name {
			return d, true
		}
	}
	return 0, false
}

// Policy is a discipline and what it needs to know. The zero value is tail drop.
type Policy struct {
	Discipline Discipline
	// Target is the wait that CoDel tolerates for good, Interval how long the queue
	// has for coming below it. Zero fields take the defaults. Others ignore them.
	Target, Interval time.Duration
}

// CoDel's defaults.
const (
	DefaultTarget   = codel.DefaultTarget
	DefaultInterval = codel.DefaultInterval
)

// complete gives a policy the defaults that it does not name, and takes away what its
// discipline has no use for, so that two are the same when they do the same.
func (p Policy) complete() Policy {
	if p.Discipline != CoDel {
		return Policy{Discipline: p.Discipline}
	}
	if p.Target <= 0 {
		p.Target = DefaultTarget
	}
	if p.Interval <= 0 {
		p.Interval = DefaultInterval
	}
	return p
}

// errNoClock: waits cannot be told without times of arrival.
var errNoClock = errors.New("codel needs a clock, Options.Now")

// mayHave reports why a port cannot have a policy.
func (t *Table) mayHave(p Port, pol Policy, isSocket bool) error {
	switch {
	case pol.Discipline >= numDisciplines:
		return fmt.Errorf("set policy of %v: no discipline %d", p, pol.Discipline)
	case pol.Discipline != TailDrop && !isSocket:
		return fmt.Errorf("set policy of %v: only a socket's queue has one; workers serve this", p)
	case pol.Discipline == CoDel && t.now == nil:
		return fmt.Errorf("set policy of %v: %w", p, errNoClock)
	}
	return nil
}

// SetPolicy changes what a socket port's queue loses, while packets are in it: none of
// them is lost by that. CoDel begins anew, with those that are queued as long as they
// have been.
func (t *Table) SetPolicy(p Port, pol Policy) error {
	l := &t.lines[p]
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.state
	if st&bound == 0 {
		return fmt.Errorf("set policy of %v: not bound", p)
	}
	if err := t.mayHave(p, pol, st&socket != 0); err != nil {
		return err
	}
	t.policyLocked(l, t.cold[p].Load(), pol)
	t.log.Add(Event{Type: PolicySet, Port: p, Who: pol.complete().String()})
	return nil
}

// policyLocked gives a line a policy that it may have.
func (t *Table) policyLocked(l *line, co *cold, pol Policy) {
	pol = pol.complete()
	st := l.state &^ (headDrop | coDel)
	co.codel = nil
	switch pol.Discipline {
	case HeadDrop:
		st |= headDrop
	case CoDel:
		st |= coDel
		co.codel = newAging(pol)
	}
	l.state = st
}

// policyOf is a line's policy.
func (l *line) policyOf(co *cold) Policy {
	switch st := l.state; {
	case st&headDrop != 0:
		return Policy{Discipline: HeadDrop}
	case st&coDel != 0:
		return Policy{Discipline: CoDel, Target: co.codel.Target, Interval: co.codel.Interval}
	}
	return Policy{}
}

// String is the discipline and, of CoDel, its times: "codel target=5ms interval=100ms".
func (p Policy) String() string {
	if p = p.complete(); p.Discipline == CoDel {
		return fmt.Sprintf("codel target=%v interval=%v", p.Target, p.Interval)
	}
	return p.Discipline.String()
}

// makeRoom drops the oldest packets of a queue until one of that charge fits. Their
// slots take the place of the one that leaves the batch. False: that would not help,
// for it is memory that is short, or the packet is larger than the queue may ever be.
func (in *Ingress) makeRoom(p Port, l *line, r ref) bool {
	t, co := in.t, in.t.cold[p].Load()
	charge := r.s.charge
	if l.admit(charge) || charge > l.maxBytes || r.s.more != 0 && !t.pool.grantsTail(l.bytes, in.scarce) {
		return false
	}
	l.high = max(l.high, l.n)
	most := l.maxN.Load()
	if in.scarce {
		most = min(most, littlePackets)
	}
	for l.n > 0 && (l.n >= most || l.bytes+charge > l.maxBytes) {
		old := l.popLocked(t.pool)
		t.lostLocked(p, l, co, old, HeadDropped, r.s.at)
		if l.state&full == 0 {
			l.state |= full
			t.log.Add(Event{Type: QueueFilled, Port: p, Fate: HeadDropped, Count: uint64(l.n) + 1})
		}
		if in.spareN < len(in.spare) {
			in.spare[in.spareN] = old
			in.spareN++
		} else {
			t.pool.give(old.h, old.s, 1)
		}
	}
	return l.admit(charge) // not beside all that a reader holds
}

// lostLocked gives a packet that was just taken out of a queue a dropping fate, and
// lets go of its tail.
func (t *Table) lostLocked(p Port, l *line, co *cold, r ref, f Fate, now int64) {
	co.fates[f]++
	if w := t.watch.Load(); w != nil {
		w.In(t.packet(r.h, r.s), Sight{Line: p, Fate: f, Now: now})
	}
	if t.tap != nil {
		t.tap(p, t.packet(r.h, r.s), f, l.n+1, l.maxN.Load(), l.bytes+r.s.charge, l.maxBytes)
	}
	t.pool.dropTail(r)
}
