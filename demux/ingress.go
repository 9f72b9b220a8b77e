package demux

import (
	"encoding/binary"
	"slices"
	"sync"

	"porthole/demux/packet"
)

// BatchSize is the most frames one Deliver takes.
const BatchSize = 64

// inlineMax is the most packets of one port that the reader serves itself in one
// batch, so that one busy port cannot keep it from the others.
const inlineMax = 16

// Ingress is where one reader's frames come in. The reader fills the room of free
// slots, says with Put how each was filled, and calls Deliver: all frames are
// classified first, then the lines are touched, then runs of one port are pushed
// under one lock. It never waits: what finds no place has a fate. One goroutine
// owns it; mu is only contended by a snapshot of the whole host.
type Ingress struct {
	t        *Table
	kind     Kind
	ethernet bool
	hw       [6]byte

	inject  sync.Mutex // held by Inject, which shares an ingress among goroutines
	mu      sync.Mutex
	arrived uint64           // frames; guarded by mu
	odd     [NumKinds]uint64 // of those, by kind, what is not of the ingress's own; guarded by mu
	watch   *Watcher         // of this batch; guarded by mu
	closed  bool             // guarded by Table.mu

	size   int            // most frames in a batch
	slots  [BatchSize]ref // the batch: filled or free slots
	line   [BatchSize]Port
	fate   [BatchSize]Fate
	spare  [BatchSize]ref // free slots to replace those that were queued
	spareN int
	scarce bool // packet memory was, when it was last looked at
	marked int  // frames of the batch that rules touched (see Mark)

	slow      bool   // kinds are counted packet by packet
	releasing bool   // what is pushed comes out of its port's rules
	buf       []byte // of one piece of a super-packet

	ready        [BatchSize]uint32 // lines to put into the run queue
	wakes        [BatchSize]*cold  // sockets to wake
	runs         [BatchSize]Run    // to serve inline
	ends         [BatchSize]runEnd // of runs, while they grow
	nr, nw, nrun int
}

// NewIngress makes an entrance for a device's reader. With hw not nil frames are
// Ethernet and those to other link addresses are not for us.
func (t *Table) NewIngress(hw []byte) *Ingress {
	in := t.newIngress(FromDevice, BatchSize)
	if len(hw) == 6 {
		in.ethernet, in.hw = true, [6]byte(hw)
	}
	return in
}

func (t *Table) newIngress(kind Kind, size int) *Ingress {
	in := &Ingress{t: t, kind: kind, size: size, slow: kind != FromDevice}
	if n, _ := t.pool.take(in.slots[:size]); n < size {
		panic("demux: packet pool smaller than one batch per reader")
	}
	t.mu.Lock()
	t.ingresses = append(t.ingresses, in)
	t.mu.Unlock()
	return in
}

// Room is where the first bytes of the batch's frame i go: HeadSize bytes.
func (in *Ingress) Room(i int) []byte { return in.slots[i].s.room[:] }

// Put says that frame i of the batch is n bytes, all in its room. A frame is put once
// before it is delivered.
func (in *Ingress) Put(i, n int, off *Offload) {
	s := in.slots[i].s
	s.headLen = uint16(n)
	s.off = *off
	s.kind, s.mark = in.kind, 0
}

// PutTail says that frame i of the batch has n bytes in its room and the rest in tail.
func (in *Ingress) PutTail(i, n int, tail Tail, off *Offload) {
	in.Put(i, n, off)
	r := in.slots[i]
	in.t.pool.dropTail(r) // of a frame that was put and never delivered
	if len(tail.Bytes) > 0 {
		in.t.pool.setTail(r, tail)
	}
}

// Deliver classifies the first n frames of the batch and queues them. It returns
// the runs that the reader shall serve itself, now, with ServeRun; they are valid
// until the next Deliver.
func (in *Ingress) Deliver(n int) []Run {
	t := in.t
	var now int64
	if t.now != nil {
		now = t.now()
	}
	in.mu.Lock()
	in.arrived += uint64(n)
	in.watch = t.watch.Load()
	if in.spareN < n || in.scarce {
		var k int
		k, in.scarce = t.pool.take(in.spare[in.spareN:max(in.spareN, n)])
		in.spareN += k
	}
	in.nr, in.nw, in.nrun = 0, 0, 0

	a := t.addrs.Load()
	for i := range n {
		in.line[i], in.fate[i] = in.classify(in.slots[i], a, now)
	}
	// A loop of nothing but loads: the misses of many ports overlap.
	last, lines := numLines, t.lines
	for _, p := range in.line[:n] {
		if p != last {
			lines[p].maxN.Load()
			last = p
		}
	}
	if in.marked > 0 || t.delays.ports.Load() > 0 {
		in.deliverSlowly(n)
		n = 0
	}
	for i := 0; i < n; {
		p := in.line[i]
		j := i + 1
		for j < n && in.line[j] == p {
			j++
		}
		if p == LaneHost {
			in.count(i, j)
		} else {
			in.push(p, i, j)
		}
		i = j
	}
	in.mu.Unlock()

	if in.nr > 0 {
		t.rq.add(in.ready[:in.nr]...)
	}
	for _, co := range in.wakes[:in.nw] {
		co.signal()
	}
	return in.runs[:in.nrun]
}

// classify parses a frame and finds its line: for a port that nobody has, the
// closed lane.
func (in *Ingress) classify(r ref, a *Addrs, now int64) (Port, Fate) {
	s, i := r.s, &r.s.info
	s.at, s.l2 = now, 0
	head := s.room[:s.headLen]
	if s.more != 0 || in.ethernet {
		return in.classifyRest(r, head, a)
	}
	if h := (*[40]byte)(s.room[:]); i.ParsePlain(h, len(head)) {
		// Nearly all packets, from a usual address to our only one.
		s.charge = charge(i)
		switch ours, sumOK := a.usual4((*[20]byte)(h[:])); {
		case !ours:
		case !sumOK, s.off.Flags == 0 && !packet.VerifyTransport(i, head, nil):
			return LaneHost, BadChecksum
		default:
			return in.t.lineFor(i), NoFate
		}
	}
	if i.Parse(head, len(head)) != packet.None {
		return LaneHost, Malformed
	}
	s.charge = charge(i)
	return in.t.lineOf(i, head, nil, &s.off, in.kind, a, false)
}

// charge is what a packet costs its queue.
func charge(i *packet.Info) uint32 {
	if i.Kind == packet.UDP {
		return Overhead + uint32(i.PayloadLen())
	}
	return Overhead + i.Length
}

// portOf is the port that a TCP or UDP packet goes to.
func portOf(i *packet.Info) Port {
	return Port(i.Kind)*portsPerProto + Port(i.DstPort) // TCP is 0, UDP 1
}

// lineFor is portOf, or the closed lane when nobody has it.
func (t *Table) lineFor(i *packet.Info) Port {
	p := portOf(i)
	if !t.isBound(p) {
		return LaneClosed
	}
	return p
}

// classifyRest is classify for frames with a link header or a tail.
func (in *Ingress) classifyRest(r ref, head []byte, a *Addrs) (Port, Fate) {
	s, i := r.s, &r.s.info
	var tail []byte
	if s.more != 0 {
		tail = in.t.pool.tail(r.h).Bytes
	}
	version := uint8(0) // by the link header
	toAll := in.ethernet && len(head) > 0 && head[0]&1 != 0
	if in.ethernet {
		var line Port
		var fate Fate
		line, fate, version = in.link(head)
		if fate != NoFate || line == LaneLink {
			*i = packet.Info{}
			s.charge = Overhead + uint32(len(head)+len(tail))
			return line, fate
		}
		s.l2 = packet.EthernetSize
		head = head[packet.EthernetSize:]
	}
	if i.Parse(head, len(head)+len(tail)) != packet.None || version != 0 && version != i.Version {
		return LaneHost, Malformed
	}
	s.charge = charge(i)
	if tail != nil && int(i.Length) <= len(head) {
		in.t.pool.dropTail(r) // nothing but padding: nobody pays for it
		tail = nil
	}
	return in.t.lineOf(i, head, tail, &s.off, in.kind, a, toAll)
}

// link judges an Ethernet header. ARP goes to the link lane; IP is told by a
// LaneHost without a fate, and its version.
func (in *Ingress) link(b []byte) (line Port, f Fate, version uint8) {
	if len(b) < packet.EthernetSize {
		return LaneHost, Malformed, 0
	}
	if b[0]&1 == 0 && [6]byte(b[:6]) != in.hw {
		return LaneHost, NotForUs, 0
	}
	if [6]byte(b[6:12]) == in.hw || b[6]&1 != 0 {
		return LaneHost, Martian, 0
	}
	switch binary.BigEndian.Uint16(b[12:]) {
	case packet.EtherIPv4:
		return LaneHost, NoFate, 4
	case packet.EtherIPv6:
		return LaneHost, NoFate, 6
	case packet.EtherARP:
		return LaneLink, NoFate, 0
	}
	return LaneHost, UnknownProto, 0
}

// Inject brings in one packet that no device reader read: reassembled by the
// stack, or sent by the host to itself. The pieces are copied. It may be called
// from any goroutine that holds no lock of this package.
func (t *Table) Inject(kind Kind, off Offload, pieces ...[]byte) {
	in := t.injectors[kind]
	in.inject.Lock()
	defer in.inject.Unlock()
	room := in.Room(0)
	n := 0
	var tail []byte
	for _, b := range pieces {
		k := copy(room[n:], b)
		n += k
		tail = append(tail, b[k:]...)
	}
	in.PutTail(0, n, Tail{Bytes: tail}, &off)
	in.Deliver(1)
}

// Close gives the batch's slots back. The reader has ended; what it put and did not
// deliver never arrived. A second Close does nothing.
func (in *Ingress) Close() {
	t := in.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if in.closed {
		return
	}
	in.closed = true
	in.mu.Lock()
	defer in.mu.Unlock()
	for k, n := range in.kindsLocked() {
		t.ended[k] += n
	}
	t.ingresses = slices.DeleteFunc(t.ingresses, func(o *Ingress) bool { return o == in })
	for _, r := range append(in.slots[:in.size:in.size], in.spare[:in.spareN]...) {
		t.pool.dropTail(r)
		t.pool.give(r.h, r.s, 1)
	}
	clear(in.slots[:]) // a late use fails loudly
	in.spareN = 0
}
