package demux

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/demux/packet"
)

// unhex reads literal bytes; what follows # on a line says what they are.
func unhex(s string) []byte {
	var all string
	for line := range strings.Lines(s) {
		line, _, _ = strings.Cut(line, "#")
		all += strings.Join(strings.Fields(line), "")
	}
	b, err := hex.DecodeString(all)
	if err != nil {
		panic(err)
	}
	return b
}

// ip puts an IP header before an upper layer and fills both checksums in.
func ip(src, dst string, proto uint8, upper ...byte) []byte {
	b := make([]byte, 40)
	n := packet.PutIP(b, netip.MustParseAddr(src), netip.MustParseAddr(dst), proto, 255, 1, len(upper))
	b = append(b[:n], upper...)
	if i, problem := packet.Parse(b, len(b)); problem == packet.None {
		packet.Finish(b, nil, &i)
	}
	return b
}

// with changes bytes of a copy, the IPv4 header checksum excepted.
func with(b []byte, at int, to ...byte) []byte {
	b = append([]byte(nil), b...)
	copy(b[at:], to)
	return b
}

// resum makes the IPv4 header's checksum right again.
func resum(b []byte) []byte {
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], ^packet.Sum(b[:int(b[0]&15)*4], 0))
	return b
}

var (
	literalUDP = unhex(`
		45 00 00 21  00 01 00 00  40 11 66 2f  0a 4d 00 02  0a 4d 00 01 # IPv4, UDP, 10.77.0.2 to 10.77.0.1
		0f a0 00 35  00 0d 97 90                                         # 4000 to 53, 13 bytes
		68 65 6c 6c 6f                                                   # hello`)
	literalTCP6 = unhex(`
		60 00 00 00  00 14 06 40                                         # IPv6, TCP, 20 bytes
		fd 77 00 00 00 00 00 00 00 00 00 00 00 00 00 02                  # fd77::2
		fd 77 00 00 00 00 00 00 00 00 00 00 00 00 00 01                  # fd77::1
		0f a0 00 50  00 00 00 01  00 00 00 00  50 02 ff ff  a4 ff 00 00  # 4000 to 80, SYN`)
)

const (
	allNodes  = "ff02::1"
	solicited = "ff02::1:ff00:1"
)

// TestVerdicts: which line a packet goes to, or which fate it has at once. 53/udp,
// 67/udp and 80/tcp are bound. The host is 10.77.0.1/24 and fd77::1/64.
func TestVerdicts(t *testing.T) {
	u := []byte{0x0f, 0xa0, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4}                                 // UDP 4000 to 53
	knock := []byte{0x0f, 0xa0, 0, 99, 0, 12, 0, 0, 1, 2, 3, 4}                             // UDP 4000 to 99
	dhcp := []byte{0, 68, 0, 67, 0, 12, 0, 0, 1, 2, 3, 4}                                   // UDP 68 to 67
	s := []byte{0x0f, 0xa0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0} // TCP 4000 to 80, SYN
	echo := []byte{8, 0, 0, 0, 0, 1, 0, 1}                                                  // ICMP echo request
	echo6 := []byte{128, 0, 0, 0, 0, 1, 0, 1}                                               // ICMPv6 echo request
	nd := func(typ byte) []byte { return append([]byte{typ, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 16)...) }
	const peer, host, peer6, host6 = "10.77.0.2", "10.77.0.1", "fd77::2", "fd77::1"
	ok4, okTCP := ip(peer, host, 17, u...), ip(peer, host, 6, s...)
	frag := resum(with(ip(peer, host, 17, append(u, 5, 6, 7, 8)...), 6, 0x20, 0))
	late := resum(with(ok4, 6, 0, 2))
	frag6 := ip(peer6, host6, 44, append([]byte{17, 0, 0, 1, 0, 0, 0, 1}, make([]byte, 16)...)...)
	routed := func(kind, pointer byte) []byte { // okTCP by way of 10.77.0.9
		b := append(append(append([]byte(nil), okTCP[:20]...), kind, 7, pointer, 10, 77, 0, 9, 0), okTCP[20:]...)
		return resum(with(b, 0, 0x47, 0, 0, byte(len(b))))
	}
	vouched := Offload{Flags: 2}
	partial := Offload{Flags: 1, CsumStart: 20, CsumOffset: 6}

	for _, c := range []struct {
		name string
		b    []byte
		off  Offload
		want string // a line or a fate
	}{
		{"literal IPv4 UDP", literalUDP, Offload{}, "53/udp"},
		{"literal IPv6 TCP", literalTCP6, Offload{}, "80/tcp"},
		{"v4 UDP", ok4, Offload{}, "53/udp"},
		{"v4 TCP", okTCP, Offload{}, "80/tcp"},
		{"v6 UDP", ip(peer6, host6, 17, u...), Offload{}, "53/udp"},
		{"v6 TCP", ip(peer6, host6, 6, s...), Offload{}, "80/tcp"},
		{"closed port", ip(peer, host, 17, knock...), Offload{}, "closed"},
		{"closed port, v6", ip(peer6, host6, 17, knock...), Offload{}, "closed"},
		{"port 0", ip(peer, host, 17, with(u, 2, 0, 0)...), Offload{}, "closed"},
		{"padding is none of ours", append(append([]byte(nil), ok4...), 0xde, 0xad), Offload{}, "53/udp"},

		{"source route that ends here", routed(131, 8), Offload{}, "80/tcp"},
		{"loose source route that leads on", routed(131, 4), Offload{}, "not-for-us"},
		{"strict source route that leads on", routed(137, 4), Offload{}, "not-for-us"},
		{"source route whose pointer is none", routed(131, 3), Offload{}, "80/tcp"},

		{"header checksum", with(ok4, 10, 0), Offload{}, "bad-checksum"},
		{"header checksum, vouched for", with(ok4, 10, 0), vouched, "bad-checksum"},
		{"UDP checksum", with(ok4, 29, 9), Offload{}, "bad-checksum"},
		{"UDP checksum, vouched for", with(ok4, 29, 9), vouched, "53/udp"},
		{"UDP checksum, partial", with(ok4, 29, 9), partial, "53/udp"},
		{"UDP without checksum", with(ok4, 26, 0, 0), Offload{}, "53/udp"},
		{"v6 UDP without checksum", with(ip(peer6, host6, 17, u...), 46, 0, 0), Offload{}, "bad-checksum"},
		{"v6 UDP checksum", with(ip(peer6, host6, 17, u...), 48, 9), Offload{}, "bad-checksum"},
		{"TCP checksum", with(okTCP, 25, 9), Offload{}, "bad-checksum"},
		{"TCP checksum, vouched for", with(okTCP, 25, 9), vouched, "80/tcp"},
		{"v6 TCP checksum", with(ip(peer6, host6, 6, s...), 45, 9), Offload{}, "bad-checksum"},
		{"ICMP checksum", with(ip(peer, host, 1, echo...), 27, 9), Offload{}, "bad-checksum"},
		{"ICMPv6 checksum", with(ip(peer6, host6, 58, echo6...), 47, 9), Offload{}, "bad-checksum"},
		{"checksum of a closed port", with(ip(peer, host, 17, knock...), 29, 9), Offload{}, "bad-checksum"},

		{"nothing", nil, Offload{}, "malformed"},
		{"a byte", []byte{0x45}, Offload{}, "malformed"},
		{"version 5", with(ok4, 0, 0x55), Offload{}, "malformed"},
		{"cut short", ok4[:len(ok4)-1], Offload{}, "malformed"},
		{"header of four words", with(ok4, 0, 0x44), Offload{}, "malformed"},
		{"UDP length beyond the packet", with(ok4, 24, 1), Offload{}, "malformed"},
		{"TCP offset of four words", with(okTCP, 32, 0x40), Offload{}, "malformed"},
		{"v6 cut short", literalTCP6[:59], Offload{}, "malformed"},

		{"other host", ip(peer, "10.77.0.9", 17, u...), Offload{}, "not-for-us"},
		{"other host, v6", ip(peer6, "fd77::9", 17, u...), Offload{}, "not-for-us"},
		{"loopback destination", ip(peer, "127.0.0.1", 17, u...), Offload{}, "not-for-us"},
		{"v6 loopback destination", ip(peer6, "::1", 17, u...), Offload{}, "not-for-us"},
		{"to 0.0.0.0", ip(peer, "0.0.0.0", 17, u...), Offload{}, "not-for-us"},
		{"to ::", ip(peer6, "::", 17, u...), Offload{}, "not-for-us"},
		{"network address", ip(peer, "10.77.0.0", 17, u...), Offload{}, "not-for-us"},
		{"multicast that nobody joined", ip(peer, "224.0.0.251", 17, u...), Offload{}, "not-for-us"},
		{"all systems", ip(peer, "224.0.0.1", 1, echo...), Offload{}, "not-for-us"},
		{"v6 multicast that nobody joined", ip(peer6, "ff02::fb", 17, u...), Offload{}, "not-for-us"},
		{"class E", ip(peer, "240.0.0.1", 17, u...), Offload{}, "not-for-us"},

		{"from ourselves", ip(host, host, 17, u...), Offload{}, "martian"},
		{"from ourselves, v6", ip(host6, host6, 17, u...), Offload{}, "martian"},
		{"from loopback", ip("127.0.0.1", host, 17, u...), Offload{}, "martian"},
		{"from v6 loopback", ip("::1", host6, 17, u...), Offload{}, "martian"},
		{"from the broadcast address", ip("255.255.255.255", host, 17, u...), Offload{}, "martian"},
		{"from our net's broadcast address", ip("10.77.0.255", host, 17, u...), Offload{}, "martian"},
		{"from a group", ip("224.0.0.1", host, 17, u...), Offload{}, "martian"},
		{"from a v6 group", ip("ff02::1", host6, 17, u...), Offload{}, "martian"},
		{"from net 0", ip("0.1.2.3", host, 17, u...), Offload{}, "martian"},
		{"from nobody", ip("0.0.0.0", host, 17, u...), Offload{}, "martian"},
		{"from nobody to our net", ip("0.0.0.0", "10.77.0.255", 17, dhcp...), Offload{}, "martian"},
		{"from nobody, v6", ip("::", host6, 17, u...), Offload{}, "martian"},
		{"echo from nobody, v6", ip("::", host6, 58, echo6...), Offload{}, "martian"},
		{"from a mapped address", with(ip(peer6, host6, 17, u...), 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 77, 0, 2), vouched, "martian"},
		{"another net is no martian", ip("192.0.2.1", host, 17, u...), Offload{}, "53/udp"},

		{"DHCP before an address", ip("0.0.0.0", "255.255.255.255", 17, dhcp...), Offload{}, "67/udp"},
		{"broadcast to a bound port", ip(peer, "255.255.255.255", 17, dhcp...), Offload{}, "67/udp"},
		{"our net's broadcast", ip(peer, "10.77.0.255", 17, dhcp...), Offload{}, "67/udp"},
		{"broadcast to a closed port gets no answer", ip(peer, "10.77.0.255", 17, knock...), Offload{}, "not-for-us"},
		{"TCP to a broadcast address", ip(peer, "10.77.0.255", 6, s...), Offload{}, "not-for-us"},
		{"echo to a broadcast address", ip(peer, "10.77.0.255", 1, echo...), Offload{}, "not-for-us"},
		{"UDP to all nodes", ip(peer6, allNodes, 17, u...), Offload{}, "not-for-us"},
		{"TCP to all nodes", ip(peer6, allNodes, 6, s...), Offload{}, "not-for-us"},
		{"fragment to all nodes", with(frag6, 24, 0xff, 2, 0, 0, 0, 0, 0, 0), Offload{}, "not-for-us"},

		{"echo", ip(peer, host, 1, echo...), Offload{}, "icmp"},
		{"echo, v6", ip(peer6, host6, 58, echo6...), Offload{}, "icmp"},
		{"echo to all nodes", ip(peer6, allNodes, 58, echo6...), Offload{}, "icmp"},
		{"fragmentation needed", ip(peer, host, 1, 3, 4, 0, 0, 0, 0, 0, 0), Offload{}, "link"},
		{"packet too big", ip(peer6, host6, 58, 2, 0, 0, 0, 0, 0, 5, 0), Offload{}, "link"},
		{"neighbour solicitation", ip(peer6, solicited, 58, nd(135)...), Offload{}, "link"},
		{"duplicate address detection", ip("::", solicited, 58, nd(135)...), Offload{}, "link"},
		{"router solicitation before an address", ip("::", allNodes, 58, nd(133)...), Offload{}, "link"},
		{"somebody has our address", ip(host6, allNodes, 58, nd(136)...), Offload{}, "link"},
		{"advertisement from nobody", ip("::", allNodes, 58, nd(136)...), Offload{}, "martian"},
		{"solicitation from ourselves", ip(host6, solicited, 58, nd(135)...), Offload{}, "martian"},
		{"solicitation for another", ip(peer6, "ff02::1:ff00:9", 58, nd(135)...), Offload{}, "not-for-us"},
		{"multicast listener report", ip("::", allNodes, 58, nd(143)...), Offload{}, "icmp"},
		{"first fragment", frag, Offload{}, "icmp"},
		{"later fragment", late, Offload{}, "icmp"},
		{"v6 fragment", frag6, Offload{}, "icmp"},
		{"SCTP", ip(peer, host, 132, make([]byte, 12)...), Offload{}, "icmp"},
		{"no next header", ip(peer6, host6, 59), Offload{}, "icmp"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(Options{})
			bindNamed(t, r)
			put(r.in, 0, c.b, c.off)
			r.in.Deliver(1)
			require.Equal(t, c.want, verdictOf(r))
			r.law(t)
		})
	}
}

func bindNamed(t *testing.T, r *rig) {
	for _, p := range []Port{UDPPort(53), UDPPort(67)} {
		require.NoError(t, r.t.Bind(p, Config{Socket: true}))
	}
	require.NoError(t, r.t.Bind(TCPPort(80), Config{}))
}

// verdictOf names the only line that got a packet, or the fate that it had at once.
func verdictOf(r *rig) string {
	var got []string
	for _, s := range r.t.Ports() {
		if s.Port == LaneHost && s.Arrived > 0 {
			for f, n := range s.Fates {
				if n > 0 {
					got = append(got, Fate(f).String())
				}
			}
		} else if s.Arrived > 0 {
			got = append(got, s.Port.String())
		}
	}
	return strings.Join(got, " ")
}

// A host without addresses takes nothing; one with several takes each of them; a
// point-to-point or /31 net has no broadcast address.
func TestVerdictAddrs(t *testing.T) {
	u := []byte{0x0f, 0xa0, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4}
	for _, c := range []struct{ name, addrs, src, dst, want string }{
		{"none", "", "10.0.0.2", "10.0.0.1", "not-for-us"},
		{"none, broadcast", "", "10.0.0.2", "255.255.255.255", "53/udp"},
		{"second of two", "10.0.0.1/24 10.9.0.1/16", "10.0.0.2", "10.9.0.1", "53/udp"},
		{"second's broadcast", "10.0.0.1/24 10.9.0.1/16", "10.0.0.2", "10.9.255.255", "53/udp"},
		{"two, to nobody", "10.0.0.1/24 10.9.0.1/16", "10.0.0.2", "0.0.0.0", "not-for-us"},
		{"none, to nobody", "", "10.0.0.2", "0.0.0.0", "not-for-us"},
		{"from the second", "10.0.0.1/24 10.9.0.1/16", "10.9.0.1", "10.0.0.1", "martian"},
		{"/31 has no broadcast", "10.0.0.0/31", "10.0.0.1", "10.0.0.0", "53/udp"},
		{"/32", "10.0.0.1/32", "10.0.0.2", "10.0.0.1", "53/udp"},
		{"/32, before an address", "10.0.0.1/32", "0.0.0.0", "255.255.255.255", "53/udp"},
		{"/32, to nobody", "10.0.0.1/32", "10.0.0.2", "0.0.0.0", "not-for-us"},
		{"/0", "10.0.0.1/0", "10.0.0.2", "10.0.0.1", "53/udp"},
		{"invalid ones are left out", "10.0.0.1/32", "10.0.0.2", "10.0.0.1", "53/udp"},
		{"link-local beside global", "fe80::1/64 fd77::1/64", "fe80::2", "fe80::1", "53/udp"},
		{"own link-local", "fe80::1/64 fd77::1/64", "fe80::1", "fd77::1", "martian"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(Options{})
			bindNamed(t, r)
			prefixes := []netip.Prefix{{}}
			for _, a := range strings.Fields(c.addrs) {
				prefixes = append(prefixes, netip.MustParsePrefix(a))
			}
			r.t.SetAddrs(NewAddrs(prefixes...))
			r.send(ip(c.src, c.dst, 17, u...))
			require.Equal(t, c.want, verdictOf(r))
		})
	}
}

func TestVerdictEthernet(t *testing.T) {
	hw, other, all := []byte{2, 0, 0, 0, 0, 1}, []byte{2, 0, 0, 0, 0, 2}, []byte{255, 255, 255, 255, 255, 255}
	eth := func(dst, src []byte, typ uint16, payload ...byte) []byte {
		b := append(append([]byte(nil), dst...), src...)
		return append(binary.BigEndian.AppendUint16(b, typ), payload...)
	}
	u4, u6, arp := udp4(4000, 53), udp6(4000, 53), make([]byte, 28)
	toAll := udp(netip.AddrPortFrom(peerAddr, 4000), netip.MustParseAddrPort("255.255.255.255:53"))
	for _, c := range []struct {
		name string
		b    []byte
		want string
		l2   int
	}{
		{"IPv4", eth(hw, other, 0x0800, u4...), "53/udp", 14},
		{"IPv6", eth(hw, other, 0x86dd, u6...), "53/udp", 14},
		{"broadcast", eth(all, other, 0x0800, toAll...), "53/udp", 14},
		{"our address in a broadcast", eth(all, other, 0x0800, u4...), "not-for-us", 14},
		{"our address in a group's frame", eth([]byte{0x33, 0x33, 0, 0, 0, 1}, other, 0x86dd, u6...), "not-for-us", 14},
		{"ARP", eth(all, other, 0x0806, arp...), "link", 0},
		{"another station", eth(other, []byte{2, 0, 0, 0, 0, 3}, 0x0800, u4...), "not-for-us", 0},
		{"from ourselves", eth(hw, hw, 0x0800, u4...), "martian", 0},
		{"from a group", eth(hw, all, 0x0800, u4...), "martian", 0},
		{"VLAN tag", eth(hw, other, 0x8100, u4...), "unknown-protocol", 0},
		{"802.3 length", eth(hw, other, 46, u4...), "unknown-protocol", 0},
		{"LLDP", eth(hw, other, 0x88cc), "unknown-protocol", 0},
		{"runt", eth(hw, other, 0x0800)[:13], "malformed", 0},
		{"nothing in it", eth(hw, other, 0x0800), "malformed", 0},
		{"IPv6 that says IPv4", eth(hw, other, 0x0800, u6...), "malformed", 0},
		{"IPv4 that says IPv6", eth(hw, other, 0x86dd, u4...), "malformed", 0},
		{"padded to 60", append(eth(hw, other, 0x0800, u4...), make([]byte, 18)...), "53/udp", 14},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(Options{})
			bindNamed(t, r)
			in := r.t.NewIngress(hw)
			put(in, 0, c.b, Offload{})
			in.Deliver(1)
			require.Equal(t, c.want, verdictOf(r))
			r.law(t)
			if c.want == "53/udp" {
				p, ok, _ := r.t.Pop(UDPPort(53))
				require.True(t, ok)
				require.Equal(t, c.l2, p.LinkLen())
				require.Equal(t, c.b[14:], p.IP())
				require.Equal(t, c.b, p.Frame())
				r.t.Free(p)
			} else if run, ok := r.take(); ok {
				r.t.ServeRun(run, func(_ Port, p Packet) Fate {
					require.Equal(t, c.l2, p.LinkLen())
					require.Equal(t, c.b, p.Frame())
					require.Zero(t, p.Info().Version)
					return ToStack
				})
			}
		})
	}
}
