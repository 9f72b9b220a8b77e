package demux

import "sync"

// runq holds the ports that have packets for workers, each at most once, in the
// order in which they became ready. Workers take one port at a time, serve a
// quantum of it, and put it back at the end: deficit round robin, one server per
// port. 65,536 bound ports cost no goroutine.
type runq struct {
	mu     sync.Mutex
	wake   sync.Cond
	next   []uint32 // per line: the following line's index + 1
	head   uint32   // index + 1
	tail   uint32
	idle   int // workers that wait
	closed bool
}

// quantum is what a port may have served in one turn; minCost is the least that
// one packet is charged for its turn, since a small packet costs the stack about
// as much work as a few KiB.
const (
	quantum = 64 << 10
	minCost = 4 << 10
)

func (q *runq) init(lines int) {
	q.wake.L = &q.mu
	q.next = make([]uint32, lines)
}

// add appends ports and wakes as many workers as there is new work for.
func (q *runq) add(lines ...uint32) {
	q.mu.Lock()
	for _, i := range lines {
		q.next[i] = 0
		if q.tail == 0 {
			q.head = i + 1
		} else {
			q.next[q.tail-1] = i + 1
		}
		q.tail = i + 1
	}
	n := min(q.idle, len(lines))
	q.mu.Unlock()
	for ; n > 0; n-- {
		q.wake.Signal()
	}
}

// take waits for a port; ok is false after close.
func (q *runq) take() (line uint32, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.head == 0 && !q.closed {
		q.idle++
		q.wake.Wait()
		q.idle--
	}
	if q.closed {
		return 0, false
	}
	line = q.head - 1
	q.head = q.next[line]
	if q.head == 0 {
		q.tail = 0
	}
	return line, true
}

func (q *runq) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.wake.Broadcast()
}

// Run is a chain of packets of one port, taken out to be served. They count as
// queued until Finish.
type Run struct {
	Port  Port
	first uint32
	n     uint32
}

// Work serves ports until StopWork: the body of one worker goroutine. serve gives
// each packet its fate; it may wait for the device, nothing else.
func (t *Table) Work(serve func(Port, Packet) Fate) {
	for {
		i, ok := t.rq.take()
		if !ok {
			return
		}
		if r, ok := t.takeRun(i); ok {
			t.ServeRun(r, serve)
		}
	}
}

// StopWork makes every Work return after the run it serves.
func (t *Table) StopWork() {
	t.rq.close()
	t.delays.stop()
}

// takeRun takes a port's next quantum. The port was in the run queue.
func (t *Table) takeRun(i uint32) (Run, bool) {
	l := &t.lines[i]
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.state &^ ready
	if l.n == 0 || st&socket != 0 { // released meanwhile, and perhaps bound again
		l.state = st
		return Run{}, false
	}
	l.deficit += quantum
	r := Run{Port: Port(i), first: l.head}
	for l.n > 0 {
		cost := int32(min(max(t.pool.slot(l.head).charge, minCost), quantum))
		if cost > l.deficit {
			break
		}
		l.deficit -= cost
		l.popLocked(t.pool)
		r.n++
	}
	if l.n == 0 {
		l.deficit = 0
	}
	l.held += uint8(r.n)
	if l.roomy() {
		st &^= full
	}
	l.state = st | serving
	return r, true
}

// ServeRun serves the packets of a run in order, counts their fates, frees them,
// and puts the port back into the run queue if more came meanwhile, or wakes the
// socket's owner. A packet of a socket port or a lane that a reader's serve gives NoFate
// goes back to the queue with all that follow, as if the reader had never touched them:
// for the owner, or a worker.
func (t *Table) ServeRun(r Run, serve func(Port, Packet) Fate) {
	t.serveRun(r, serve, nil)
}

// ServeRun is Table.ServeRun for a run of Deliver's. Its slots stay with the reader, who
// needs as many for its next batch: the pool hears nothing of what it serves itself.
func (in *Ingress) ServeRun(r Run, serve func(Port, Packet) Fate) {
	in.spareN += in.t.serveRun(r, serve, in.spare[in.spareN:])
}

// serveRun is ServeRun; free gets the slots of as many packets as it has room for.
func (t *Table) serveRun(r Run, serve func(Port, Packet) Fate, free []ref) (kept int) {
	usual := r.Port.usual()
	passed, served := 0, 0
	var counts [NumFates]uint16 // of the others; a run is short
	var gone chain              // what free has no room for
	h := r.first
	for ; served < int(r.n); served++ {
		s := t.pool.slot(h)
		f := serve(r.Port, t.packet(h, s))
		if f == NoFate {
			break
		}
		if f == usual {
			passed++
		} else {
			counts[f]++
		}
		t.pool.dropTail(ref{s, h})
		if kept < len(free) {
			free[kept] = ref{s, h}
			kept++
		} else {
			if gone.n == 0 {
				gone.first = h
			}
			gone.last.s = s
			gone.n++
		}
		h = s.next
	}
	back := t.chainOf(h, int(r.n)-served)
	l := &t.lines[r.Port]
	l.mu.Lock()
	l.held -= uint8(r.n)
	l.passed += uint64(passed)
	co := t.cold[r.Port].Load()
	st := l.state
	if back.n > 0 && st&lent == 0 { // released, or another's by now
		counts[PortReleased] += uint16(back.n)
	} else if back.n > 0 {
		l.returnLocked(back)
	}
	if passed < int(r.n) {
		for f, n := range counts {
			co.fates[f] += uint64(n)
		}
	}
	lost := back.n > 0 && st&lent == 0
	if st&lent != 0 {
		l.deficit = 0
	}
	again, wake := false, false
	switch {
	case l.n == 0:
	case st&socket == 0:
		if again = st&ready == 0; again {
			st |= ready
		}
	case st&lent != 0:
		if wake = st&waiting != 0; wake {
			st &^= waiting
		}
	}
	l.state = st &^ (serving | lent)
	l.mu.Unlock()
	t.pool.give(gone.first, gone.last.s, int(gone.n))
	if lost {
		t.sawChain(r.Port, PortReleased, back.first, int(back.n))
		t.freeChain(back.first, int(back.n))
	}
	if again {
		t.rq.add(uint32(r.Port))
	}
	if wake {
		co.signal()
	}
	return kept
}

// chainOf is the chain of n packets that begins with h.
func (t *Table) chainOf(h uint32, n int) (c chain) {
	for c.first, c.n = h, uint32(n); n > 0; n-- {
		c.last = ref{t.pool.slot(h), h}
		c.bytes += c.last.s.charge
		h = c.last.s.next
	}
	return c
}
