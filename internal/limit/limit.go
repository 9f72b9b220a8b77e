// Package limit is a token bucket by the clock of the packets, which is read once a
// batch: those of two queues may come in any order of their times.
package limit

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limit lets so many through a second, and a burst at once. Any goroutine may use it.
type Limit struct {
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
	l.mu.Lock()
	defer l.mu.Unlock()
	l.latest = max(l.latest, now)
	return l.bucket.AllowN(time.Unix(0, l.latest), 1)
}
