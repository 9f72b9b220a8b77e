// Package flow keeps a timeline of every conversation of the host, derived from the
// packets that pass, and explains it. Nothing here holds up a packet: the taps In and
// Out look on, and what they cannot keep is counted.
//
// A packet's way through this package, downward through its files:
//
//	flow.go      the table, its taps, and the path of a data segment of a known flow
//	index.go     key to record: open addressing, read without a lock; the age of records
//	track.go     segments that matter: SYN, FIN, RST, loss, windows, drops
//	cold.go      what is kept of them; ladder.go: the first and last of each flow
//	events.go    what the door and the service say
//	record.go    what arrived at and left each port's queues
//	snapshot.go  flows by value; changes.go: which have changed; text.go, json.go: as text
//	replay.go    a recorded port again, with another size; server.go: and its service
//	why.go       sentences; cause.go: by cause; sizes.go: and sizes
//
// What it is not: a capture (it keeps no payload and no second of a bulk transfer), a
// TCP state machine that judges segments (the stack does), or a billing record (data
// is counted by sequence numbers).
package flow

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"porthole/demux"
	"porthole/demux/packet"
	"porthole/impair"
	"porthole/internal/limit"
)

// Table holds the flows. Most packets are data of an established flow and change one
// word of one record, with one atomic exchange and no lock:
//
//	hot record (64 bytes)   the key; per direction the next sequence number and when
//	                        it was last seen; bits that say what is ordinary
//	cold record             all else, touched under mu by the segments that matter
//
// A segment is ordinary when the flow is established, it continues where the last one
// of its direction ended, and neither it nor the last one closed the window. All other
// segments take mu, which is held for no longer than one record's update.
//
// Bounds: Options.Flows records; one that is new when all are in use takes the place
// of the one not seen for longest (to about a millisecond), and Stats.Evicted counts
// it. What a closed port refuses, and what a queue refuses of a peer without a record,
// gets into the table refusedPerSecond times a second at most: a flood must not take the
// timelines of all others away, and Stats.Skipped counts what went without. Ladders and recorders have
// bounds of their own. A nil Table is one that is
// switched off: every tap returns at once.
type Table struct {
	index []atomic.Uint32
	hot   []hot
	mask  uint32 // of a place in the index
	low   uint32 // bits of an index entry that name the record
	seed  [3]uint64
	start time.Time

	recorders recorders

	mu      sync.Mutex
	hashes  []uint32 // of the records' keys
	zeros   map[uint16]*spells
	cold    []*[coldSlab]cold
	used    uint32 // records handed out so far; never given back but by eviction
	ages    ages
	rungs   rungs
	nextID  ID
	evicted uint64
	skipped atomic.Uint64
	refused *limit.Limit // makes timelines of what is refused
	trouble uint32       // 1 + the record of the flow that last had something to explain
	newest  uint32       // 1 + the record of the newest flow
	changes changes
}

// Options bound a Table.
type Options struct {
	Flows    int       // most flows; 0: DefaultFlows; at most MaxFlows
	Start    time.Time // what the taps' time 0 was by the wall clock
	Changes  int       // flow changes kept for Since; 0: 4096
	Ports    int       // ports whose queues are recorded for Why; 0: 64
	PerPort  int       // arrivals and departures kept of each; 0: 4096
	NoRecord bool      // record no port at all
}

// Bounds of the number of flows.
const (
	DefaultFlows = 1 << 16
	MaxFlows     = 1 << 20

	refusedPerSecond = 1000
	refusedBurst     = 4096
)

// hot is the part of a record that every packet reads. Its words are written by
// holders of mu, but dir, which a data segment advances by itself.
type hot struct {
	key   [5]atomic.Uint64 // as in key
	dir   [2]atomic.Uint64 // next sequence number (UDP: datagrams), tick
	state atomic.Uint32    // generation of the record and the bits below
	// window is what the host offered last, as sent, and the bit inSYN.
	window atomic.Uint32
}

// inSYN marks a window of a segment with SYN, which is not scaled (RFC 7323, 2.2).
const inSYN = 1 << 16

// The bits of hot.state.
const (
	established uint32 = 1 << iota // data may flow
	isUDP
	dataIn  // data has been seen from the client
	dataOut // and from the host
	zeroIn  // the client's last segment closed its window
	zeroOut // the host's did
	wasRead // the service has read from it
	stateBits
)

// Direction of a packet, as seen from the host.
type Direction uint8

// The directions.
const (
	In Direction = iota
	Out
)

func (d Direction) String() string { return [...]string{"in", "out"}[d] }

// tick is the resolution of a flow's age: 2^20 ns.
func tick(now int64) uint32 { return uint32(uint64(now) >> 20) }

// New makes a table. All but the ladders and cold records, which grow with use, is
// allocated here: about 5 MB for DefaultFlows.
func New(o Options) *Table {
	n := o.Flows
	if n <= 0 {
		n = DefaultFlows
	}
	n = min(n, MaxFlows)
	t := &Table{start: o.Start, hot: make([]hot, n), hashes: make([]uint32, n), zeros: map[uint16]*spells{}, nextID: 1,
		refused: limit.New(refusedPerSecond, refusedBurst)}
	for i := range t.seed {
		t.seed[i] = rand.Uint64() | 1
	}
	t.initIndex(n)
	t.ages.init(n)
	t.rungs.init(n)
	t.changes.init(o.Changes)
	t.recorders.init(o)
	return t
}

// Decision is what became of a packet that arrived, and which queue decided so: how
// many it held and may hold. Bytes are of UDP queues.
type Decision struct {
	Fate              demux.Fate
	Depth, Limit      uint32
	Bytes, LimitBytes uint32
	Rules             impair.Fault // what impairment rules did to the packet
}

// In sees one packet that arrived, when its fate is known; a datagram that was queued
// has NoFate, and Read tells of the rest. ip is the packet from its IP header on, all
// headers within. Packets that are neither TCP nor UDP are not looked at. It reports
// whether a segment acknowledges what the host has not sent yet, in a flow that was
// seen from its first segment on.
func (t *Table) In(now int64, ip []byte, i *packet.Info, d Decision) (unsent bool) {
	if t == nil {
		return false
	}
	if i.Kind == packet.TCP && d.Fate == demux.ToStack {
		if i.TCPFlags&(packet.SYN|packet.FIN|packet.RST) == 0 && t.data(now, In, ip, i) {
			return false
		}
	} else if i.Kind == packet.UDP && !d.Fate.Dropped() {
		t.arrived(now, i, d)
		if t.data(now, In, ip, i) {
			return false
		}
	} else if i.Kind > packet.UDP {
		return false
	} else if i.Kind == packet.UDP {
		t.arrived(now, i, d)
	}
	return t.slow(now, In, ip, i, d)
}

// Out sees one packet that the host sends, complete but for its checksum. A
// super-packet is one packet.
func (t *Table) Out(now int64, ip []byte, i *packet.Info) {
	if t == nil || i.Kind > packet.UDP {
		return
	}
	if i.TCPFlags&(packet.SYN|packet.FIN|packet.RST) == 0 && t.data(now, Out, ip, i) {
		return
	}
	t.slow(now, Out, ip, i, Decision{Fate: demux.ToStack})
}

// data handles an ordinary segment or datagram of a known flow; false means that the
// packet is not one. The state is read before and after the record's other words: a
// record that was taken for another flow meanwhile has another generation. Should that
// happen after the check, the exchange fails, for the new flow's numbers are others.
func (t *Table) data(now int64, d Direction, ip []byte, i *packet.Info) bool {
	var k key
	k.meta = metaOf(d, i)
	var r *hot
	var st uint32
	if i.Version == 4 {
		k.addr[0] = addrs4(d, ip)
		h := t.hash4(k.meta, k.addr[0])
		at, tag := uint32(h)&t.mask, uint32(h>>32)&^t.low
		for {
			e := t.index[at].Load()
			if e&^t.low == tag && e != 0 {
				r = &t.hot[e&t.low-1]
				st = r.state.Load()
				if r.key[0].Load() == k.meta && r.key[1].Load() == k.addr[0] {
					break
				}
			} else if e == 0 {
				return false
			}
			at = (at + 1) & t.mask
		}
	} else {
		k.addrs6(d, ip)
		if r, _ = t.search(t.hash(&k), &k); r == nil {
			return false
		}
		if st = r.state.Load(); !r.is(&k) {
			return false
		}
	}
	old := r.dir[d].Load()
	if r.state.Load() != st {
		return false
	}
	next := uint32(old >> 32)
	to := next + 1
	if st&isUDP == 0 {
		h := ip[i.L4 : i.L4+16 : i.L4+16]
		n := uint32(i.PayloadLen())
		if st&(established|zeroIn<<d) != established || n != 0 && st&(dataIn<<d) == 0 ||
			binary.BigEndian.Uint32(h[4:]) != next || binary.BigEndian.Uint16(h[14:]) == 0 ||
			d == In && int32(binary.BigEndian.Uint32(h[8:])-r.next(Out)) > 0 {
			return false
		}
		to = next + n
	} else if st&(dataIn<<d) == 0 {
		return false
	}
	// Half the number space is left for mu's holders to count, so that 4 GiB and
	// more are no less.
	if int32(next^to) < 0 {
		return false
	}
	if !r.dir[d].CompareAndSwap(old, uint64(to)<<32|uint64(tick(now))) {
		return false
	}
	if d == Out && st&isUDP == 0 {
		if w := uint32(binary.BigEndian.Uint16(ip[i.L4+14:])); r.window.Load() != w {
			r.window.Store(w)
		}
	}
	return true
}

// key names a flow in words: protocol, IP version, remote and local port in meta; both
// IPv4 addresses in one more word, the remote above the local, or both IPv6 addresses
// in four.
type key struct {
	meta uint64
	addr [4]uint64
}

func metaOf(d Direction, i *packet.Info) uint64 {
	remote, local := uint64(i.SrcPort), uint64(i.DstPort)
	if d == Out {
		remote, local = local, remote
	}
	return uint64(i.Version)<<40 | uint64(i.Kind)<<32 | remote<<16 | local
}

func addrs4(d Direction, ip []byte) uint64 {
	return bits.RotateLeft64(binary.BigEndian.Uint64(ip[12:20:20]), int(d)*32)
}

func (k *key) addrs6(d Direction, ip []byte) {
	a := ip[8:40:40]
	r, l := a[:16:16], a[16:]
	if d == Out {
		r, l = l, r
	}
	k.addr[0], k.addr[1] = binary.BigEndian.Uint64(r), binary.BigEndian.Uint64(r[8:])
	k.addr[2], k.addr[3] = binary.BigEndian.Uint64(l), binary.BigEndian.Uint64(l[8:])
}

func keyOf(d Direction, ip []byte, i *packet.Info) (k key) {
	k.meta = metaOf(d, i)
	if i.Version == 4 {
		k.addr[0] = addrs4(d, ip)
	} else {
		k.addrs6(d, ip)
	}
	return k
}

func (k *key) isTCP() bool    { return uint8(k.meta>>32) == uint8(packet.TCP) }
func (k *key) remote() uint16 { return uint16(k.meta >> 16) }
func (k *key) local() uint16  { return uint16(k.meta) }

func (r *hot) is(k *key) bool {
	return r.key[0].Load() == k.meta && r.key[1].Load() == k.addr[0] && r.key[2].Load() == k.addr[1] &&
		r.key[3].Load() == k.addr[2] && r.key[4].Load() == k.addr[3]
}

func (r *hot) setKey(k *key) {
	r.key[0].Store(k.meta)
	for i, w := range k.addr {
		r.key[i+1].Store(w)
	}
}
