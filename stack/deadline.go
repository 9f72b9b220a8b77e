package stack

import (
	"math"
	"sync"
	"time"
)

// deadline is one of a connection's two: a channel that is closed when it passes.
// The zero value never passes.
//
// HTTP moves it several times a request and it hardly ever passes, so it has one timer,
// which is only touched to fire earlier: when it fires too early it is set again.
type deadline struct {
	mu    sync.Mutex
	at    time.Time // zero: never
	fires time.Time // when timer does; zero: it does not
	timer *time.Timer
	done  chan struct{} // nil as long as nobody has asked for it
}

// set moves the deadline; the zero time means never.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = t
	d.settleLocked()
}

// settleLocked passes the deadline or has it looked at again when it is due.
func (d *deadline) settleLocked() {
	left := time.Duration(math.MaxInt64)
	if !d.at.IsZero() {
		left = time.Until(d.at)
	}
	passed := d.done != nil && isClosed(d.done)
	switch {
	case left <= 0 && passed:
	case left <= 0:
		if d.done == nil {
			d.done = make(chan struct{})
		}
		close(d.done)
	case passed:
		d.done = nil
		fallthrough
	default:
		d.armLocked(left)
	}
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
	}
	return d.done
}

// passed reports whether the deadline is over.
func (d *deadline) passed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.done != nil && isClosed(d.done)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
