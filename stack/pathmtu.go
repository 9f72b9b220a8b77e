package stack

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"porthole/demux"
	"porthole/demux/packet"
	"porthole/tun"
)

// paths are IPv6 peers that can be reached with shorter packets only than the link
// takes (RFC 8201). Netstack heeds a packet-too-big for TCP alone. What else the host
// sends to such a peer, echo replies, datagrams and fragments of both, is cut to fit
// just before it leaves. IPv4 needs none of it: but for TCP the host never sets DF.
//
// Bound: maxPaths peers; one more takes the place of any. A path is forgotten after
// pathLife, and the next packet tries its luck with the link's MTU again.
type paths struct {
	known atomic.Int32 // entries: while there is none, nobody takes mu
	now   func() time.Time

	mu   sync.Mutex
	list map[netip.Addr]path
}

type path struct {
	mtu   int
	until time.Time
}

const (
	maxPaths = 1024
	pathLife = 10 * time.Minute // RFC 8201, 4
)

func (ps *paths) init() { ps.now, ps.list = time.Now, map[netip.Addr]path{} }

// tooBig takes what a packet-too-big says, if it is about a packet that the host may
// have sent and that was longer than that.
func (s *Stack) tooBig(p demux.Packet) {
	i, b := p.Info(), p.IP()
	if i.Version != 6 || i.ICMPType != 2 || int(i.L4)+8+40 > len(b) {
		return
	}
	m, inner := b[i.L4:], b[i.L4+8:]
	mtu := binary.BigEndian.Uint32(m[4:])
	long := uint32(binary.BigEndian.Uint16(inner[4:])) + 40
	if inner[0]>>4 != 6 || mtu < minMTU6 || mtu >= uint32(s.facts.MTU) || long <= mtu {
		return // less than 1280 is not believed (RFC 8201, 4)
	}
	from, to := netip.AddrFrom16([16]byte(inner[8:])), netip.AddrFrom16([16]byte(inner[24:]))
	for _, a := range s.addrs {
		if a.Addr() == from {
			s.paths.set(to, int(mtu))
			return
		}
	}
}

func (ps *paths) set(to netip.Addr, mtu int) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	now := ps.now()
	if have, ok := ps.list[to]; ok && have.mtu < mtu && now.Before(have.until) {
		return // a path never grows by word of mouth
	} else if !ok && len(ps.list) >= maxPaths {
		for a := range ps.list {
			delete(ps.list, a)
			break
		}
	}
	ps.list[to] = path{mtu, now.Add(pathLife)}
	ps.known.Store(int32(len(ps.list)))
}

// get is the path's MTU, or 0 when nothing is known of it.
func (ps *paths) get(to netip.Addr) int {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p, ok := ps.list[to]
	if ok && !ps.now().Before(p.until) {
		delete(ps.list, to)
		ps.known.Store(int32(len(ps.list)))
		return 0
	}
	return p.mtu
}

// narrow is what a frame of size bytes must be cut to, or 0.
func (l *link) narrow(head []byte, size int) int {
	if l.s.ethernet() {
		head, size = head[min(len(head), packet.EthernetSize):], size-packet.EthernetSize
	}
	if size <= minMTU6 || len(head) < 40 || head[0]>>4 != 6 || head[6] == protoTCP {
		return 0
	}
	if mtu := l.s.paths.get(netip.AddrFrom16([16]byte(head[24:]))); size > mtu {
		return mtu
	}
	return 0
}

// cut sends a complete IPv6 packet, which may be a fragment itself, in fragments of at
// most mtu bytes (RFC 8200, 4.5). Nothing that the host sends has other extensions.
func (l *link) cut(pieces [][]byte, mtu int, from demux.Origin, wait bool) tcpip.Error {
	var b []byte
	for _, p := range pieces {
		b = append(b, p...)
	}
	l2 := 0
	if l.s.ethernet() {
		l2 = packet.EthernetSize
	}
	const h6, hf = 40, 8
	hdr, rest := b[:l2+h6], b[l2+h6:]
	frag := [hf]byte{0: hdr[l2+6]}
	binary.BigEndian.PutUint32(frag[4:], rand.Uint32())
	if hdr[l2+6] == protoFragment {
		frag, rest = [hf]byte(rest), rest[hf:]
	}
	first := binary.BigEndian.Uint16(frag[2:])
	step := (mtu - h6 - hf) &^ 7
	for at := 0; at < len(rest); at += step {
		n := min(step, len(rest)-at)
		off := first + uint16(at)
		if at+n < len(rest) {
			off |= 1
		}
		f := append(append(append(make([]byte, 0, len(hdr)+hf+n), hdr...), frag[:]...), rest[at:at+n]...)
		binary.BigEndian.PutUint16(f[l2+4:], uint16(hf+n))
		f[l2+6] = protoFragment
		binary.BigEndian.PutUint16(f[l2+h6+2:], off)
		if err := l.write([][]byte{f}, tun.Offload{}, from, wait); err != nil {
			return err
		}
	}
	return nil
}

// Protocol numbers (IANA).
const (
	protoTCP      = 6
	protoFragment = 44
)
