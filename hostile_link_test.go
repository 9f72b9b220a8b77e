package porthole_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/demux/packet"
	"porthole/stack/stacktest"
	"porthole/tun"
)

// TestHostileEthernet: frames that are not for the host or not from anybody, and what
// ARP and neighbour discovery can be told.
func TestHostileEthernet(t *testing.T) {
	r := newHostile(t, tun.PipeOptions{HW: hostHW})
	frame := func(dst, src net.HardwareAddr, kind uint16, payload []byte) []byte {
		b := make([]byte, 14, 14+len(payload))
		packet.PutEthernet(b, [6]byte(dst), [6]byte(src), kind)
		return append(b, payload...)
	}
	syn := seg(ap(evil4, 1000), ap(host4, 81), packet.SYN, 1, 0)
	elsewhere := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	group := net.HardwareAddr{1, 0, 0x5e, 0, 0, 1}
	all := net.HardwareAddr{255, 255, 255, 255, 255, 255}
	for _, x := range []struct {
		name, fate string
		frame      []byte
	}{
		{"to another address", "not-for-us", frame(elsewhere, evilHW, 0x0800, syn)},
		{"from the host itself", "martian", frame(hostHW, hostHW, 0x0800, syn)},
		{"from a group", "martian", frame(hostHW, group, 0x0800, syn)},
		{"from everybody", "martian", frame(hostHW, all, 0x0800, syn)},
		{"802.1Q", "unknown-protocol", frame(hostHW, evilHW, 0x8100, append([]byte{0, 1, 8, 0}, syn...))},
		{"length instead of type", "unknown-protocol", frame(hostHW, evilHW, 60, syn)},
		{"LLDP", "unknown-protocol", frame(hostHW, evilHW, 0x88cc, make([]byte, 50))},
		{"type and no packet", "malformed", frame(hostHW, evilHW, 0x0800, nil)},
		{"half an Ethernet header", "malformed", frame(hostHW, evilHW, 0x0800, syn)[:13]},
		{"ARP cut short", "to-stack", frame(all, evilHW, 0x0806, arp(1, evilHW, evil4, nil, host4)[:27])},
		{"ARP of nothing", "to-stack", frame(all, evilHW, 0x0806, nil)},
		{"ARP of another hardware", "to-stack", frame(all, evilHW, 0x0806, append([]byte{0, 6}, arp(1, evilHW, evil4, nil, host4)[2:]...))},
		{"ARP operation 9", "to-stack", frame(all, evilHW, 0x0806, arp(9, evilHW, evil4, nil, host4))},
		{"ARP for somebody else", "to-stack", frame(all, evilHW, 0x0806, arp(1, evilHW, evil4, nil, stacktest.Peer4.Addr()))},
		{"ARP answer nobody asked for", "to-stack", frame(hostHW, evilHW, 0x0806, arp(2, evilHW, host4, hostHW, host4))},
		{"ARP claims the host's address", "to-stack", frame(all, evilHW, 0x0806, arp(1, evilHW, host4, nil, host4))},
	} {
		replies := r.fated(x.fate, 1, func() { r.send(x.frame) })
		if x.name == "ARP claims the host's address" {
			continue // an ARP answer defends it (RFC 5227, 2.4)
		}
		require.Empty(t, replies, x.name)
	}
	// A packet for the host's own address in a frame for everybody is nobody's
	// (RFC 1122, 3.3.6), and causes neither RST nor ICMP error; so it is in IPv6.
	for _, p := range [][]byte{
		syn, seg(ap(evil4, 1000), ap(host4, 80), packet.SYN, 1, 0), udp(ap(evil4, 1000), ap(host4, 81), 'x'), icmp4(evil4, host4, 8, 0, 0, nil),
		seg(ap(evil6, 1000), ap(host6, 81), packet.SYN, 1, 0), udp(ap(evil6, 1000), ap(host6, 81), 'x'),
	} {
		kind := uint16(0x0800)
		if p[0]>>4 == 6 {
			kind = 0x86dd
		}
		require.Empty(t, r.fated("not-for-us", 2, func() { r.send(frame(all, evilHW, kind, p)); r.send(frame(group, evilHW, kind, p)) }))
	}

	// Neighbour discovery counts only from the link: hop limit 255 (RFC 4861, 6.1).
	ns := neighbour(135, evil6, host6.AsSlice(), 1, evilHW)
	far := append([]byte(nil), ns...)
	far[7] = 64
	code := append([]byte(nil), ns...)
	code[41] = 1
	sum6(code)
	zero := append([]byte(nil), ns...)
	zero[65] = 0 // an option without length
	sum6(zero)
	for name, f := range map[string][]byte{
		"hop limit":      far,
		"code":           code,
		"option length":  zero,
		"target a group": neighbour(135, evil6, []byte{0xff, 2, 15: 1}, 1, evilHW),
		"target another": neighbour(135, evil6, evil6.AsSlice(), 1, evilHW),
		"cut":            sum6(cutTo(ns, 50)),
	} {
		require.Empty(t, r.fates("to-stack", f), name)
	}
	// An advertisement that claims the peer's address for evil, unasked: the next
	// packets to the peer must still arrive, after at most one probe.
	peer6 := stacktest.Peer6.Addr()
	for range 3 {
		r.ip(neighbour(136, peer6, peer6.AsSlice(), 2, evilHW), neighbour(136, evil6, peer6.AsSlice(), 2, evilHW))
		// A router that does not exist, and a redirect to it (types 134, 137).
		r.ip(icmp6(evil6, host6, 134, 0, 0x40000708, make([]byte, 8)), icmp6(evil6, host6, 137, 0, 0, append(evil6.AsSlice(), peer6.AsSlice()...)))
		r.ip(icmp6(evil6, host6, 133, 0, 0, nil))
	}
	r.barrier()
	r.law()
}

// TestAnswersFromTheAddressAsked: the host has two IPv6 addresses on an Ethernet link,
// and a UDP answer comes from the one that was asked (RFC 2181, 4), which need not be the
// one that the host would choose to speak to that peer from.
func TestAnswersFromTheAddressAsked(t *testing.T) {
	r := newHostile(t, tun.PipeOptions{HW: hostHW})
	linkLocal := netip.MustParseAddr("fe80::ff:fe00:1")
	for _, port := range []uint16{1000, 1001, 1000} {
		for _, h := range []netip.Addr{linkLocal, host6, host6, linkLocal} {
			r.ip(udp(ap(evil6, port), ap(h, 7), []byte("hello")...))
			b := r.wait("echo", func(b []byte) bool { i, _ := packet.Parse(b, len(b)); return i.Kind == packet.UDP })
			i, _ := packet.Parse(b, len(b))
			require.Equal(t, ap(h, 7), ap(i.Src(b), i.SrcPort))
			require.Equal(t, port, i.DstPort)
		}
	}
	r.ip(udp(ap(evil6, 1002), ap(linkLocal, 7), make([]byte, 4000)...)) // and in fragments
	for n := 0; n < 4000; {
		b := r.wait("fragment", func(b []byte) bool { i, _ := packet.Parse(b, len(b)); return i.Kind == packet.Fragment })
		i, _ := packet.Parse(b, len(b))
		require.Equal(t, linkLocal, i.Src(b))
		n += i.PayloadLen()
	}
	r.law()
}

// cutTo shortens an IPv6 packet and says so in its header.
func cutTo(b []byte, n int) []byte {
	b = append([]byte(nil), b[:n]...)
	b[4], b[5] = byte((n-40)>>8), byte(n-40)
	return b
}
