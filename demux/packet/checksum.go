package packet

import (
	"encoding/binary"
	"math/bits"
)

// Sum is the ones-complement sum of b as 16-bit words in network order, on top of
// initial, folded and not inverted (RFC 1071). A last odd byte counts as the high
// half of a word, so only the last of several pieces may have an odd length.
func Sum(b []byte, initial uint16) uint16 {
	// The sum is the same in either byte order but for a swap of the result
	// (RFC 1071, 2(B)), and eight bytes at once carry into each other like two.
	acc := uint64(bits.ReverseBytes16(initial))
	var c uint64
	for len(b) >= 64 {
		w := b[:64:64]
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w), 0)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[8:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[16:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[24:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[32:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[40:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[48:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[56:]), c)
		acc += c // carries no further: a chain that began without a carry cannot end in all ones with one
		b = b[64:]
	}
	if len(b) >= 32 {
		w := b[:32:32]
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w), 0)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[8:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[16:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[24:]), c)
		acc += c
		b = b[32:]
	}
	for len(b) >= 8 {
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b), 0)
		acc += c
		b = b[8:]
	}
	var last uint64
	if len(b) >= 4 {
		last = uint64(binary.LittleEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		last += uint64(binary.LittleEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) > 0 {
		last += uint64(b[0])
	}
	acc, c = bits.Add64(acc, last, 0)
	acc += c
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>32 + acc&0xffffffff
	return bits.ReverseBytes16(fold(uint32(acc)))
}

// fold adds the carries of a sum back into its low 16 bits.
func fold(s uint32) uint16 {
	s = s>>16 + s&0xffff
	return uint16(s>>16 + s&0xffff)
}

// pseudo is the sum of the pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1) for size
// bytes of transport header and data, and where to go on with it. Where that header
// follows the addresses, as it mostly does, they are left to who goes on.
func (i *Info) pseudo(head []byte, size int) (from int, s uint16) {
	s = fold(uint32(i.Proto) + uint32(size)>>16 + uint32(size)&0xffff)
	from = int(i.L4)
	if i.Version == 4 {
		if from == 20 {
			return 12, s
		}
		return from, Sum(head[12:20], s)
	}
	if from == 40 {
		return 8, s
	}
	return from, Sum(head[8:40], s)
}

// sum is the sum over the bytes from to end of the packet head+tail, on top of initial.
func sum(head, tail []byte, from, end int, initial uint16) uint16 {
	if end <= len(head) {
		return Sum(head[from:end], initial)
	}
	s := Sum(head[from:], initial)
	if (len(head)-from)%2 == 0 {
		return Sum(tail[:end-len(head)], s)
	}
	// The tail begins in the middle of a word: all of its bytes stand swapped.
	return bits.ReverseBytes16(Sum(tail[:end-len(head)], bits.ReverseBytes16(s)))
}

// checksum says where the transport checksum of the packet stands, which bytes it
// covers, and what sum to begin with. at is 0 when there is none.
func (i *Info) checksum(head []byte) (at, from, end int, initial uint16) {
	l4 := int(i.L4)
	end = int(i.Length)
	switch i.Kind {
	case TCP:
		at = l4 + 16
	case UDP:
		at, end = l4+6, int(i.Payload)+int(i.size)
	case ICMP, Link:
		if i.Version == 4 {
			return l4 + 2, l4, end, 0
		}
		at = l4 + 2
	default:
		return 0, 0, 0, 0
	}
	from, initial = i.pseudo(head, end-l4)
	return at, from, end, initial
}

// VerifyHeader reports whether the IPv4 header checksum is right (RFC 791, 3.1). An
// IPv6 header has none and is right. IPv4 options count too: call it before they
// are looked at, that is, whatever the Kind.
func VerifyHeader(i *Info, head []byte) bool {
	return i.Version != 4 || Sum(head[:int(head[0]&15)*4], 0) == 0xffff
}

// VerifyTransport reports whether the checksum of TCP, UDP, ICMPv4 or ICMPv6 is
// right; true for fragments and all other kinds, where there is nothing to verify
// yet. head and tail together are the packet; padding may follow. A UDP checksum of
// zero means none over IPv4 and is an error over IPv6 (RFC 8200, 8.1).
func VerifyTransport(i *Info, head, tail []byte) bool {
	at, from, end, s := i.checksum(head)
	if at == 0 {
		return true
	}
	if i.Kind == UDP && head[at] == 0 && head[at+1] == 0 {
		return i.Version == 4
	}
	return sum(head, tail, from, end, s) == 0xffff
}

// Finish computes the transport checksum of a packet that was handed over with a
// partial one (virtio's NEEDS_CSUM) and stores it in head. What the field held
// before does not count. It does nothing where VerifyTransport finds no checksum.
func Finish(head, tail []byte, i *Info) {
	at, from, end, s := i.checksum(head)
	if at == 0 {
		return
	}
	head[at], head[at+1] = 0, 0
	s = ^sum(head, tail, from, end, s)
	if s == 0 && i.Kind == UDP {
		s = 0xffff // zero would mean none (RFC 768)
	}
	binary.BigEndian.PutUint16(head[at:], s)
}
