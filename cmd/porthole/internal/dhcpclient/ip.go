package dhcpclient

import (
	"encoding/binary"
	"net/netip"
)

const (
	ipHead  = 20
	udpHead = 8
)

// datagram puts IPv4 and UDP headers before payload. The address of a client that
// has none is 0.0.0.0, which no socket of the kernel's would send reliably.
func datagram(payload []byte, from netip.Addr, to netip.AddrPort) []byte {
	b := make([]byte, ipHead+udpHead+len(payload))
	src, dst := from.As4(), to.Addr().As4()
	b[0], b[8], b[9] = 0x45, 64, 17 // version and header length, TTL, UDP
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[10:], ^sum(0, b[:ipHead]))
	u := b[ipHead:]
	binary.BigEndian.PutUint16(u, 68)
	binary.BigEndian.PutUint16(u[2:], to.Port())
	binary.BigEndian.PutUint16(u[4:], uint16(len(u)))
	copy(u[udpHead:], payload)
	check := ^sum(pseudo(b, len(u)), u)
	if check == 0 {
		check = 0xffff // zero on the wire means none
	}
	binary.BigEndian.PutUint16(u[6:], check)
	return b
}

// payload finds what a whole IPv4 packet carries to UDP port 68. Checksums are
// verified unless vouched: a packet of this machine may not hold them yet.
func payload(b []byte, vouched bool) ([]byte, bool) {
	if len(b) < ipHead || b[0]>>4 != 4 {
		return nil, false
	}
	head, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if head < ipHead || total < head+udpHead || total > len(b) || b[9] != 17 || binary.BigEndian.Uint16(b[6:])&0x3fff != 0 {
		return nil, false
	}
	u := b[head:total]
	n := int(binary.BigEndian.Uint16(u[4:]))
	if n < udpHead || n > len(u) || binary.BigEndian.Uint16(u[2:]) != 68 {
		return nil, false
	}
	if u = u[:n]; !vouched {
		if sum(0, b[:head]) != 0xffff {
			return nil, false
		}
		if u[6]|u[7] != 0 && sum(pseudo(b, n), u) != 0xffff {
			return nil, false
		}
	}
	return u[udpHead:], true
}

// pseudo is the sum of the pseudo-header of the packet b with n bytes of UDP.
func pseudo(b []byte, n int) uint32 { return uint32(sum(uint32(17+n), b[12:20])) }

// sum is the ones' complement sum of b and start, not inverted.
func sum(start uint32, b []byte) uint16 {
	for ; len(b) > 1; b = b[2:] {
		start += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		start += uint32(b[0]) << 8
	}
	for start > 0xffff {
		start = start>>16 + start&0xffff
	}
	return uint16(start)
}
