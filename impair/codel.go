package impair

import (
	"cmp"
	"math"
)

// codel decides at the head of the queue which packets have made it stand for too
// long: RFC 8289, section 5, whose names it keeps. Times are ns.
type codel struct {
	firstAbove int64 // when the sojourn time will have been above target for an interval; 0: it is below
	dropNext   int64
	count      int
	lastCount  int
	dropping   bool
}

// mtu is the backlog at which no packet is lost for its age: one full packet.
const mtu = 1514

// tooOld is should_drop of the RFC: whether the packet that leaves the queue now has
// stood for long enough, behind queued bytes. now is when it leaves.
func (c *codel) tooOld(now, since int64, queued int, r *Rules) bool {
	if now-since < r.target() || queued <= mtu {
		c.firstAbove = 0
		return false
	}
	if c.firstAbove == 0 {
		c.firstAbove = now + r.interval()
		return false
	}
	return now >= c.firstAbove
}

// loses reports whether the packet that leaves the queue at now is lost. After a loss
// it is asked again for the next one, at the same now.
func (c *codel) loses(now, since int64, queued int, r *Rules) bool {
	old := c.tooOld(now, since, queued, r)
	switch {
	case !old:
		c.dropping = false
	case c.dropping:
		if now < c.dropNext {
			return false
		}
		c.count++
		c.dropNext = controlLaw(c.dropNext, c.count, r)
		return true
	default:
		c.enter(now, r)
		return true
	}
	return false
}

// enter begins to drop, at the rate that held the queue the last time when that is not
// long ago (RFC 8289, 5.4).
func (c *codel) enter(now int64, r *Rules) {
	c.dropping = true
	delta := c.count - c.lastCount
	c.count = 1
	if delta > 1 && now-c.dropNext < 16*r.interval() {
		c.count = delta
	}
	c.dropNext = controlLaw(now, c.count, r)
	c.lastCount = c.count
}

func controlLaw(t int64, count int, r *Rules) int64 {
	return t + int64(float64(r.interval())/math.Sqrt(float64(count)))
}

func (r *Rules) target() int64 { return int64(cmp.Or(r.Target, DefaultTarget)) }

func (r *Rules) interval() int64 { return int64(cmp.Or(r.Interval, DefaultInterval)) }
