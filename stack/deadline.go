package stack

import (
	"sync"
	"time"
)

// deadline is one of a connection's two: a channel that is closed when it passes.
// The zero value never passes.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	done  chan struct{}
}

// set moves the deadline; the zero time means never.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.done // it has fired: wait until it has closed the channel
	}
	d.timer = nil
	passed := d.done != nil && isClosed(d.done)
	if t.IsZero() {
		if passed {
			d.done = nil
		}
		return
	}
	if passed || d.done == nil {
		d.done = make(chan struct{})
	}
	done := d.done
	if left := time.Until(t); left > 0 {
		d.timer = time.AfterFunc(left, func() { close(done) })
	} else {
		close(done)
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
