package demux

import (
	"fmt"

	"porthole/impair"
)

// PortStats is one line at one instant.
type PortStats struct {
	Port     Port
	Owner    string // "" when nobody has it
	Limits   Limits
	Policy   Policy
	Arrived  uint64 // packets while it was bound
	Kinds    [NumKinds]uint64
	Fates    [NumFates]uint64
	Queued   int    // packets: in the queue and in a worker's hands
	Bytes    int    // charge of those in the queue, and of what the reader holds for a socket's owner
	High     int    // most packets in the queue at once
	Knocked  uint64 // packets that came while nobody had the port; the closed lane counts their fates
	WasBound bool   // somebody has or had it

	Rules    impair.Rules // of what arrives; zero: none
	Impaired impair.Stats // what they have done since the port was bound
	Waiting  int          // of Queued: packets that the rules hold back
	Waits    Waits
}

// Check is the law for one line: arrived = sum of fates + queued.
func (s PortStats) Check() error {
	return law(s.Port.String(), s.Arrived, s.Fates, s.Queued)
}

func law(who string, arrived uint64, fates [NumFates]uint64, queued int) error {
	sum := uint64(queued)
	for _, n := range fates {
		sum += n
	}
	if arrived != sum {
		return fmt.Errorf("ledger of %s: %d arrived, but fates and queue hold %d", who, arrived, sum)
	}
	return nil
}

// Port is a snapshot of one line.
func (t *Table) Port(p Port) PortStats {
	l, co := &t.lines[p], t.cold[p].Load()
	s := PortStats{Port: p}
	if !p.IsLane() {
		closed := &t.lines[LaneClosed]
		closed.mu.Lock()
		s.Knocked = t.knocks.by[p]
		closed.mu.Unlock()
	}
	if co == nil {
		return s
	}
	s.Waits = co.waited()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state&bound != 0 {
		s.Owner = co.owner
		s.Limits = Limits{int(l.maxN.Load()), int(l.maxBytes)}
		s.Policy = l.policyOf(co)
	}
	co.settle(l)
	s.WasBound = true
	s.Arrived, s.Fates, s.Kinds = l.arrived, co.fates, co.kinds
	s.Kinds[FromDevice] = l.arrived
	for _, n := range co.kinds[FromDevice+1:] {
		s.Kinds[FromDevice] -= n
	}
	s.Fates[p.usual()] += l.passed
	s.Queued = int(l.n) + int(l.held)
	for k, n := range co.waits {
		s.Arrived += uint64(n)
		s.Kinds[k] += uint64(n)
		s.Queued += n
		s.Waiting += n
	}
	if co.rules != nil {
		s.Rules, s.Impaired = co.rules.line.Rules(), co.rules.line.Stats()
	}
	_, bytes := l.load()
	s.Bytes = int(bytes)
	s.High = int(l.high)
	return s
}

// Ports is a snapshot of every line that is or was bound: TCP, UDP, lanes, in
// order of number. Each is consistent in itself.
func (t *Table) Ports() []PortStats {
	var all []PortStats
	for p := range t.eachMade {
		all = append(all, t.Port(p))
	}
	return all
}

// eachMade yields the lines that have a cold record.
func (t *Table) eachMade(yield func(Port) bool) {
	for w := range t.made {
		bits := t.made[w].Load()
		for i := 0; bits != 0; i, bits = i+1, bits>>1 {
			if bits&1 != 0 && !yield(Port(w*64+i)) {
				return
			}
		}
	}
}

// Totals is the host's ledger at one instant.
type Totals struct {
	Arrived  uint64           // frames, counted where they were read
	Kinds    [NumKinds]uint64 // of those
	Fates    [NumFates]uint64 // counted where they happened
	Queued   int
	InUse    int // packet slots that hold something, readers' own batches included
	Capacity int // packet slots the host may have
}

// Check is the law for the host.
func (s Totals) Check() error { return law("host", s.Arrived, s.Fates, s.Queued) }

// Totals takes the ledger of the whole host between two batches of its readers,
// which wait for it for as long as adding up the bound ports takes.
func (t *Table) Totals() Totals {
	t.mu.Lock() // no reader may begin meanwhile
	defer t.mu.Unlock()
	s := Totals{Kinds: t.ended}
	for _, n := range t.ended {
		s.Arrived += n
	}
	for _, in := range t.ingresses {
		in.mu.Lock()
		defer in.mu.Unlock()
		s.Arrived += in.arrived
		for k, n := range in.kindsLocked() {
			s.Kinds[k] += n
		}
	}
	if t.upstream != nil {
		held, stopped := t.upstream()
		for k := range held {
			s.Kinds[k] += held[k] + stopped[k]
			s.Arrived += held[k] + stopped[k]
			s.Queued += int(held[k])
			s.Fates[HostStopped] += stopped[k]
		}
	}
	for p := range t.eachMade {
		ps := t.Port(p)
		for f, n := range ps.Fates {
			s.Fates[f] += n
		}
		s.Queued += ps.Queued
	}
	s.InUse, s.Capacity = t.pool.inUse(), t.pool.limit
	return s
}
