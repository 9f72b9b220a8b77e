package tun

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	host4 = netip.MustParsePrefix("10.77.0.1/24")
	host6 = netip.MustParsePrefix("fd77::1/64")
)

// readWhere reads until a frame satisfies want; others are the kernel's own noise.
func readWhere(t testing.TB, d Device, want func(got) bool) got {
	t.Helper()
	for range 200 {
		for _, g := range read(t, d, 0, 1) {
			if want(g) {
				return g
			}
		}
	}
	require.Fail(t, "200 frames and none that was waited for")
	return got{}
}

// sum adds b to a ones' complement sum (RFC 1071).
func sum(s uint32, b []byte) uint32 {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return s
}

// pseudo is the sum of the pseudo-header of a segment of n bytes.
func pseudo(src, dst netip.Addr, proto byte, n int) uint32 {
	s := sum(0, src.AsSlice())
	s = sum(s, dst.AsSlice())
	return sum(s, []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n), 0, 0, 0, proto})
}

// ip puts an IP header before segment.
func ip(src, dst netip.Addr, proto byte, segment []byte) []byte {
	if src.Is6() {
		h := make([]byte, 40, 40+len(segment))
		h[0], h[6], h[7] = 0x60, proto, 64
		binary.BigEndian.PutUint16(h[4:], uint16(len(segment)))
		copy(h[8:], src.AsSlice())
		copy(h[24:], dst.AsSlice())
		return append(h, segment...)
	}
	h := make([]byte, 20, 20+len(segment))
	h[0], h[8], h[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(segment)))
	copy(h[12:], src.AsSlice())
	copy(h[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum(0, h)))
	return append(h, segment...)
}

// udp is a whole datagram with complete checksums.
func udp(from, to netip.AddrPort, payload []byte) []byte {
	u := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(u[0:], from.Port())
	binary.BigEndian.PutUint16(u[2:], to.Port())
	binary.BigEndian.PutUint16(u[4:], uint16(8+len(payload)))
	u = append(u, payload...)
	binary.BigEndian.PutUint16(u[6:], ^uint16(sum(pseudo(from.Addr(), to.Addr(), 17, len(u)), u)))
	return ip(from.Addr(), to.Addr(), 17, u)
}
