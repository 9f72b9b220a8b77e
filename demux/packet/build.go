package packet

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// PutIP writes an IPv4 or IPv6 header without options for size bytes of the given
// protocol into hdr and returns its length, 20 or 40. IPv4 addresses that are mapped
// into IPv6 are unmapped first; a zone is ignored.
//
// An id of 0 makes an IPv4 packet that must not be fragmented on its way (DF set;
// its id then means nothing, RFC 6864 section 4.1). Any other id leaves DF clear.
// IPv6 has neither: routers never fragment.
//
// It returns 0 and writes nothing when the addresses are not of one family, when hdr
// is too short, or when the packet would be longer than its length field can say.
func PutIP(hdr []byte, from, to netip.Addr, proto, hop uint8, id uint16, size int) int {
	from, to = from.Unmap(), to.Unmap()
	switch {
	case from.Is4() && to.Is4() && len(hdr) >= 20 && size >= 0 && size <= 65535-20:
		h := hdr[:20:20]
		df := uint16(0)
		if id == 0 {
			df = 0x4000
		}
		h[0], h[1] = 0x45, 0
		binary.BigEndian.PutUint16(h[2:], uint16(20+size))
		binary.BigEndian.PutUint16(h[4:], id)
		binary.BigEndian.PutUint16(h[6:], df)
		h[8], h[9], h[10], h[11] = hop, proto, 0, 0
		a, b := from.As4(), to.As4()
		copy(h[12:], a[:])
		copy(h[16:], b[:])
		binary.BigEndian.PutUint16(h[10:], ^Sum(h, 0))
		return 20
	case from.Is6() && to.Is6() && len(hdr) >= 40 && size >= 0 && size <= 65535:
		h := hdr[:40:40]
		binary.BigEndian.PutUint32(h, 6<<28)
		binary.BigEndian.PutUint16(h[4:], uint16(size))
		h[6], h[7] = proto, hop
		a, b := from.As16(), to.As16()
		copy(h[8:], a[:])
		copy(h[24:], b[:])
		return 40
	}
	return 0
}

// PutUDP writes the IP and UDP headers of a datagram that carries the payload pieces
// one after the other, and returns their length: 28 over IPv4, 48 over IPv6. The
// checksum covers the payload and is always sent. For id, the addresses and a result
// of 0, see PutIP.
func PutUDP(hdr []byte, from, to netip.AddrPort, hop uint8, id uint16, payload ...[]byte) (n int) {
	size := 8
	for _, b := range payload {
		size += len(b)
	}
	if n = room(hdr, from, 8); n == 0 || PutIP(hdr, from.Addr(), to.Addr(), protoUDP, hop, id, size) == 0 {
		return 0
	}
	h := hdr[n-8 : n : n]
	binary.BigEndian.PutUint16(h, from.Port())
	binary.BigEndian.PutUint16(h[2:], to.Port())
	binary.BigEndian.PutUint16(h[4:], uint16(size))
	h[6], h[7] = 0, 0
	s := ^transportSum(hdr[:n], 8, protoUDP, size, payload)
	if s == 0 {
		s = 0xffff // zero would mean none (RFC 768)
	}
	binary.BigEndian.PutUint16(h[6:], s)
	return n
}

// TCPHeader is what PutTCP writes into a TCP header beside the ports.
type TCPHeader struct {
	Seq, Ack uint32
	Flags    uint8
	Window   uint16
	Urgent   uint16
	Options  []byte // at most 40 bytes; padded with end-of-options to a multiple of 4
}

// PutTCP writes the IP and TCP headers of a segment that carries the payload pieces,
// checksum included, and returns their length. For id, the addresses and a result of
// 0, see PutIP; more than 40 bytes of options give 0 too.
func PutTCP(hdr []byte, from, to netip.AddrPort, hop uint8, id uint16, t TCPHeader, payload ...[]byte) (n int) {
	own := 20 + (len(t.Options)+3)&^3
	size := own
	for _, b := range payload {
		size += len(b)
	}
	if own > 60 {
		return 0
	}
	if n = room(hdr, from, own); n == 0 || PutIP(hdr, from.Addr(), to.Addr(), protoTCP, hop, id, size) == 0 {
		return 0
	}
	h := hdr[n-own : n : n]
	binary.BigEndian.PutUint16(h, from.Port())
	binary.BigEndian.PutUint16(h[2:], to.Port())
	binary.BigEndian.PutUint32(h[4:], t.Seq)
	binary.BigEndian.PutUint32(h[8:], t.Ack)
	h[12], h[13] = uint8(own/4)<<4, t.Flags
	binary.BigEndian.PutUint16(h[14:], t.Window)
	h[16], h[17] = 0, 0
	binary.BigEndian.PutUint16(h[18:], t.Urgent)
	clear(h[20+copy(h[20:], t.Options):])
	binary.BigEndian.PutUint16(h[16:], ^transportSum(hdr[:n], own, protoTCP, size, payload))
	return n
}

// room is the length of from's IP header and own bytes, or 0 when hdr is shorter.
func room(hdr []byte, from netip.AddrPort, own int) int {
	n := 40 + own
	if from.Addr().Unmap().Is4() {
		n = 20 + own
	}
	if n > len(hdr) {
		return 0
	}
	return n
}

// transportSum is the sum of the pseudo-header, of the transport header in the last
// own bytes of hdr, and of the payload pieces, whose lengths may be odd.
func transportSum(hdr []byte, own int, proto uint8, size int, payload [][]byte) uint16 {
	at := len(hdr) - own
	s := Sum(hdr[at:], fold(uint32(proto)+uint32(size))) // size is below 65536
	if at == 20 {
		s = Sum(hdr[12:20], s)
	} else {
		s = Sum(hdr[8:40], s)
	}
	odd := false
	for _, b := range payload {
		if odd { // this piece begins in the middle of a word
			s = bits.ReverseBytes16(Sum(b, bits.ReverseBytes16(s)))
		} else {
			s = Sum(b, s)
		}
		odd = odd != (len(b)%2 == 1)
	}
	return s
}
