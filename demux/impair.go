package demux

import (
	"porthole/demux/packet"
	"porthole/impair"
)

// What follows is for batches in which impairment rules touch a packet: the link's,
// which the device has applied already (Mark), and those of single ports, applied here,
// on the verdict (rules.go holds what they delay). Without any, the hot path only looks
// whether there are.

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

// deliverSlowly is Deliver's second half for a batch in which rules may touch a packet.
func (in *Ingress) deliverSlowly(n int) {
	in.slow = true
	for i := 0; i < n; {
		p := in.line[i]
		j := i + 1
		for j < n && in.line[j] == p {
			j++
		}
		if in.marked > 0 || in.ruled(p) {
			for ; i < j; i++ {
				in.deliverOne(p, i)
			}
		} else if p == LaneHost {
			in.count(i, j)
		} else {
			in.push(p, i, j)
			in.flush()
		}
		i = j
	}
	in.marked, in.slow = 0, in.kind != FromDevice
}

// ruled reports whether a line's packets go through rules. What the host sends to
// itself was on no wire.
func (in *Ingress) ruled(p Port) bool {
	if in.kind == SelfTest {
		return false
	}
	l := &in.t.lines[p]
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state&impaired != 0
}

// deliverOne delivers frame i, which is of line p.
func (in *Ingress) deliverOne(p Port, i int) {
	s := in.slots[i].s
	if s.kind != in.kind {
		in.odd[s.kind]++
	}
	switch {
	case p == LaneHost:
		if s.mark.Dropped() {
			in.fate[i] = FaultInjected
		}
		in.count(i, i+1)
	case s.mark.Dropped():
		in.lose(p, i, FaultInjected)
	case in.ruled(p) && (s.off.GSO != 0 || s.off.Flags&needsCsum != 0):
		in.cut(p, i)
	case in.ruled(p):
		in.divert(p, i)
	default:
		in.push(p, i, i+1)
		in.flush()
	}
}

// needsCsum is the flag of Offload: the checksum is partial. dataValid: it is good.
const (
	needsCsum uint8 = 1
	dataValid uint8 = 2
)

// flush hands on what the arrays of a batch hold, which are made for one line a frame.
func (in *Ingress) flush() {
	if in.nr >= BatchSize/2 {
		in.t.rq.add(in.ready[:in.nr]...)
		in.nr = 0
	}
	if in.nw >= BatchSize/2 {
		for _, co := range in.wakes[:in.nw] {
			co.signal()
		}
		in.nw = 0
	}
}

// lose counts frame i at its line with a fate that it gets at once.
func (in *Ingress) lose(p Port, i int, f Fate) {
	t, r := in.t, in.slots[i]
	l := &t.lines[p]
	l.mu.Lock()
	if l.state&bound == 0 { // released since it was looked up
		in.forgetLocked(p, i, i+1)
		l.mu.Unlock()
		in.lose(LaneClosed, i, f)
		return
	}
	defer l.mu.Unlock()
	co := t.cold[p].Load()
	l.arrived++
	in.countKinds(co, i, i+1)
	if p == LaneClosed {
		in.knockLocked(i, i+1)
	}
	co.fates[f]++
	if t.tap != nil {
		t.tap(p, t.packet(r.h, r.s), f, l.n, l.maxN.Load(), l.bytes, l.maxBytes)
	}
	if in.watch != nil {
		in.saw(p, f, r, l.n)
	}
	t.pool.dropTail(r)
}

// countKinds counts the arrival of frames i to j by their kinds. Those that come out of
// their port's rules have been counted as waiting there.
func (in *Ingress) countKinds(co *cold, i, j int) {
	for ; i < j; i++ {
		k := in.slots[i].s.kind
		co.kinds[k]++
		if in.releasing {
			co.waits[k]--
		}
	}
}

// forgetLocked is for frames that come out of the rules of a port that nobody has any
// more: they arrive at the closed lane.
func (in *Ingress) forgetLocked(p Port, i, j int) {
	if !in.releasing {
		return
	}
	for co := in.t.cold[p].Load(); i < j; i++ {
		co.waits[in.slots[i].s.kind]--
	}
	in.releasing = false
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

// maxPieces is the most packets that a super-packet is cut into: 64 KiB in the least
// segments that a path must carry (RFC 9293, 3.7.1). Who sends smaller ones gets nothing
// cut.
const maxPieces = 128

// cut sends a super-packet through the rules in packets as a wire would carry them. The
// first one is the arrival itself. Without memory for all of them none passes.
func (in *Ingress) cut(p Port, i int) {
	t, whole := in.t, in.slots[i]
	s, info, seg := whole.s, whole.s.info, int(whole.s.off.SegSize)
	if s.off.Flags&needsCsum != 0 && s.off.GSO == 0 {
		packet.Finish(s.room[s.l2:s.headLen], in.rest(whole), &info)
		s.off = Offload{Flags: dataValid}
		in.divert(p, i)
		return
	}
	n := 1
	if info.Kind == packet.TCP && seg > 0 {
		n = max(1, (info.PayloadLen()+seg-1)/seg)
	}
	var room [maxPieces]ref
	got := 0
	if n <= maxPieces {
		got, in.scarce = t.pool.take(room[:n])
	}
	pieces := room[:got]
	if got < n {
		for _, r := range pieces {
			t.pool.give(r.h, r.s, 1)
		}
		in.lose(p, i, NoBuffer)
		return
	}
	if in.buf == nil {
		in.buf = make([]byte, HeadSize)
	}
	k := 0
	packet.Segment(&info, s.room[s.l2:s.headLen], in.rest(whole), seg, in.buf, func(b []byte) bool {
		r := pieces[k]
		in.fill(r, s, b)
		if k++; k > 1 {
			r.s.kind, r.s.mark = Segmented, r.s.mark|impair.Segmented
			in.arrived++
			in.odd[Segmented]++
		}
		in.divertAt(p, i, r)
		return true
	})
	in.slots[i] = whole
	t.pool.dropTail(whole)
}

// rest is what of a packet is not in its slot.
func (in *Ingress) rest(r ref) []byte {
	if r.s.more == 0 {
		return nil
	}
	return in.t.pool.tail(r.h).Bytes
}

// fill makes r the packet b, cut from the frame in s.
func (in *Ingress) fill(r ref, s *slot, b []byte) {
	n := copy(r.s.room[:], s.room[:s.l2])
	k := copy(r.s.room[n:], b)
	r.s.headLen, r.s.l2, r.s.kind, r.s.mark, r.s.at = uint16(n+k), s.l2, s.kind, s.mark, s.at
	r.s.off = Offload{Flags: dataValid}
	r.s.more = 0
	if k < len(b) {
		in.t.pool.setTail(r, Tail{Bytes: append([]byte(nil), b[k:]...)})
	}
	r.s.info.Parse(r.s.room[n:n+k], len(b)) // of a packet that parsed
	r.s.charge = charge(&r.s.info)
}

// divertAt sends a packet that is not of the batch through the rules, in the place of
// frame i, and frees what is left there.
func (in *Ingress) divertAt(p Port, i int, r ref) {
	was := in.slots[i]
	in.slots[i] = r
	in.divert(p, i)
	in.freeAt(i)
	in.slots[i] = was
}

// freeAt frees the slot of frame i, which no queue took.
func (in *Ingress) freeAt(i int) {
	r := in.slots[i]
	in.t.pool.dropTail(r)
	in.t.pool.give(r.h, r.s, 1)
}
