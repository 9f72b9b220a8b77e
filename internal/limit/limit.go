// Package limit is a token bucket by the clock of the packets, which is read once a
// batch: those of two queues may come in any order of their times.
package limit

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Limit lets so many through a second, and a burst at once. Any goroutine may use it.
// One too many costs a look at next: a flood asks far more often than it is let through.
type Limit struct {
	next   atomic.Int64 // nothing passes before; 0: not known
	mu     sync.Mutex
	bucket *rate.Limiter
	latest int64 // time never goes back: rate.Limiter would grant what lies between twice
}

// New makes a limit whose bucket is full.
func New(perSecond, burst int) *Limit {
	return &Limit{bucket: rate.NewLimiter(rate.Limit(perSecond), burst)}
}

// Take reports whether one more may pass at now, in ns.
func (l *Limit) Take(now int64) bool {
	if now < l.next.Load() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.latest = max(l.latest, now)
	at := time.Unix(0, l.latest)
	if l.bucket.AllowN(at, 1) {
		l.next.Store(0)
		return true
	}
	missing := (1 - l.bucket.TokensAt(at)) / float64(l.bucket.Limit())
	l.next.Store(l.latest + int64(missing*float64(time.Second)))
	return false
}
