package demux

import "math"

// What follows puts classified frames where they belong, all of one line at a time
// under its mutex. What a queue takes leaves the batch as one chain; what finds no
// place is refused frame by frame, and its slot stays with the batch.

// count gives frames i to j the fates they have already.
func (in *Ingress) count(i, j int) {
	l, co := &in.t.lines[LaneHost], in.t.cold[LaneHost].Load()
	l.mu.Lock()
	l.arrived += uint64(j - i)
	if in.slow {
		in.countKinds(co, i, j)
	}
	for ; i < j; i++ {
		co.fates[in.fate[i]]++
		if in.watch != nil {
			in.saw(LaneHost, in.fate[i], in.slots[i], 0)
		}
		in.t.pool.dropTail(in.slots[i])
	}
	l.mu.Unlock()
}

// push queues frames i to j, all of one line.
func (in *Ingress) push(p Port, i, j int) {
	t := in.t
	l := &t.lines[p]
	l.mu.Lock()
	st := l.state
	if st&bound == 0 { // released since it was looked up
		in.forgetLocked(p, i, j)
		l.mu.Unlock()
		in.push(LaneClosed, i, j)
		return
	}
	l.arrived += uint64(j - i)
	if in.slow {
		in.countKinds(t.cold[p].Load(), i, j)
	}
	if p == LaneClosed {
		in.knockLocked(i, j)
	}
	if st&(inline|ready) == inline && l.n == 0 && in.kind == FromDevice && lends(st) {
		i = in.keepLocked(p, l, st, i, j)
		st = l.state
	}
	for i < j {
		n, bytes := l.load()
		c, next := in.chain(l, i, j, in.places(l, n), l.maxBytes-min(bytes, l.maxBytes), false)
		if i = next; c.n > 0 {
			l.appendLocked(t.pool, c)
			if t.tap != nil && st&socket != 0 {
				in.showLocked(p, l, c)
			}
		} else if st&headDrop == 0 || !in.makeRoom(p, l, in.slots[i]) {
			in.refuse(p, l, i)
			i++
		}
	}
	if l.n > 0 {
		n, _ := l.load()
		l.high = max(l.high, n)
		switch {
		case st&socket != 0:
			if st&(waiting|lent) == waiting { // else the reader wakes it when it has done
				l.state &^= waiting
				in.wakes[in.nw] = t.cold[p].Load()
				in.nw++
			}
		case st&(serving|ready) == 0:
			l.state |= ready
			in.ready[in.nr] = uint32(p)
			in.nr++
		}
	}
	l.mu.Unlock()
}

// runEnd is where a run of the reader's goes on. (A Run of more fields is no longer
// passed in registers: 8 ns.)
type runEnd struct {
	last  uint32 // handle
	bytes uint32 // charged, of the whole run
}

// keepLocked takes frames of a port whose queue is empty for the reader to serve itself,
// no more than the queue could have held, and says where it stopped. Those that it took
// earlier in the batch are of the same run: what came for other ports between them must
// not make a worker of it, or wake the owner.
func (in *Ingress) keepLocked(p Port, l *line, st uint32, i, j int) (next int) {
	lend := st&socket != 0 || p.IsLane() // some may come back
	k, n, bytes := in.nrun, uint32(0), uint32(0)
	if st&serving != 0 {
		k = int(l.run)
		if k >= in.nrun || in.runs[k].Port != p || lend != (st&lent != 0) {
			return i // another's, or of the last owner's
		}
		n, bytes = in.runs[k].n, in.ends[k].bytes
	}
	most := min(inlineMost(p), l.maxN.Load())
	c, next := in.chain(l, i, j, most-min(n, most), l.maxBytes-min(bytes, l.maxBytes), !lend)
	if c.n == 0 {
		return next
	}
	if n == 0 {
		in.runs[k].Port, in.runs[k].first = p, c.first
		in.nrun++
		l.run = uint8(k)
	} else {
		in.t.pool.slot(in.ends[k].last).next = c.first
	}
	n, bytes = n+c.n, bytes+c.bytes
	in.runs[k].n, in.ends[k] = n, runEnd{c.last.h, bytes}
	l.held += uint8(c.n)
	st |= serving
	if lend {
		st |= lent
		l.deficit = int32(bytes)
		l.high = max(l.high, n)
	}
	l.state = st
	if in.t.tap != nil && st&socket != 0 {
		in.showLocked(p, l, c)
	}
	return next
}

// inlineMost is inlineMax, but for what is refused: that costs little.
func inlineMost(p Port) uint32 {
	if p == LaneClosed {
		return BatchSize
	}
	return inlineMax
}

// lends reports whether a port's owner leaves packets to the reader now: a worker
// always, a socket's while it waits, and no policy has a say in when packets leave.
func lends(st uint32) bool {
	return st&socket == 0 || st&(waiting|headDrop|coDel) == waiting
}

// chain is packets of one port on their way out of the batch.
type chain struct {
	first uint32
	last  ref
	n     uint32
	bytes uint32 // charged
}

// chain takes frames from i on out of the batch, at most n of them that are charged
// at most bytes, puts spare slots in their place, and says where it stopped. A frame
// with a tail needs the pool's leave and begins a chain, unless it is served at once.
func (in *Ingress) chain(l *line, i, j int, n, bytes uint32, served bool) (c chain, next int) {
	spare := in.spare[:in.spareN]
	left := bytes
	had, _ := l.load()
	for k := min(n, uint32(len(spare)), uint32(j-i)); k > 0; k-- {
		r := in.slots[i]
		if r.s.charge > left || r.s.more != 0 && !served && (c.n > 0 || !in.t.pool.grantsTail(l.bytes, in.scarce)) {
			break
		}
		left -= r.s.charge
		if c.last.s == nil {
			c.first = r.h
		} else {
			c.last.s.next = r.h
		}
		r.s.depth = had + c.n
		c.last = r
		c.n++
		in.slots[i] = spare[len(spare)-1]
		spare = spare[:len(spare)-1]
		i++
	}
	in.spareN = len(spare)
	c.bytes = bytes - left
	return c, i
}

// places is how many packets more a queue with n of them may take.
func (in *Ingress) places(l *line, n uint32) uint32 {
	most := l.maxN.Load()
	if in.scarce {
		most = min(most, littlePackets)
	}
	return most - min(n, most)
}

// refuse gives frame i, which found no place, a dropping fate; its slot stays with
// the batch.
func (in *Ingress) refuse(p Port, l *line, i int) {
	t, r, f := in.t, in.slots[i], NoBuffer
	if !l.admit(r.s.charge) {
		f = QueueFull
	}
	if f != QueueFull {
		t.cold[p].Load().fates[f]++
	} else if l.refused++; l.refused == math.MaxUint16 {
		t.cold[p].Load().settle(l)
	}
	n, bytes := l.load()
	if t.tap != nil {
		t.tap(p, t.packet(r.h, r.s), f, n, l.maxN.Load(), bytes, l.maxBytes)
	}
	if in.watch != nil {
		in.saw(p, f, r, n)
	}
	t.pool.dropTail(r)
	if l.state&full == 0 {
		l.state |= full
		t.log.Add(Event{Type: QueueFilled, Port: p, Fate: f, Count: uint64(n)})
	}
}

// saw tells the watcher of a frame that got its fate at once.
func (in *Ingress) saw(p Port, f Fate, r ref, depth uint32) {
	r.s.depth = depth
	in.watch.In(in.t.packet(r.h, r.s), Sight{Line: p, Fate: f, Now: r.s.at})
}

// showLocked tells the tap of the packets that were just queued, or lent to the
// reader, one by one.
func (in *Ingress) showLocked(p Port, l *line, c chain) {
	n, bytes := l.load()
	n, bytes = n-c.n, bytes-c.bytes
	for h, k := c.first, c.n; k > 0; k-- {
		s := in.t.pool.slot(h)
		n, bytes = n+1, bytes+s.charge
		in.t.tap(p, in.t.packet(h, s), NoFate, n, l.maxN.Load(), bytes, l.maxBytes)
		h = s.next
	}
}
