package demux

// A queue is a chain of packet handles that hangs on its line. Order is arrival
// order; the bound is the line's limits; only the table touches it, under the
// line's mutex; what does not fit is the newest packet, with the fate queue-full.

// admit reports whether one more packet of that charge fits.
func (l *line) admit(charge uint32) bool {
	return l.n < l.maxN && l.bytes+charge <= l.maxBytes
}

// roomy reports whether the queue is half empty: only then may it say again that it
// filled, else a queue that stays at its limit would say so at every packet.
func (l *line) roomy() bool { return l.n <= l.maxN/2 && l.bytes <= l.maxBytes/2 }

// pushLocked appends one packet.
func (l *line) pushLocked(p *pool, h uint32, s *slot) {
	s.next = 0
	if l.tail == 0 {
		l.head = h
	} else {
		p.slot(l.tail).next = h
	}
	l.tail = h
	l.n++
	l.bytes += s.charge
}

// popLocked takes the oldest packet.
func (l *line) popLocked(p *pool) (uint32, *slot) {
	h := l.head
	s := p.slot(h)
	l.head = s.next
	if l.head == 0 {
		l.tail = 0
	}
	l.n--
	l.bytes -= s.charge
	return h, s
}

// Pop takes the oldest packet of a socket port for its owner: its fate is
// to-service from then on. The packet is the caller's until it calls Free. When
// the queue is empty ok is false and the caller may wait for Wake.
func (t *Table) Pop(p Port) (pkt Packet, ok bool, err error) {
	l := &t.lines[p]
	l.mu.Lock()
	st := l.state.Load()
	if st&(bound|socket) != bound|socket {
		l.mu.Unlock()
		return Packet{}, false, ErrReleased
	}
	if l.n == 0 {
		l.state.Store(st | waiting)
		l.mu.Unlock()
		return Packet{}, false, nil
	}
	co := t.cold[p].Load()
	co.high = max(co.high, l.n)
	h, s := l.popLocked(t.pool)
	l.passed++
	if st&full != 0 && l.roomy() {
		l.state.Store(st &^ full)
	}
	l.mu.Unlock()
	return t.packet(h, s), true, nil
}

// Wake is a channel with one token: received, it means "look again". A batch that
// finds somebody waiting puts one token in. An owner with several readers counts
// those who are about to wait before their last Pop, and a reader that took a packet
// while others are counted passes the token on (Signal). It is nil for a port that
// nobody ever had.
func (t *Table) Wake(p Port) <-chan struct{} {
	if co := t.cold[p].Load(); co != nil {
		return co.wake
	}
	return nil
}

// Signal wakes one waiter of the port for the owner's own reasons (close, deadline).
func (t *Table) Signal(p Port) {
	if co := t.cold[p].Load(); co != nil {
		co.signal()
	}
}

// Free gives a popped packet back; the caller may not look at it again.
func (t *Table) Free(p Packet) {
	t.pool.dropTail(p.h, p.s)
	t.pool.give(p.h, p.h, 1)
}
