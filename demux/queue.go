package demux

// A queue is a chain of packet handles that hangs on its line. Order is arrival
// order; the bound is the line's limits; only the table touches it, under the
// line's mutex; what does not fit is the newest packet, with the fate queue-full.

// admit reports whether one more packet of that charge fits.
func (l *line) admit(charge uint32) bool {
	return l.n < l.maxN && l.bytes+charge <= l.maxBytes
}

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
	if st&full != 0 && l.n < l.maxN && l.bytes < l.maxBytes {
		l.state.Store(st &^ full)
	}
	l.mu.Unlock()
	return t.packet(h, s), true, nil
}

// Wake is a channel with one token: received, it means "look again". A batch that
// finds somebody waiting puts one token in, so an owner with several readers
// passes it on (Signal) when it leaves packets behind.
func (t *Table) Wake(p Port) <-chan struct{} { return t.cold[p].Load().wake }

// Signal wakes one waiter of the port for the owner's own reasons (close, deadline).
func (t *Table) Signal(p Port) { t.cold[p].Load().signal() }

// Free gives a popped packet back.
func (t *Table) Free(p Packet) {
	t.pool.dropTail(p.h)
	t.pool.give(p.h, p.h, 1)
}
