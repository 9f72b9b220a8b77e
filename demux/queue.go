package demux

// A queue is a chain of packet handles that hangs on its line. Order is arrival
// order; the bound is the line's limits; only the table touches it, under the
// line's mutex. What does not fit is the newest packet, with the fate queue-full, but
// for the sockets' queues that have another policy (policy.go).

// load is what the limits count: what is queued, and of a socket port what its reader
// holds, since that may have to come back.
func (l *line) load() (n, bytes uint32) {
	if l.state&lent != 0 {
		return l.n + uint32(l.held), l.bytes + uint32(l.deficit)
	}
	return l.n, l.bytes
}

// admit reports whether one more packet of that charge fits.
func (l *line) admit(charge uint32) bool {
	n, bytes := l.load()
	return n < l.maxN.Load() && bytes+charge <= l.maxBytes
}

// roomy reports whether the queue is half empty: only then may it say again that it
// filled, else a queue that stays at its limit would say so at every packet.
func (l *line) roomy() bool { return l.n <= l.maxN.Load()/2 && l.bytes <= l.maxBytes/2 }

// appendLocked appends a chain, which fits.
func (l *line) appendLocked(p *pool, c chain) {
	c.last.s.next = 0
	if l.tail == 0 {
		l.head = c.first
	} else {
		p.slot(l.tail).next = c.first
	}
	l.tail = c.last.h
	l.n += c.n
	l.bytes += c.bytes
}

// returnLocked puts a chain back before all others.
func (l *line) returnLocked(c chain) {
	if c.last.s.next = l.head; l.tail == 0 {
		l.tail = c.last.h
	}
	l.head = c.first
	l.n += c.n
	l.bytes += c.bytes
}

// popLocked takes the oldest packet.
func (l *line) popLocked(p *pool) ref {
	h := l.head
	s := p.slot(h)
	l.head = s.next
	if l.head == 0 {
		l.tail = 0
	}
	l.n--
	l.bytes -= s.charge
	return ref{s, h}
}

// Pop takes the oldest packet of a socket port for its owner: its fate is
// to-service from then on. The packet is the caller's until it calls Free. When
// the queue is empty, or withheld, ok is false and the caller may wait for Wake.
func (t *Table) Pop(p Port) (pkt Packet, ok bool, err error) {
	l := &t.lines[p]
	l.mu.Lock()
	st := l.state
	if st&(bound|socket) != bound|socket {
		l.mu.Unlock()
		return Packet{}, false, ErrReleased
	}
	if l.n == 0 || st&(lent|withheld) != 0 { // what is queued came after what the reader holds
		if st&withheld == 0 {
			l.state |= waiting
		}
		l.mu.Unlock()
		return Packet{}, false, nil
	}
	var r ref
	if st&coDel != 0 {
		r = t.popCodelLocked(p, l)
	} else {
		r = l.popLocked(t.pool)
	}
	l.passed++
	if st&full != 0 && l.roomy() {
		l.state &^= full
	}
	l.mu.Unlock()
	pkt = t.packet(r.h, r.s)
	if w := t.watch.Load(); w != nil {
		w.In(pkt, Sight{Line: p, Fate: ToService, Now: t.clock()})
	}
	return pkt, true, nil
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
	t.pool.dropTail(p.ref)
	t.pool.give(p.h, p.s, 1)
}
