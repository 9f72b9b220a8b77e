// Package model holds the experiments on a virtual clock. They drive the product's
// own queue (demux.Table) and door (demux.Door): packets are built, classified,
// admitted and popped as in a running host; only the clock is theirs.
package model

import (
	"encoding/binary"
	"net/netip"

	"porthole/demux"
	"porthole/demux/packet"
)

var (
	hostAddr = netip.MustParseAddr("10.77.0.1")
	peerAddr = netip.MustParseAddr("10.77.0.2")
)

const queuePort = 53

// dataValid is virtio's flag of a packet whose checksum the device vouches for.
const dataValid = 2

// queue is one UDP port of the product on a virtual clock. Each datagram carries the
// time it came and a number.
type queue struct {
	t    *demux.Table
	in   *demux.Ingress
	port demux.Port
	now  int64
	ip   []byte // a datagram with 16 bytes of payload
}

// newQueue makes a queue with these limits and that policy.
func newQueue(limits demux.Limits, policy demux.Policy) *queue {
	q := &queue{port: demux.UDPPort(queuePort)}
	q.t = demux.New(demux.Options{Packets: limits.Packets + 2048, Events: 1, Now: func() int64 { return q.now }})
	q.t.SetAddrs(demux.NewAddrs(netip.PrefixFrom(hostAddr, 24)))
	if err := q.t.Bind(q.port, demux.Config{Owner: "lab", Limits: limits, Policy: policy, Socket: true}); err != nil {
		panic(err) // a fresh table has the port
	}
	q.in = q.t.NewIngress(nil)
	q.ip = make([]byte, 64)
	n := packet.PutUDP(q.ip, netip.AddrPortFrom(peerAddr, 4000), netip.AddrPortFrom(hostAddr, queuePort), 64, 1, make([]byte, 16))
	q.ip = q.ip[:n+16]
	return q
}

// arrive brings one datagram in at now.
func (q *queue) arrive(now int64, number uint64) {
	q.now = now
	b := q.in.Room(0)
	n := copy(b, q.ip)
	binary.BigEndian.PutUint64(b[n-16:], uint64(now))
	binary.BigEndian.PutUint64(b[n-8:], number)
	q.in.Put(0, n, &demux.Offload{Flags: dataValid})
	q.in.Deliver(1)
}

// take is the server's next datagram at now: when it came, and its number.
func (q *queue) take(now int64) (came int64, number uint64, ok bool) {
	q.now = now
	p, ok, err := q.t.Pop(q.port)
	if err != nil || !ok {
		return 0, 0, false
	}
	var b [16]byte
	p.CopyPayload(b[:])
	q.t.Free(p)
	return int64(binary.BigEndian.Uint64(b[:])), binary.BigEndian.Uint64(b[8:]), true
}

// lost is how many the queue has refused or thrown away since it was made.
func (q *queue) lost() uint64 {
	s := q.t.Port(q.port)
	if err := s.Check(); err != nil {
		panic(err) // the law of the ledger; see demux
	}
	n := uint64(0)
	for f, c := range s.Fates {
		if demux.Fate(f).Dropped() {
			n += c
		}
	}
	return n
}
