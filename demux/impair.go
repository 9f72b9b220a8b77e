package demux

import "porthole/impair"

// What follows is for packets that impairment rules touch. Without any, the hot path
// only looks whether there are (Ingress.marked).

// Mark says what a link rule did to frame i of the batch, after Put. One that it
// dropped gets the fate fault-injected, at the port that it was for.
func (in *Ingress) Mark(i int, f impair.Fault) {
	s := in.slots[i].s
	s.mark = f
	switch {
	case f&impair.Duplicated != 0:
		s.kind = Duplicated
	case f&impair.Segmented != 0:
		s.kind = Segmented
	}
	in.marked++
}

// SetUpstream says who knows what waits before the readers, on an impaired link, and
// what waited there when the host stopped: packets by kind, part of the host's ledger.
// It is set before packets pass.
func (t *Table) SetUpstream(f func() (held, stopped [NumKinds]uint64)) { t.upstream = f }

// deliverMarked is Deliver's second half for a batch in which rules touched a packet.
func (in *Ingress) deliverMarked(n int) {
	for i := range n {
		s := in.slots[i].s
		if s.kind != in.kind {
			in.odd[s.kind]++
		}
		dropped := s.mark.Dropped()
		switch p := in.line[i]; {
		case p == LaneHost:
			if dropped {
				in.fate[i] = FaultInjected
			}
			in.count(i, i+1)
		case dropped:
			in.lose(p, i)
		default:
			in.push(p, i, i+1)
		}
	}
	in.marked = 0
}

// lose counts frame i, which a rule has dropped, at its line.
func (in *Ingress) lose(p Port, i int) {
	t, r := in.t, in.slots[i]
	l := &t.lines[p]
	l.mu.Lock()
	if l.state.Load()&bound == 0 { // released since it was looked up
		l.mu.Unlock()
		in.lose(LaneClosed, i)
		return
	}
	defer l.mu.Unlock()
	co := t.cold[p].Load()
	l.arrived++
	in.countKinds(co, i, i+1)
	if p == LaneClosed {
		t.knock[portOf(&r.s.info)]++
	}
	co.fates[FaultInjected]++
	if t.tap != nil {
		t.tap(p, t.packet(r.h, r.s), FaultInjected, l.n, l.maxN, l.bytes, l.maxBytes)
	}
	if in.watch != nil {
		in.saw(p, FaultInjected, r, l.n)
	}
	t.pool.dropTail(r)
}

// countKinds counts the arrival of frames i to j by their kinds.
func (in *Ingress) countKinds(co *cold, i, j int) {
	if in.marked == 0 {
		co.kinds[in.kind] += uint64(j - i)
		return
	}
	for ; i < j; i++ {
		co.kinds[in.slots[i].s.kind]++
	}
}

// kindsLocked is what has arrived here, by kind.
func (in *Ingress) kindsLocked() [NumKinds]uint64 {
	ks := in.odd
	ks[in.kind] = in.arrived
	for k, n := range in.odd {
		if Kind(k) != in.kind {
			ks[in.kind] -= n
		}
	}
	return ks
}
