package demux

import (
	"slices"
	"time"

	"porthole/demux/packet"
)

// Who scans a host learns what it exposes, so its owner should know first: every port
// counts the packets that came for it while nobody had it. The counters are 1 MiB,
// outlive who binds a port, and are guarded by the closed lane's mutex, for there the
// packets went. Who came is in the timelines; the log has the first after a quiet time.
type knocks struct {
	by    []uint64 // per port
	ports int      // of those, with any
	sum   uint64
	last  int64 // when somebody last asked, ns of Options.Now
	any   bool  // somebody did
}

// quiet is how long nobody must have asked for the log to name who does.
const quiet = int64(time.Minute)

// knockLocked counts frames i to j, which nobody has the ports of.
func (in *Ingress) knockLocked(i, j int) {
	k := &in.t.knocks
	k.sum += uint64(j - i)
	for _, r := range in.slots[i:j] {
		info := &r.s.info
		p := portOf(info)
		if k.by[p]++; k.by[p] == 1 {
			k.ports++
		}
		if in.kind != FromDevice || p.IsTCP() && info.TCPFlags&(packet.SYN|packet.ACK) != packet.SYN {
			continue // what is left of a connection asks for nothing
		}
		if !k.any || r.s.at-k.last >= quiet {
			in.t.log.Add(Event{Type: Knocked, Port: p, Who: in.t.packet(r.h, r.s).From().Addr().String()})
		}
		k.any, k.last = true, r.s.at
	}
}

// Knocks are the ports for which packets came while nobody had them.
type Knocks struct {
	Ports   int    // so many
	Packets uint64 // for them all
	Most    []Knock
}

// Knock is one of those ports.
type Knock struct {
	Port    Port
	Packets uint64
}

// Knocks sums them up, and gives those that most packets came for, the first of them
// first.
func (t *Table) Knocks(most int) (s Knocks) {
	closed, k := &t.lines[LaneClosed], &t.knocks
	closed.mu.Lock()
	s.Ports, s.Packets = k.ports, k.sum
	closed.mu.Unlock()
	if s.Ports == 0 || most <= 0 {
		return s
	}
	const step = 4096 // ports at a time: packets come meanwhile
	for at := 0; at < len(k.by); at += step {
		closed.mu.Lock()
		for i, n := range k.by[at : at+step] {
			if n > 0 && (len(s.Most) < most || n > s.Most[len(s.Most)-1].Packets) {
				s.Most = s.Most[:min(len(s.Most), most-1)]
				place, _ := slices.BinarySearchFunc(s.Most, n, func(o Knock, n uint64) int {
					if o.Packets >= n {
						return -1
					}
					return 1
				})
				s.Most = slices.Insert(s.Most, place, Knock{Port(at + i), n})
			}
		}
		closed.mu.Unlock()
	}
	return s
}
