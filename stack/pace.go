package stack

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"porthole/demux"
)

// Delay is how long a service works before it takes its next connection or
// datagram: a dial that fills its queue on demand. The zero value is no delay.
type Delay struct {
	Mean        time.Duration
	Exponential bool // distributed so, with that mean; else always the mean
}

// ParseDelay takes "2s", "fixed(1ms)", "exp(10ms)" or "0".
func ParseDelay(s string) (Delay, error) {
	var d Delay
	text := s
	if inner, ok := strings.CutPrefix(s, "exp("); ok {
		d.Exponential, text = true, inner
	} else if inner, ok := strings.CutPrefix(s, "fixed("); ok {
		text = inner
	}
	if text != s {
		inner, ok := strings.CutSuffix(text, ")")
		if !ok {
			return Delay{}, fmt.Errorf("delay %q: want DURATION, fixed(DURATION) or exp(DURATION)", s)
		}
		text = inner
	}
	m, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return Delay{}, fmt.Errorf("delay %q: want DURATION, fixed(DURATION) or exp(DURATION), such as 2s or exp(10ms)", s)
	case m < 0 || m > time.Hour:
		return Delay{}, fmt.Errorf("delay %q: must be 0 to 1h", s)
	}
	d.Mean = m
	return d, nil
}

func (d Delay) String() string {
	switch {
	case d.Mean == 0:
		return "0"
	case d.Exponential:
		return "exp(" + d.Mean.String() + ")"
	}
	return d.Mean.String()
}

func (d Delay) next() time.Duration {
	if d.Exponential {
		return time.Duration(rand.ExpFloat64() * float64(d.Mean))
	}
	return d.Mean
}

// pace holds a service back before it takes something out of its queue. The zero
// value does not; changing it wakes who waits in it. However many goroutines of a
// service read a port, while it is held back they are one server: whoever is about to
// take something has the turn, and the delay of the next begins when it has.
type pace struct {
	mu      sync.Mutex
	delay   Delay
	hold    bool // take nothing at all
	changed chan struct{}
	turn    chan struct{} // holds a token while somebody has the turn
}

func (p *pace) set(d Delay, hold bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay, p.hold = d, hold
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

func (p *pace) get() (Delay, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.delay, p.hold
}

// free reports whether nothing holds the service back.
func (p *pace) free() bool {
	d, hold := p.get()
	return d.Mean == 0 && !hold
}

// wait returns when the service may take the next one, or earlier when closed is or
// the deadline passes. A change counts at once: a delay begins anew. Who has been given
// the turn passes it on when it has taken something, or gives up.
func (p *pace) wait(closed <-chan struct{}, dead *deadline) (turn bool) {
	for {
		p.mu.Lock()
		d, hold := p.delay, p.hold
		if d.Mean == 0 && !hold {
			p.mu.Unlock()
			return turn
		}
		if p.changed == nil {
			p.changed = make(chan struct{})
		}
		if p.turn == nil {
			p.turn = make(chan struct{}, 1)
		}
		changed, mine := p.changed, p.turn
		p.mu.Unlock()
		var fire <-chan time.Time
		var timer *time.Timer
		if turn {
			mine = nil
			if !hold {
				timer = time.NewTimer(d.next())
				fire = timer.C
			}
		}
		var late <-chan struct{}
		if dead != nil {
			late = dead.wait()
		}
		select {
		case mine <- struct{}{}:
			turn = true
			continue
		case <-fire:
			return turn
		case <-closed:
		case <-late:
		case <-changed:
			if timer != nil {
				timer.Stop()
			}
			continue
		}
		if timer != nil {
			timer.Stop()
		}
		return turn
	}
}

// pass gives the turn to the next.
func (p *pace) pass() { <-p.turn }

// SetPace sets how a bound port's service takes from its queue; false when nobody
// has the port. When it has returned, a service on hold takes nothing more, a read or
// accept that waited already included.
func (s *Stack) SetPace(tcp bool, port uint16, d Delay, hold bool) bool {
	p := demux.UDPPort(port)
	if tcp {
		p = demux.TCPPort(port)
	}
	if _, was, ok := s.Pace(tcp, port); ok && was != hold {
		s.flows.Held(s.clock(), p, hold) // before anything is taken that was held back
	}
	if tcp {
		ln := s.listeners[port].Load()
		if ln != nil {
			ln.pace.set(d, hold)
			ln.door.Withhold(hold)
		}
		return ln != nil
	}
	pc := s.sockets[port].Load()
	if pc != nil {
		pc.pace.set(d, hold)
		pc.settleAnswer()
	}
	return pc != nil
}

// Pace is what SetPace has set.
func (s *Stack) Pace(tcp bool, port uint16) (d Delay, hold, ok bool) {
	p := s.paceOf(tcp, port)
	if p == nil {
		return d, false, false
	}
	d, hold = p.get()
	return d, hold, true
}

func (s *Stack) paceOf(tcp bool, port uint16) *pace {
	if tcp {
		if ln := s.listeners[port].Load(); ln != nil {
			return &ln.pace
		}
		return nil
	}
	if pc := s.sockets[port].Load(); pc != nil {
		return &pc.pace
	}
	return nil
}
