package demux

import (
	"net/netip"

	"porthole/demux/packet"
	"porthole/impair"
)

// Packet is one packet in somebody's hands: a worker's while it serves a run, a
// socket owner's from Pop to Free. It is not valid after that.
type Packet struct {
	ref
	tail *Tail // nil when the frame has no rest
}

func (t *Table) packet(h uint32, s *slot) Packet {
	p := Packet{ref: ref{s, h}}
	if s.more != 0 {
		p.tail = t.pool.tail(h)
	}
	return p
}

// Info is what the headers say; zero for ARP.
func (p Packet) Info() *packet.Info { return &p.s.info }

// Kind says how the packet came.
func (p Packet) Kind() Kind { return p.s.kind }

// Fault is what impairment rules did to the packet, on the link or at its port.
func (p Packet) Fault() impair.Fault { return p.s.mark }

// Offload is what the device left undone.
func (p Packet) Offload() Offload { return p.s.off }

// Frame is the whole frame's first part, with the link header, and Rest the rest.
func (p Packet) Frame() []byte { return p.s.room[:p.s.headLen] }

// Rest is what did not fit the first part.
func (p Packet) Rest() []byte {
	if p.tail == nil {
		return nil
	}
	return p.tail.Bytes
}

// LinkLen is the length of the link header before the IP header.
func (p Packet) LinkLen() int { return int(p.s.l2) }

// IP is the packet from its IP header on, without Rest.
func (p Packet) IP() []byte { return p.s.room[p.s.l2:p.s.headLen] }

// TakeTail hands the rest's buffer over to the caller; the packet keeps the first part.
func (p Packet) TakeTail(t *Table) Tail { return t.pool.takeTail(p.ref) }

// From and To are the addresses and ports of a TCP or UDP packet.
func (p Packet) From() netip.AddrPort {
	return netip.AddrPortFrom(p.s.info.Src(p.IP()), p.s.info.SrcPort)
}

// To is the destination.
func (p Packet) To() netip.AddrPort {
	return netip.AddrPortFrom(p.s.info.Dst(p.IP()), p.s.info.DstPort)
}

// CopyPayload copies what follows the transport header into b and returns how
// much was copied and how long the payload is.
func (p Packet) CopyPayload(b []byte) (n, size int) {
	i := &p.s.info
	size = i.PayloadLen()
	from, end := int(i.Payload), int(i.Payload)+size // a UDP length may end before the packet
	ip := p.IP()
	if from < len(ip) {
		n = copy(b, ip[from:min(end, len(ip))])
	}
	if at := max(from-len(ip), 0); end > len(ip) {
		n += copy(b[n:], p.Rest()[at:end-len(ip)])
	}
	return n, size
}
