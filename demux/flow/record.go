package flow

import (
	"slices"
	"sync"
	"sync/atomic"

	"porthole/demux"
	"porthole/demux/packet"
)

// A recorder keeps what arrived at the queues of one port and what left them, so that
// it can be played again with other sizes: a ring of the newest Options.PerPort
// events; what it has overwritten is known as missed. There are Options.Ports of
// them; the one idle for longest, idlePort at least, makes room for another port,
// else that port is not recorded and Stats.Unrecorded counts its events. Ports that
// nobody listens on are never recorded. Each has a mutex of its own, which is held
// for one event.
type recorder struct {
	port demux.Port

	mu   sync.Mutex
	ring []event // grows by doubling up to most
	most int
	told bool   // its service says when it is idle
	held bool   // accept=never held it back when the oldest of ring came
	n    uint64 // events ever
	last int64
}

// idlePort is how long a port's recorder keeps its place without an event, ns.
const idlePort = int64(10e9)

type eventKind uint8

const (
	evSyn      eventKind = iota // fate of a SYN
	evAck                       // fate of a final ACK
	evAccept                    // the service took a connection, which had waited
	evGone                      // a half-open connection was reset
	evArrive                    // fate of a datagram
	evRead                      // the service took one
	evLost                      // the queue's policy dropped one that was queued
	evIdle                      // the service looked for one, found none, and waits
	evHeld                      // accept=never keeps the service from its queue from now on
	evFreed                     // or does so no longer
	evReleased                  // its owner let the port go: nothing of the queues outlives that
)

type event struct {
	at           int64
	flow         ID
	waited       int64
	depth, limit uint32 // packets, or connections
	bytes, most  uint32 // of a datagram's queue
	charge       uint32 // of a datagram
	kind         eventKind
	fate         demux.Fate
}

const pageSize = 256

// recorders finds a port's recorder without a lock.
type recorders struct {
	pages [2 << 16 / pageSize]atomic.Pointer[[pageSize]atomic.Pointer[recorder]]
	off   bool
	ports int
	most  int

	mu         sync.Mutex
	limits     map[uint16][2]int // of TCP ports: accept queue, SYN queue; as many as there are ports
	all        []*recorder
	unrecorded atomic.Uint64
}

func (rs *recorders) init(o Options) {
	rs.off, rs.ports, rs.most = o.NoRecord, o.Ports, o.PerPort
	if rs.ports <= 0 {
		rs.ports = 64
	}
	if rs.most <= 0 {
		rs.most = 4096
	}
}

func (rs *recorders) find(p demux.Port) *recorder {
	if p.IsLane() {
		return nil
	}
	if page := rs.pages[p/pageSize].Load(); page != nil {
		return page[p%pageSize].Load()
	}
	return nil
}

func (rs *recorders) add(p demux.Port, e event) {
	if rs.off {
		return
	}
	r := rs.find(p)
	if r == nil {
		if r = rs.open(p, e.at); r == nil {
			rs.unrecorded.Add(1)
			return
		}
	}
	r.mu.Lock()
	if r.port != p { // it went to another port meanwhile
		r.mu.Unlock()
		rs.unrecorded.Add(1)
		return
	}
	if n := len(r.ring); r.n >= uint64(n) && n < r.most {
		r.ring = slices.Grow(r.ring, max(n, 64))[:min(max(2*n, 64), r.most)]
	}
	old := &r.ring[r.n%uint64(len(r.ring))]
	r.held = old.holds(r.held) // it was the oldest, or is none
	*old = e
	r.told = r.told || e.kind == evIdle
	r.n++
	r.last = max(r.last, e.at)
	r.mu.Unlock()
}

// open gives a port a recorder, a new one or the idlest.
func (rs *recorders) open(p demux.Port, now int64) *recorder {
	if p.IsLane() {
		return nil
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if r := rs.find(p); r != nil {
		return r
	}
	var r *recorder
	if len(rs.all) < rs.ports {
		r = &recorder{port: p, most: rs.most, last: now}
		rs.all = append(rs.all, r)
	} else {
		for _, o := range rs.all {
			o.mu.Lock()
			if now-o.last >= idlePort && (r == nil || o.last < r.last) {
				r = o
			}
			o.mu.Unlock()
		}
		if r == nil {
			return nil
		}
		rs.slot(r.port).Store(nil)
		r.mu.Lock()
		r.port, r.n, r.last, r.told, r.held = p, 0, now, false, false
		clear(r.ring)
		r.mu.Unlock()
	}
	rs.slot(p).Store(r)
	return r
}

func (rs *recorders) slot(p demux.Port) *atomic.Pointer[recorder] {
	page := rs.pages[p/pageSize].Load()
	if page == nil {
		page = new([pageSize]atomic.Pointer[recorder])
		rs.pages[p/pageSize].Store(page)
	}
	return &page[p%pageSize]
}

// holds says whether a service is held back after an event, when it was before.
func (e *event) holds(before bool) bool {
	switch e.kind {
	case evHeld:
		return true
	case evFreed, evReleased:
		return false
	}
	return before
}

// record is a copy of what a recorder holds, oldest first.
type record struct {
	events []event
	missed uint64 // events before these
	told   bool   // the service says when it is idle
	held   bool   // the service was held back when they begin
	until  int64  // nothing else happened until then
}

func (rs *recorders) record(p demux.Port, now int64) (c record) {
	r := rs.find(p)
	if r == nil {
		return c
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.port != p {
		return c
	}
	have := min(r.n, uint64(len(r.ring)))
	c = record{make([]event, 0, have), r.n - have, r.told, r.held, now}
	for i := r.n - have; i < r.n; i++ {
		c.events = append(c.events, r.ring[i%uint64(len(r.ring))])
	}
	return c
}

// DoorLimits tells how a TCP port's queues are configured, when it is bound and when
// that changes, so that Why can name both where enlarging one makes the other the
// tighter one. Released forgets it.
func (t *Table) DoorLimits(port uint16, acceptQueue, synQueue int) {
	if t == nil {
		return
	}
	t.recorders.mu.Lock()
	defer t.recorders.mu.Unlock()
	if t.recorders.limits == nil {
		t.recorders.limits = map[uint16][2]int{}
	}
	t.recorders.limits[port] = [2]int{acceptQueue, synQueue}
}

// Released tells that its owner has let a port go.
func (t *Table) Released(now int64, p demux.Port) {
	if t == nil || p.IsLane() {
		return
	}
	if p.IsTCP() {
		t.recorders.mu.Lock()
		delete(t.recorders.limits, p.Number())
		t.recorders.mu.Unlock()
	}
	if t.recorders.find(p) != nil {
		t.recorders.add(p, event{at: now, kind: evReleased})
	}
}

// Held tells that accept=never keeps a port's service from its queue, or no longer does.
func (t *Table) Held(now int64, p demux.Port, on bool) {
	if t == nil || p.IsLane() {
		return
	}
	e := event{at: now, kind: evFreed}
	if on {
		e.kind = evHeld
	}
	t.recorders.add(p, e)
}

func (rs *recorders) limitsOf(p demux.Port) (l [2]int, ok bool) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	l, ok = rs.limits[p.Number()]
	return l, ok && p.IsTCP()
}

// arrived records a datagram for the queue of its port.
func (t *Table) arrived(now int64, i *packet.Info, d Decision) {
	switch d.Fate {
	case demux.NoFate, demux.QueueFull:
		t.recorders.add(demux.UDPPort(i.DstPort), event{at: now, kind: evArrive, fate: d.Fate, charge: chargeOf(i),
			depth: d.Depth, limit: d.Limit, bytes: d.Bytes, most: d.LimitBytes})
	}
}

// chargeOf is what a datagram costs its queue.
func chargeOf(i *packet.Info) uint32 { return demux.Overhead + uint32(i.PayloadLen()) }

// recordLocked records what a segment did to the door's queues. completes says that it
// is a final ACK.
func (t *Table) recordLocked(c *cold, s *segment, completes bool) {
	e := event{at: s.now, flow: c.id, fate: s.dec.Fate, depth: s.dec.Depth, limit: s.dec.Limit}
	switch {
	case c.hostFirst || c.partial:
		return
	case s.flags&packet.RST != 0:
		if c.handshook != 0 || c.syns[Out] == 0 || c.feint(s) {
			return // it did not stand in the SYN queue, or does so still
		}
		e.kind, e.fate = evGone, demux.NoFate
	case s.d == Out:
		return
	case s.flags&packet.SYN != 0:
		e.kind = evSyn
	case completes:
		e.kind = evAck
	default:
		return
	}
	switch e.fate {
	case demux.NoFate, demux.ToStack, demux.SynQueueFull, demux.SynCookie, demux.AcceptQueueFull:
		t.recorders.add(c.k.port(), e)
	}
}
