package stack

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// deadline is one of a connection's two. When it passes it closes a channel, if somebody
// has asked for one, and pokes another, if its owner has one to wait for. The zero value
// never passes.
//
// HTTP moves it several times a request and it hardly ever passes, so it has one timer,
// which is only touched to fire earlier: when it fires too early it is set again.
type deadline struct {
	mu    sync.Mutex
	at    time.Time // zero: never
	fires time.Time // when timer does; zero: it does not
	timer *time.Timer
	over  atomic.Bool   // it has passed
	done  chan struct{} // closed when it has; nil as long as nobody has asked for it
	pokes chan struct{} // holds one token; nil: nobody waits for it
}

// set moves the deadline; the zero time means never.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = t
	if !d.over.Load() && (t.IsZero() || !d.fires.IsZero() && !t.Before(d.fires)) {
		return // no need to know the time: the timer looks at it
	}
	d.settleLocked()
}

// settleLocked passes the deadline or has it looked at again when it is due.
func (d *deadline) settleLocked() {
	left := time.Duration(math.MaxInt64)
	if !d.at.IsZero() {
		left = time.Until(d.at)
	}
	if left <= 0 {
		if !d.over.Swap(true) {
			if d.done != nil {
				close(d.done)
			}
			if d.pokes != nil {
				poke(d.pokes)
			}
		}
		return
	}
	if d.over.Swap(false) {
		d.done = nil
	}
	d.armLocked(left)
}

// armLocked has the timer fire by the time the deadline passes.
func (d *deadline) armLocked(left time.Duration) {
	switch {
	case d.at.IsZero():
		return
	case d.timer == nil:
		d.timer = time.AfterFunc(left, d.fire)
	case d.fires.IsZero() || d.at.Before(d.fires):
		d.timer.Reset(left)
	default:
		return
	}
	d.fires = d.at
}

func (d *deadline) fire() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fires = time.Time{}
	d.settleLocked()
}

// drop lets go of the timer, of which its owner has no more need.
func (d *deadline) drop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at, d.fires = time.Time{}, time.Time{}
	if d.timer != nil {
		d.timer.Stop()
	}
}

// wait is the channel to wait for. A set moves the deadline of those who wait
// already: it keeps their channel unless that has been closed.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done == nil {
		d.done = make(chan struct{})
		if d.over.Load() {
			close(d.done)
		}
	}
	return d.done
}

// passed reports whether the deadline is over.
func (d *deadline) passed() bool { return d.over.Load() }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
