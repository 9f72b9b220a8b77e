package demux

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"porthole/demux/packet"
)

// Addrs are the host's addresses in the form that a verdict needs: few, compared
// one by one. It is never changed after it is made.
type Addrs struct {
	own4 []own4

	// For usual4, when there is one IPv4 address alone: as it lies in memory (or what
	// is no address), and the sources that are not usual.
	only4             uint64
	ownSrc, broadcast uint32
	own6              [][16]byte
	group             [][16]byte // IPv6 groups: all nodes, solicited node of each address
}

type own4 struct {
	addr      uint32
	broadcast uint32 // of its prefix; 0 when the prefix has none
}

// NewAddrs takes the host's addresses with their prefixes.
func NewAddrs(prefixes ...netip.Prefix) *Addrs {
	a := &Addrs{}
	for _, p := range prefixes {
		if !p.IsValid() {
			continue
		}
		if ip := p.Addr(); ip.Is4() {
			b := ip.As4()
			o := own4{addr: binary.BigEndian.Uint32(b[:])}
			if p.Bits() < 31 {
				o.broadcast = o.addr | (1<<(32-p.Bits()) - 1)
			}
			a.own4 = append(a.own4, o)
		} else {
			b := ip.As16()
			a.own6 = append(a.own6, b)
			a.group = append(a.group, [16]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
		}
	}
	a.only4 = 1 << 32
	if len(a.own4) == 1 {
		o := a.own4[0]
		a.only4, a.ownSrc, a.broadcast = uint64(bits.ReverseBytes32(o.addr)), o.addr, o.broadcast
	}
	a.group = append(a.group,
		[16]byte{0: 0xff, 1: 1, 15: 1}, [16]byte{0: 0xff, 1: 2, 15: 1}) // all nodes (RFC 4291, 2.7.1)
	return a
}

// judge looks at both addresses of a packet: NoFate means that it may pass, and
// then group says that it is not addressed to the host alone. own is true for the
// host's own traffic to itself.
func (a *Addrs) judge(i *packet.Info, ip []byte, own bool) (f Fate, group bool) {
	if i.Version == 4 {
		return a.judge4(binary.BigEndian.Uint32(ip[12:]), binary.BigEndian.Uint32(ip[16:]), own)
	}
	return a.judge6(i, (*[16]byte)(ip[8:]), (*[16]byte)(ip[24:]), own)
}

// usual4 is judge4 and headerOK for nearly all packets: to the host's only address,
// from one of class A to C that is not its own. What is not ours may be, and needs
// judge4.
func (a *Addrs) usual4(h *[20]byte) (ours, sumOK bool) {
	w, v, u := binary.LittleEndian.Uint64(h[:]), binary.LittleEndian.Uint64(h[8:]), binary.LittleEndian.Uint32(h[16:])
	src := bits.ReverseBytes32(uint32(v >> 32))
	net := src >> 24
	if uint64(u) != a.only4 || net-1 >= 223 || net == 127 || src == a.ownSrc || src == a.broadcast {
		return false, false
	}
	// In either byte order a right sum is all ones (RFC 1071, 2(B)).
	s, c := bits.Add64(w, v, 0)
	s, c = bits.Add64(s, uint64(u), c)
	return true, folded(s, c) == 0xffff
}

// folded brings a sum of 64-bit words to 16 bits.
func folded(s, carry uint64) uint64 {
	s = s>>32 + s&0xffffffff + carry
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	return s>>16 + s&0xffff
}

func (a *Addrs) judge4(src, dst uint32, own bool) (f Fate, group bool) {
	forUs := false
	for _, o := range a.own4 {
		if dst == o.addr {
			forUs = true
		} else if dst == o.broadcast && dst != 0 {
			forUs, group = true, true
		}
		if src == o.addr && !own || src == o.broadcast && src != 0 {
			return Martian, false
		}
	}
	if dst == 0xffffffff {
		forUs, group = true, true
	}
	// RFC 1122, 3.2.1.3: none of these may be a source, but 0.0.0.0 of a host that
	// does not know its address yet, which it can only broadcast from.
	if src == 0 {
		if dst != 0xffffffff {
			return Martian, false
		}
	} else if src>>24 == 0 || src>>24 == 127 && !own || src>>28 == 14 || src == 0xffffffff {
		return Martian, false
	}
	if !forUs {
		return NotForUs, false
	}
	return NoFate, group
}

func (a *Addrs) judge6(i *packet.Info, src, dst *[16]byte, own bool) (f Fate, group bool) {
	if src[0] == 0xff || *src == [16]byte{15: 1} && !own || *(*[12]byte)(src[:]) == [12]byte{10: 0xff, 11: 0xff} {
		return Martian, false // multicast, loopback, IPv4-mapped
	}
	if *src == [16]byte{} && !namelessOK(i) {
		return Martian, false
	}
	// A neighbour advertisement from our own address is how another host says that
	// it has it too (RFC 4862, 5.4.4).
	if !own && !(i.Kind == packet.Link && i.ICMPType == icmp6NeighborAdvert) {
		for k := range a.own6 {
			if *src == a.own6[k] {
				return Martian, false
			}
		}
	}
	for k := range a.own6 {
		if *dst == a.own6[k] {
			return NoFate, false
		}
	}
	if dst[0] == 0xff {
		for k := range a.group {
			if *dst == a.group[k] {
				return NoFate, true
			}
		}
	}
	return NotForUs, false
}

// ICMPv6 types (IANA).
const (
	icmp6MLDReport       = 131
	icmp6MLDDone         = 132
	icmp6RouterSolicit   = 133
	icmp6NeighborSolicit = 135
	icmp6NeighborAdvert  = 136
	icmp6MLD2Report      = 143
)

// namelessOK reports whether a packet may come from the unspecified address: only
// what a host sends before it has an address (RFC 4861, 4.1 and 4.3; RFC 3590, 4).
func namelessOK(i *packet.Info) bool {
	if i.Kind != packet.Link && i.Kind != packet.ICMP {
		return false
	}
	switch i.ICMPType {
	case icmp6MLDReport, icmp6MLDDone, icmp6MLD2Report, icmp6RouterSolicit, icmp6NeighborSolicit:
		return true
	}
	return false
}

// headerOK verifies an IPv4 header's checksum; nearly all are five words long.
func headerOK(ip []byte) bool {
	if ip[0] != 0x45 {
		return packet.Sum(ip[:int(ip[0]&15)*4], 0) == 0xffff
	}
	s, c := bits.Add64(binary.LittleEndian.Uint64(ip), binary.LittleEndian.Uint64(ip[8:16]), 0)
	s, c = bits.Add64(s, uint64(binary.LittleEndian.Uint32(ip[16:20])), c)
	return folded(s, c) == 0xffff
}

// passesBy reports whether a source route among the IPv4 options leads on from here:
// the host is a hop of it, not its end, and forwards nothing (RFC 1122, 3.3.5; Linux:
// accept_source_route=0). Options that do not end where they should are netstack's.
func passesBy(opts []byte) bool {
	for len(opts) > 0 && opts[0] != 0 {
		if opts[0] == 1 {
			opts = opts[1:]
			continue
		}
		if len(opts) < 2 || opts[1] < 2 || int(opts[1]) > len(opts) {
			return false
		}
		loose, strict := opts[0] == 131, opts[0] == 137
		if (loose || strict) && opts[1] >= 3 && opts[2] >= 4 && opts[2] <= opts[1] {
			return true
		}
		opts = opts[opts[1]:]
	}
	return false
}

// lineOf finds where a packet that parsed belongs: a line, or a fate at once. toAll
// says that its frame was for everybody, or a group.
func (t *Table) lineOf(i *packet.Info, ip, tail []byte, off *Offload, kind Kind, a *Addrs, toAll bool) (Port, Fate) {
	f, group := a.judge(i, ip, kind == SelfTest)
	if f != NoFate {
		return LaneHost, f
	}
	if toAll && !group { // RFC 1122, 3.3.6; nor may it cause an ICMP error (3.2.2; RFC 4443, 2.4)
		return LaneHost, NotForUs
	}
	if i.Version == 4 {
		if !headerOK(ip) {
			return LaneHost, BadChecksum
		}
		if ip[0] != 0x45 && passesBy(ip[20:int(ip[0]&15)*4]) {
			return LaneHost, NotForUs
		}
	}
	if off.Flags == 0 && !packet.VerifyTransport(i, ip, tail) {
		return LaneHost, BadChecksum
	}
	switch i.Kind {
	case packet.TCP:
		if group { // RFC 9293, 3.9.2.3: never to a broadcast or multicast address
			return LaneHost, NotForUs
		}
		return t.lineFor(i), NoFate
	case packet.UDP:
		if group && (i.Version == 6 || !t.isBound(UDPPort(i.DstPort))) {
			return LaneHost, NotForUs // RFC 1122, 3.2.2: no ICMP error for a broadcast
		}
		return t.lineFor(i), NoFate
	case packet.Link:
		return LaneLink, NoFate
	case packet.Fragment:
		if group && i.Version == 6 {
			return LaneHost, NotForUs
		}
	default:
		if group && i.Version == 4 { // echo to a broadcast address: RFC 1122, 3.2.2.6 allows silence
			return LaneHost, NotForUs
		}
	}
	return LaneICMP, NoFate
}
