// Package codel is the control law of CoDel (RFC 8289, section 5): it looks at how long
// packets have waited when they leave a queue. As long as any wait within an interval
// was below the target, the queue only absorbs bursts; when none was, it is a standing
// queue, and packets are dropped at its head, at first one an interval, then ever more
// often, until waits are below the target again.
//
// It has no queue, no packets and no clock: a port's queue (package demux) and a link's
// (package impair) tell it of each packet that leaves.
package codel

import (
	"math"
	"time"
)

// Defaults (RFC 8289, 4.2 and 4.3).
const (
	DefaultTarget   = 5 * time.Millisecond
	DefaultInterval = 100 * time.Millisecond
)

// Law is the state of one queue. Its names are the RFC's. It is not safe for
// concurrent use.
type Law struct {
	Target   time.Duration // the wait that is tolerated for good
	Interval time.Duration // how long the queue has for coming below it

	firstAbove int64 // when the wait will have been above the target for an interval; 0: it is not above
	dropNext   int64
	count      uint32 // dropped since dropping began
	lastCount  uint32 // count as the present cycle of dropping began
	dropping   bool
	step       step
}

// step is where within deque() of the RFC the last packet left the law: a packet after
// one that was dropped is not judged as the first of a call.
type step uint8

const (
	between step = iota // no call is under way
	entered             // the packet that began the dropping was dropped
	dropped             // one whose time had come was
)

// Verdict is what becomes of a packet that leaves its queue.
type Verdict uint8

// The verdicts.
const (
	Pass  Verdict = iota
	Drop          // the next one is to be judged at the same time
	Begin         // Drop, and 16 intervals went by without: the queue has come to stand
)

// Judge judges the packet that leaves at now and came at since, in ns of one clock.
// short says that no more than one full packet is left behind it: that is no standing
// queue, and so the last packet is never dropped. Who is told to drop judges the next
// packet, at the same now.
func (l *Law) Judge(now, since int64, short bool) Verdict {
	old, was := l.okToDrop(now, since, short), l.step
	l.step = between
	switch {
	case was == entered: // passes, however old
		return Pass
	case !old:
		l.dropping = false
		return Pass
	case !l.dropping:
		return l.enter(now)
	case was == dropped: // and not before: when the next is not old, dropNext stays
		l.dropNext = l.after(l.dropNext)
	}
	if now < l.dropNext {
		return Pass
	}
	l.count++
	l.step = dropped
	return Drop
}

// okToDrop is what dodequeue() says of a packet: for an interval, all had waited for
// too long.
func (l *Law) okToDrop(now, since int64, short bool) bool {
	switch {
	case now-since < int64(l.Target) || short:
		l.firstAbove = 0
	case l.firstAbove == 0:
		l.firstAbove = now + int64(l.Interval)
	default:
		return now >= l.firstAbove
	}
	return false
}

// enter begins to drop. When that ended a moment ago, the rate that controlled the queue
// then is where to begin.
func (l *Law) enter(now int64) Verdict {
	v := Drop
	if l.dropNext == 0 || now-l.dropNext >= 16*int64(l.Interval) {
		v = Begin
	}
	delta := l.count - l.lastCount
	l.count = 1
	if delta > 1 && v == Drop {
		l.count = delta
	}
	l.dropping, l.lastCount, l.step = true, l.count, entered
	l.dropNext = l.after(now)
	return v
}

// after is control_law(): drops come closer by the square root of their number, so that
// a flow that heeds them slows down linearly.
func (l *Law) after(t int64) int64 {
	return t + int64(float64(l.Interval)/math.Sqrt(float64(l.count)))
}
