package flow

import (
	"porthole/demux"
	"porthole/demux/packet"
)

// The options of a SYN, as bits.
const (
	optMSS uint8 = 1 << iota
	optScale
	optSACK
	optTimestamps
	optFastOpen
	optFastOpenCookie
	optECN
	optBad
)

// slow handles what data does not. What it reports is In's.
func (t *Table) slow(now int64, d Direction, ip []byte, i *packet.Info, dec Decision) (unsent bool) {
	switch dec.Fate {
	case demux.Malformed, demux.UnknownProto, demux.NotForUs, demux.Martian:
		return false // of no conversation of the host
	case demux.Closed:
		// Not even looked up: a flood shall cost little.
		if d == In && t.skips(now) {
			return false
		}
	}
	k := keyOf(d, ip, i)
	h := t.hash(&k)
	t.mu.Lock()
	defer t.mu.Unlock()
	r, slot := t.search(h, &k)
	if r != nil {
		r.revive(now, d)
	} else if dec.Fate != demux.Closed && dec.Fate.Dropped() && t.skips(now) {
		return false
	}
	if i.Kind == packet.UDP {
		t.datagramLocked(now, d, h, &k, r, slot, i, dec)
		return false
	}
	return t.segmentLocked(now, d, h, &k, r, slot, ip, i, dec)
}

// skips reports whether a refused packet is one too many to be kept.
func (t *Table) skips(now int64) bool {
	if t.refused.Take(now) {
		return false
	}
	t.skipped.Add(1)
	return true
}

// revive marks a record as seen now. Taps race for the word, so it is exchanged.
func (r *hot) revive(now int64, d Direction) {
	for {
		old := r.dir[d].Load()
		if r.dir[d].CompareAndSwap(old, old&^0xffffffff|uint64(tick(now))) {
			return
		}
	}
}

// makeLocked makes the record of a new flow, at the cost of the oldest when all are
// in use.
func (t *Table) makeLocked(now int64, d Direction, h uint64, k *key) (*hot, *cold, uint32) {
	var slot uint32
	if int(t.used) < len(t.hot) {
		slot = t.used
		t.used++
		if slot%coldSlab == 0 {
			t.cold = append(t.cold, new([coldSlab]cold))
		}
		t.ages.push(slot, floorTick(now))
	} else {
		slot = t.oldestLocked(now)
		t.evicted++
		t.endLocked(&t.hot[slot], t.coldLocked(slot), now)
		if t.trouble == slot+1 {
			t.trouble = 0
		}
		t.removeLocked(slot)
	}
	r, c := &t.hot[slot], t.coldLocked(slot)
	r.state.Store((r.state.Load()/stateBits + 1) * stateBits) // of no established flow
	r.setKey(k)
	r.window.Store(0)
	r.dir[In].Store(uint64(tick(now)))
	r.dir[Out].Store(uint64(tick(now)))
	t.rungs.drop(&c.ladder)
	*c = cold{id: t.nextID, k: *k, born: now, hostFirst: d == Out}
	t.nextID++
	t.newest = slot + 1
	t.insertLocked(h, slot)
	return r, c, slot
}

// retireLocked lets a record go on as history: its addresses begin another conversation.
func (t *Table) retireLocked(slot uint32, now int64) {
	t.removeLocked(slot)
	r := &t.hot[slot]
	t.endLocked(r, t.coldLocked(slot), now)
	r.state.Store((r.state.Load()/stateBits + 1) * stateBits)
}

func (r *hot) set(bits uint32) { r.state.Store(r.state.Load() | bits) }

func (r *hot) clear(bits uint32) { r.state.Store(r.state.Load() &^ bits) }

// next is what the direction's next segment begins with.
func (r *hot) next(d Direction) uint32 { return uint32(r.dir[d].Load() >> 32) }

// advanceLocked moves it on to seq. A tap may move it too meanwhile, never backwards.
func (r *hot) advanceLocked(now int64, c *cold, d Direction, seq uint32) {
	for {
		old := r.dir[d].Load()
		from := uint32(old >> 32)
		if int32(seq-from) <= 0 {
			return
		}
		if r.dir[d].CompareAndSwap(old, uint64(seq)<<32|uint64(tick(now))) {
			if (from^seq)>>31 != 0 {
				c.halves[d]++
			}
			return
		}
	}
}

// beginLocked sets where a direction's numbers begin.
func (r *hot) beginLocked(now int64, c *cold, d Direction, isn, next uint32) {
	c.known[d], c.isn[d] = true, isn
	c.halves[d] = 0
	r.dir[d].Store(uint64(next)<<32 | uint64(tick(now)))
	if (isn^next)>>31 != 0 {
		c.halves[d]++
	}
}

// datagramLocked: the first datagram of each direction, and every one dropped.
func (t *Table) datagramLocked(now int64, d Direction, h uint64, k *key, r *hot, slot uint32, i *packet.Info, dec Decision) {
	drop := dec.Fate.Dropped()
	if r == nil {
		if dec.Fate == demux.BadChecksum {
			return
		}
		r, _, slot = t.makeLocked(now, d, h, k)
		r.state.Store(r.state.Load() | isUDP | established)
	}
	c := t.coldLocked(slot)
	n := rung{at: now, dir: d, n: uint32(i.PayloadLen()), fate: dec.Fate, depth: dec.Depth, limit: dec.Limit, rules: dec.Rules}
	if d == Out {
		n.fate = demux.NoFate
	}
	for { // the datagrams seen are counted like sequence numbers
		old := r.dir[d].Load()
		to := uint32(old>>32) + 1
		if r.dir[d].CompareAndSwap(old, uint64(to)<<32|uint64(tick(now))) {
			if (uint32(old>>32)^to)>>31 != 0 {
				c.halves[d]++
			}
			break
		}
	}
	first := c.firstData[d] == 0
	if drop {
		t.dropLocked(c, slot, dec)
	}
	if first {
		c.firstData[d] = max(now, 1)
		r.set(dataIn << d)
	}
	if dec.Fate == demux.Closed { // as a TCP port's reset is
		t.trouble = slot + 1
	}
	if first || drop || dec.Fate == demux.Closed {
		t.rungs.add(&c.ladder, n)
	}
	if first || drop && c.drops == 1 {
		t.changes.note(c, slot)
	}
}

func (t *Table) dropLocked(c *cold, slot uint32, dec Decision) {
	c.drops++
	c.lastDrop = dec.Fate
	switch dec.Fate {
	case demux.QueueFull, demux.HeadDropped, demux.AcceptQueueFull, demux.SynQueueFull:
		c.refusals++
	}
	t.trouble = slot + 1
}

// segmentLocked follows one TCP segment.
func (t *Table) segmentLocked(now int64, d Direction, h uint64, k *key, r *hot, slot uint32, ip []byte, i *packet.Info, dec Decision) (unsent bool) {
	const kinds = packet.SYN | packet.ACK | packet.RST
	seq, ack, window, options := i.TCP(ip)
	flags, size := i.TCPFlags, uint32(i.PayloadLen())
	if dec.Fate == demux.BadChecksum && (r == nil || flags&packet.SYN != 0) {
		return false
	}
	first, fresh := flags&kinds == packet.SYN, false
	if r != nil && first {
		c := t.coldLocked(slot)
		other := !c.known[d] || c.isn[d] != seq || c.hostFirst != (d == Out)
		if other && (c.ended || c.handshook == 0 || c.partial) {
			t.retireLocked(slot, now)
			r = nil
		}
	}
	if r == nil {
		if flags&packet.RST != 0 {
			return false // the answer to, or about, what nobody has seen
		}
		var c *cold
		r, c, slot = t.makeLocked(now, d, h, k)
		if !first {
			c.partial = true
			// Who began is told by the SYN+ACK, or guessed: servers have the low ports.
			c.hostFirst = k.local() > k.remote()
			if flags&packet.SYN != 0 {
				c.hostFirst = d == In
			}
			if flags&packet.SYN == 0 && !dec.Fate.Dropped() {
				r.set(established)
				c.handshook = max(now, 1)
			}
		}
		fresh = true
	}
	s := segment{now: now, d: d, seq: seq, ack: ack, window: window, size: size, flags: flags, dec: dec, slot: slot, fresh: fresh}
	c := t.coldLocked(slot)
	if d == In && !dec.Fate.Dropped() && r.unsentLocked(c, &s) {
		t.rungLocked(r, c, s.rung(Segment), [2]uint64{c.bytes(r, In), c.bytes(r, Out)})
		return true
	}
	t.trackLocked(r, c, &s, options)
	return false
}

// unsentLocked reports whether a segment from the client acknowledges what the host
// has not sent: nothing of it counts (RFC 9293, 3.10.7.4).
func (r *hot) unsentLocked(c *cold, s *segment) bool {
	return s.flags&(packet.SYN|packet.ACK|packet.RST) == packet.ACK && c.handshook != 0 &&
		!c.partial && c.known[Out] && int32(s.ack-r.next(Out)) > 0
}

// segment is one that matters, while it is looked at.
type segment struct {
	now            int64
	d              Direction
	seq, ack, size uint32
	window         uint16
	flags          uint8
	dec            Decision
	slot           uint32
	fresh          bool // the first of its flow
}

// rung is the segment as it is kept.
func (s *segment) rung(w What) rung {
	n := rung{at: s.now, dir: s.d, what: w, seq: s.seq, ack: s.ack, n: s.size, window: s.window,
		flags: s.flags, fate: s.dec.Fate, depth: s.dec.Depth, limit: s.dec.Limit, rules: s.dec.Rules}
	if s.d == Out {
		n.fate = demux.NoFate
	}
	return n
}

func (t *Table) trackLocked(r *hot, c *cold, s *segment, options []byte) {
	what, keep, change := Segment, s.fresh, s.fresh
	before := [2]uint64{c.bytes(r, In), c.bytes(r, Out)}
	completed := false // the handshake, or would have
	d, dropped := s.d, s.dec.Fate.Dropped()
	if dropped {
		t.dropLocked(c, s.slot, s.dec)
		keep, change = true, c.drops == 1
	}
	end := s.seq + s.size
	if d == Out && s.flags&packet.RST == 0 {
		w := uint32(s.window)
		if s.flags&packet.SYN != 0 {
			w |= inSYN
		}
		r.window.Store(w)
	}
	switch {
	case s.flags&packet.RST != 0:
		keep, change = true, true
		if !dropped && !c.ended && !c.feint(s) {
			c.resetBy = 1 + uint8(d)
			c.end(s.now)
			t.endLocked(r, c, s.now)
			t.trouble = s.slot + 1
		}
	case s.flags&packet.SYN != 0:
		keep, change = true, true
		c.syns[d]++
		if !c.known[d] || c.isn[d] != s.seq {
			r.beginLocked(s.now, c, d, s.seq, end+1)
			c.options(d, s.flags, options)
		} else if c.handshook == 0 && s.flags&packet.ACK == 0 && c.syns[d] == 2 {
			t.trouble = s.slot + 1
		}
	default:
		what, keep = t.orderLocked(r, c, s, keep)
		completed = c.handshook == 0 && c.completes(s)
		if !dropped && completed {
			c.handshook = max(s.now, 1)
			r.set(established)
			keep, change = true, true
		}
		if s.size > 0 && !dropped && c.firstData[d] == 0 {
			c.firstData[d] = max(s.now, 1)
			r.set(dataIn << d)
			keep, change = true, true
		}
		if w := t.windowLocked(r, c, s); w != Segment {
			what, keep, change = w, true, true
		}
		if s.flags&packet.FIN != 0 {
			keep = true
			if !dropped && !c.fin[d] {
				c.fin[d], change = true, true
				r.advanceLocked(s.now, c, d, end+1)
				if c.fin[In] && c.fin[Out] {
					c.end(s.now)
					t.endLocked(r, c, s.now)
				}
			}
		}
	}
	if keep {
		n := s.rung(what)
		if s.flags&packet.SYN != 0 {
			n.opts = optionBits(s.flags, options)
		}
		t.rungLocked(r, c, n, before)
	}
	t.recordLocked(c, s, completed)
	if change {
		t.changes.note(c, s.slot)
	}
}

// orderLocked compares the segment with what its direction has sent, and moves on.
func (t *Table) orderLocked(r *hot, c *cold, s *segment, keep bool) (What, bool) {
	d := s.d
	if !c.known[d] { // the flow's beginning was not seen
		r.beginLocked(s.now, c, d, s.seq-1, s.seq)
	}
	next := r.next(d)
	ahead := int32(s.seq - next)
	end := s.seq + s.size
	switch {
	case ahead == 0 || s.size == 0 && ahead < 0: // in order, or a bare ACK that is late or keeps alive
		r.advanceLocked(s.now, c, d, end)
		return Segment, keep
	case ahead > 0:
		c.gaps[d]++
		if d == In && !c.holed {
			c.holed, c.hole = true, next
		}
		r.advanceLocked(s.now, c, d, end)
		return Gap, true
	case r.state.Load()&(zeroIn<<(1-d)) != 0 && s.size <= 1:
		return Segment, keep // a probe of the other's closed window (RFC 9293, 3.8.6.1)
	case d == In && c.holed && s.seq == c.hole:
		c.holed = false
		r.advanceLocked(s.now, c, d, end)
		return Filled, true
	}
	c.resent[d]++
	r.advanceLocked(s.now, c, d, end)
	return Resent, true
}

// endLocked ends the spells of closed windows of a flow that is over.
func (t *Table) endLocked(r *hot, c *cold, now int64) {
	t.openedLocked(r, c, In, now)
	t.openedLocked(r, c, Out, now)
}

// windowLocked notes when a sender's window closes and opens.
func (t *Table) windowLocked(r *hot, c *cold, s *segment) What {
	bit := zeroIn << s.d
	closed := r.state.Load()&bit != 0
	switch {
	case s.window == 0 && !closed && !s.dec.Fate.Dropped() && c.handshook != 0 && !c.ended:
		t.closedLocked(r, c, s.d, s.now)
		t.trouble = s.slot + 1
		return ZeroWindow
	case s.window != 0 && closed:
		t.openedLocked(r, c, s.d, s.now)
		return Opened
	}
	return Segment
}

// rungLocked adds a rung, and one before it for the data that had passed since the last.
func (t *Table) rungLocked(r *hot, c *cold, n rung, before [2]uint64) {
	for d, have := range before {
		if have > c.ladder.summarised[d] && c.k.isTCP() {
			more := min(have-c.ladder.summarised[d], 1<<32-1)
			t.rungs.add(&c.ladder, rung{at: n.at, what: Data, dir: Direction(d), n: uint32(more)})
		}
		c.ladder.summarised[d] = c.bytes(r, Direction(d))
	}
	t.rungs.add(&c.ladder, n)
}
