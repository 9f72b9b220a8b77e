package packet

import "encoding/binary"

// EtherTypes of what a host on an Ethernet device reads (IANA, IEEE 802 Numbers).
const (
	EtherIPv4 uint16 = 0x0800
	EtherARP  uint16 = 0x0806
	EtherIPv6 uint16 = 0x86dd
)

// EthernetSize is the length of an Ethernet header; the payload begins there.
const EthernetSize = 14

// ParseEthernet reads an Ethernet II header. ok is false for a frame shorter than it,
// for an IEEE 802.3 length in place of the type (below 0x0600), and for tagged frames
// (802.1Q, 802.1ad): they belong to another link, which this host is not part of.
func ParseEthernet(b []byte) (dst, src [6]byte, etherType uint16, payloadOffset int, ok bool) {
	if len(b) < EthernetSize {
		return dst, src, 0, 0, false
	}
	dst, src, etherType = [6]byte(b), [6]byte(b[6:]), binary.BigEndian.Uint16(b[12:])
	ok = etherType >= 0x0600 && etherType != 0x8100 && etherType != 0x88a8 && etherType != 0x9100
	return dst, src, etherType, EthernetSize, ok
}

// PutEthernet writes an Ethernet II header and returns its length, or 0 when b is too short.
func PutEthernet(b []byte, dst, src [6]byte, etherType uint16) int {
	if len(b) < EthernetSize {
		return 0
	}
	copy(b, dst[:])
	copy(b[6:], src[:])
	binary.BigEndian.PutUint16(b[12:], etherType)
	return EthernetSize
}
