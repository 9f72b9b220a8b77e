package tun

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"porthole/impair"
)

// Shaper is a way out to a device under rules. While it has none, a Write is the
// device's. Else frames are copied and cut into packets; what the rules drop is counted
// and lost, as on a wire; what they hold waits in a line, and one goroutine, which is
// there while something waits, writes it when its time comes. Bounded by the line: what
// is too much is dropped there. Who writes waits for the device only where rules hold
// nothing (loss, duplicate, corrupt).
type Shaper struct {
	dev   Device
	l2    int
	start time.Time
	on    atomic.Bool // Write goes through the line
	quit  chan struct{}
	wake  chan struct{} // one token: look at the line again
	sends sync.WaitGroup

	mu      sync.Mutex
	line    *impair.Line[*pkt]
	sending bool  // the goroutine is there
	next    int64 // when it looks at the line again
	closed  bool
	refused uint64
	stopped uint64
}

// ShaperStats are of a Shaper.
type ShaperStats struct {
	impair.Stats
	Refused uint64 `json:"refused"` // let through, and not taken by the device
	Stopped uint64 `json:"stopped"` // waited when it was closed
}

// NewShaper makes a way out to dev, which stays the caller's. seed is for rules that
// bring none.
func NewShaper(dev Device, r impair.Rules, seed uint64) *Shaper {
	facts := dev.Facts()
	s := &Shaper{dev: dev, l2: facts.linkLen(), start: time.Now(), quit: make(chan struct{}), wake: make(chan struct{}, 1)}
	s.setLocked(r, seed)
	return s
}

func (s *Shaper) now() int64 { return int64(time.Since(s.start)) }

// SetRules changes the rules. What waits keeps its turn; without rules it leaves at
// once.
func (s *Shaper) SetRules(r impair.Rules, seed uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setLocked(r, seed)
	s.wakeUp()
}

func (s *Shaper) setLocked(r impair.Rules, seed uint64) {
	s.line = renew(s.line, s.now(), r, seed)
	if !r.IsZero() {
		s.on.Store(true)
	} else if !s.sending && s.line.Len() == 0 {
		s.on.Store(false)
	}
}

// renew changes a line's rules, or makes the line. A seed in the rules begins its
// sequence anew.
func renew(l *impair.Line[*pkt], now int64, r impair.Rules, seed uint64) *impair.Line[*pkt] {
	if r.Seed != 0 {
		seed = r.Seed
	}
	if l == nil {
		return impair.NewLine[*pkt](r, seed, impair.DefaultBounds)
	}
	l.SetRules(now, r)
	l.Reseed(seed)
	return l
}

// Rules are those in force.
func (s *Shaper) Rules() impair.Rules {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.line.Rules()
}

// Stats are a snapshot.
func (s *Shaper) Stats() ShaperStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ShaperStats{s.line.Stats(), s.refused, s.stopped}
}

func (s *Shaper) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Write is Device.Write. Frames that the rules hold or drop count as taken.
func (s *Shaper) Write(queue int, frames []Out, wait bool) (int, error) {
	if !s.on.Load() {
		return s.dev.Write(queue, frames, wait)
	}
	for i := range frames {
		if err := s.send(queue, &frames[i], wait); err != nil {
			return i, err
		}
	}
	return len(frames), nil
}

// send puts one frame through the line. With rules that hold nothing its packets are
// written here and now.
func (s *Shaper) send(queue int, f *Out, wait bool) error {
	whole := larges.Get().(*[maxIP + 32]byte)
	defer larges.Put(whole)
	if f.length() > len(whole) {
		return ErrTooLong
	}
	b := whole[:f.gather(whole[:])]
	var through []*pkt
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return os.ErrClosed
	}
	now := s.now()
	cut(b, nil, &f.Offload, s.l2, func(p *pkt) {
		p.queue = queue
		p.offer(s.line, now, s.l2, (*pkt).free) // dropped, and counted by the line
	})
	if !s.sending {
		for it, ok := s.line.Pop(now); ok; it, ok = s.line.Pop(now) {
			if it.Fault.Dropped() {
				it.V.free()
			} else {
				through = append(through, it.V)
			}
		}
		if s.line.Len() > 0 {
			s.sending = true
			s.sends.Go(s.sendLoop)
		}
	} else if s.line.Next() < s.next {
		s.wakeUp()
	}
	s.mu.Unlock()
	return s.write(through, wait)
}

// write hands packets to the device. An error is of the first one, and then nothing
// was written: who has no time (wait is false) may try again. Later ones are counted.
func (s *Shaper) write(ps []*pkt, wait bool) (err error) {
	for i, p := range ps {
		n, werr := s.dev.Write(p.queue, []Out{{Pieces: [][]byte{p.b}}}, wait)
		if n == 0 {
			s.mu.Lock()
			s.refused++
			s.mu.Unlock()
			if i == 0 {
				err = werr
			}
		}
		p.free()
	}
	return err
}

// burst is how many packets the goroutine takes out of the line at once.
const burst = 64

// sendLoop writes what becomes due, until nothing waits any more.
func (s *Shaper) sendLoop() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	due := make([]*pkt, 0, burst)
	for {
		s.mu.Lock()
		now := s.now()
		for len(due) < burst && !s.closed {
			it, ok := s.line.Pop(now)
			if !ok {
				break
			}
			if it.Fault.Dropped() {
				it.V.free()
				continue
			}
			due = append(due, it.V)
		}
		if len(due) == 0 && (s.line.Len() == 0 || s.closed) {
			s.sending = false
			if r := s.line.Rules(); r.IsZero() {
				s.on.Store(false)
			}
			s.mu.Unlock()
			return
		}
		next := s.line.Next()
		s.next = next
		s.mu.Unlock()
		if len(due) > 0 {
			if err := s.write(due, true); errors.Is(err, os.ErrClosed) {
				s.end()
			}
			due = due[:0]
			continue
		}
		timer.Reset(time.Duration(next - now))
		select {
		case <-timer.C:
		case <-s.wake:
		case <-s.quit:
		}
	}
}

// end refuses what comes from now on.
func (s *Shaper) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.quit)
	}
}

// Close drops what waits and returns when the goroutine has ended, which may be in a
// Write of the device: close the device first.
func (s *Shaper) Close() {
	s.end()
	s.sends.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for it, ok := s.line.Drain(); ok; it, ok = s.line.Drain() {
		if !it.Fault.Dropped() {
			s.stopped++
		}
		it.V.free()
	}
}
