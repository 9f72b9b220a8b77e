package stack

import (
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/tun"
)

// TestToldIsBounded: of peers who spoke to an unusual address a socket remembers
// maxTold; one more is remembered and costs another.
func TestToldIsBounded(t *testing.T) {
	global, local := netip.MustParsePrefix("fd77::1/64"), netip.MustParsePrefix("fe80::1/64")
	s := &Stack{facts: tun.Facts{HW: net.HardwareAddr{2, 0, 0, 0, 0, 1}}, addrs: []netip.Prefix{global, local}}
	pc := &PacketConn{s: s}
	peer := func(i int) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr("fd77::2"), uint16(1+i)) }
	known := func() (n int) {
		for i := range maxTold + 1 {
			if pc.source(peer(i)) == local.Addr() {
				n++
			}
		}
		return n
	}
	for i := range maxTold {
		pc.heard(peer(i), local.Addr())
	}
	require.Equal(t, maxTold, known())
	pc.heard(peer(maxTold), local.Addr())
	require.Equal(t, maxTold, known())
	require.Equal(t, local.Addr(), pc.source(peer(maxTold)))
	for i := range maxTold + 1 {
		pc.heard(peer(i), global.Addr())
	}
	require.Zero(t, known())
	require.Zero(t, pc.told.n.Load())
	require.Equal(t, local.Addr(), pc.source(netip.MustParseAddrPort("[fe80::2]:1")))
}
