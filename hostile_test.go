package porthole_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/demux/packet"
	"porthole/stack"
	"porthole/stack/stacktest"
	"porthole/tun"
)

func TestHostileLengths(t *testing.T) {
	eachLink(t, func(t *testing.T, r *hostile) {
		for name, whole := range map[string][]byte{
			"tcp4":  seg(ap(evil4, 1000), ap(host4, 80), packet.SYN, 1, 0),
			"udp4":  udp(ap(evil4, 1000), ap(host4, 7), 'x'),
			"icmp4": icmp4(evil4, host4, 8, 0, 1, []byte("x")),
			"tcp6":  seg(ap(evil6, 1000), ap(host6, 80), packet.SYN, 1, 0),
			"udp6":  udp(ap(evil6, 1000), ap(host6, 7), 'x'),
			"icmp6": icmp6(evil6, host6, 128, 0, 1, []byte("x")),
		} {
			kind := uint16(0x0800)
			if whole[0]>>4 == 6 {
				kind = 0x86dd
			}
			var cut [][]byte
			f := r.frame(whole, kind)
			for n := 1; n < len(f); n++ {
				cut = append(cut, f[:n])
			}
			require.Empty(t, r.fated("malformed", len(cut), func() { r.send(cut...) }), name)
		}
		syn := seg(ap(evil4, 1000), ap(host4, 80), packet.SYN, 1, 0)
		edit := func(at int, to ...byte) []byte {
			b := append([]byte(nil), syn...)
			copy(b[at:], to)
			return sum4(b)
		}
		bad := [][]byte{edit(0, 0x44), edit(0, 0x40), edit(0, 0x4f), edit(2, 0, 19), edit(2, 0, 41), edit(2, 0xff, 0xff),
			edit(32, 0x40), edit(32, 0xf0)} // header length, total length, TCP offset
		for v := byte(0); v < 16; v++ {
			if v != 4 && v != 6 {
				bad = append(bad, edit(0, v<<4|5))
			}
		}
		u := udp(ap(evil4, 1000), ap(host4, 7), 'x')
		for _, n := range []byte{0, 7, 10, 255} { // UDP length
			b := append([]byte(nil), u...)
			b[25] = n
			bad = append(bad, b)
		}
		require.Empty(t, r.fates("malformed", bad...))
		// Padding behind the packet is no part of it.
		flags, _, ack := tcpReply(t, r.late("to-stack", append(seg(ap(evil4, 1001), ap(host4, 80), packet.SYN, 5, 0), make([]byte, 6)...)))
		require.Equal(t, packet.SYN|packet.ACK, flags)
		require.EqualValues(t, 6, ack)
	})
}

func TestHostileChecksums(t *testing.T) {
	eachLink(t, func(t *testing.T, r *hostile) {
		flip := func(b []byte, at int) []byte { b[at] ^= 1; return b }
		require.Empty(t, r.fates("bad-checksum",
			flip(seg(ap(evil4, 1000), ap(host4, 80), packet.SYN, 1, 0), 10), // IPv4 header
			flip(seg(ap(evil4, 1000), ap(host4, 80), packet.SYN, 1, 0), 36),
			flip(seg(ap(evil4, 1000), ap(host4, 81), packet.SYN, 1, 0), 25), // a closed port owes it no RST
			flip(udp(ap(evil4, 1000), ap(host4, 7), 'x'), 28),
			flip(udp(ap(evil4, 1000), ap(host4, 81), 'x'), 28),
			flip(icmp4(evil4, host4, 8, 0, 1, []byte("x")), 28),
			flip(seg(ap(evil6, 1000), ap(host6, 80), packet.SYN, 1, 0), 45),
			flip(udp(ap(evil6, 1000), ap(host6, 7), 'x'), 48),
			flip(icmp6(evil6, host6, 128, 0, 1, []byte("x")), 48),
		))
		// Zero is "none" in IPv4 (RFC 768) and wrong in IPv6 (RFC 8200, 8.1).
		zero := func(b []byte, at int) []byte { b[at], b[at+1] = 0, 0; return b }
		require.Empty(t, r.fates("bad-checksum", zero(udp(ap(evil6, 1000), ap(host6, 7), 'x'), 46)))
		r.ip(zero(udp(ap(evil4, 1000), ap(host4, 7), 'x'), 26))
		r.wait("echo", func(b []byte) bool { return len(b) == 29 && b[9] == 17 && b[28] == 'x' })
	})
}

func TestHostileAddresses(t *testing.T) {
	eachLink(t, func(t *testing.T, r *hostile) {
		a := netip.MustParseAddr
		var martians [][]byte
		for _, src := range []netip.Addr{host4, a("127.0.0.1"), a("127.255.255.255"), a("0.0.0.0"), a("0.1.2.3"),
			a("224.0.0.1"), a("239.255.255.250"), a("255.255.255.255"), a("10.77.0.255")} {
			martians = append(martians, seg(ap(src, 1000), ap(host4, 80), packet.SYN, 1, 0), seg(ap(src, 80), ap(host4, 80), packet.SYN, 1, 0),
				udp(ap(src, 7), ap(host4, 7), 'x'), udp(ap(src, 1000), ap(host4, 81)), icmp4(src, host4, 8, 0, 1, nil))
		}
		mapped := func(p []byte) []byte { // ::ffff:10.77.0.66
			copy(p[8:24], []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 77, 0, 66})
			return p
		}
		for _, src := range []netip.Addr{host6, a("::1"), a("ff02::1"), a("ff05::2"), a("::")} {
			martians = append(martians, seg(ap(src, 1000), ap(host6, 80), packet.SYN, 1, 0), udp(ap(src, 7), ap(host6, 7), 'x'))
		}
		martians = append(martians, mapped(seg(ap(evil6, 1000), ap(host6, 80), packet.SYN, 1, 0)))
		require.Empty(t, r.fates("martian", martians...))

		var others [][]byte
		for _, dst := range []netip.Addr{a("10.77.0.3"), a("127.0.0.1"), a("0.0.0.0"), a("8.8.8.8"), a("224.0.0.1"), a("255.255.255.255"), a("10.77.0.255"), a("10.77.0.0")} {
			others = append(others, seg(ap(evil4, 1000), ap(dst, 80), packet.SYN, 1, 0), udp(ap(evil4, 1000), ap(dst, 81)), icmp4(evil4, dst, 8, 0, 1, nil))
		}
		for _, dst := range []netip.Addr{a("fd77::3"), a("::1"), a("::"), a("ff02::1"), a("ff0e::1"), a("2001:db8::1")} {
			others = append(others, seg(ap(evil6, 1000), ap(dst, 80), packet.SYN, 1, 0), udp(ap(evil6, 1000), ap(dst, 81)))
		}
		require.Empty(t, r.fates("not-for-us", others...))
	})
}

// TestHostileFlags: what RFC 9293, 3.10.7 answers to odd segments.
func TestHostileFlags(t *testing.T) {
	const none = 0
	eachLink(t, func(t *testing.T, r *hostile) {
		sport := uint16(2000)
		for _, h := range []struct{ evil, host netip.Addr }{{evil4, host4}, {evil6, host6}} {
			for _, x := range []struct {
				name  string
				flags uint8
				data  string
				open  uint8  // the flags of what a listener answers
				seq   uint32 // of a closed port's RST
				ack   uint32
			}{
				{"null", 0, "", none, 0, 1000},
				{"null with data", 0, "abc", none, 0, 1003},
				{"fin", packet.FIN, "", none, 0, 1001},
				{"xmas", packet.FIN | packet.PSH | packet.URG, "", none, 0, 1001},
				{"syn", packet.SYN, "", packet.SYN | packet.ACK, 0, 1001},
				{"syn with data", packet.SYN, "abc", packet.SYN | packet.ACK, 0, 1004},
				{"syn fin", packet.SYN | packet.FIN, "", none, 0, 1002},
				{"ack", packet.ACK, "", packet.RST, 77, 0},
				{"fin ack", packet.FIN | packet.ACK, "", packet.RST, 77, 0},
				{"syn ack", packet.SYN | packet.ACK, "", packet.RST, 77, 0},
				{"rst", packet.RST, "", none, 0, 0},
				{"rst ack", packet.RST | packet.ACK, "", none, 0, 0},
				{"syn rst", packet.SYN | packet.RST, "", none, 0, 0},
				{"all", 0xff, "", none, 0, 0},
			} {
				sport++
				p := seg(ap(h.evil, sport), ap(h.host, 80), x.flags, 1000, 77, []byte(x.data)...)
				fate := "to-stack"
				if x.flags&packet.SYN != 0 && x.flags&(packet.RST|packet.FIN) != 0 {
					fate = "malformed" // no state of TCP sends it, and Linux's listener drops it
				}
				replies := r.fates(fate, p)
				if x.open == none {
					require.Empty(t, replies, "%s at a listener", x.name)
				} else {
					flags, seq, ack := tcpReply(t, r.orLater(replies))
					require.Equal(t, x.open, flags, "%s at a listener", x.name)
					if flags == packet.RST {
						require.EqualValues(t, 77, seq)
					} else {
						require.EqualValues(t, 1001, ack, "%s: data and FIN of a SYN are not taken", x.name)
						// Half open no longer: its SYN+ACK would come again in a second.
						require.Empty(t, r.fates("to-stack", seg(ap(h.evil, sport), ap(h.host, 80), packet.RST, 1001, 0)))
					}
				}
				p = seg(ap(h.evil, sport), ap(h.host, 81), x.flags, 1000, 77, []byte(x.data)...)
				replies = r.fates("closed", p)
				if x.flags&packet.RST != 0 {
					require.Empty(t, replies, "%s at a closed port", x.name)
					continue
				}
				flags, seq, ack := tcpReply(t, replies)
				want := packet.RST
				if x.flags&packet.ACK == 0 {
					want |= packet.ACK
				}
				require.Equal(t, want, flags, "%s at a closed port", x.name)
				require.Equal(t, x.seq, seq, "%s at a closed port", x.name)
				require.Equal(t, x.ack, ack, "%s at a closed port", x.name)
			}
		}
	})
}

func TestHostilePorts(t *testing.T) {
	eachLink(t, func(t *testing.T, r *hostile) {
		flags, _, ack := tcpReply(t, r.fates("closed", seg(ap(evil4, 1000), ap(host4, 0), packet.SYN, 9, 0)))
		require.Equal(t, packet.RST|packet.ACK, flags)
		require.EqualValues(t, 10, ack)
		require.Equal(t, "3/3", icmpReply(t, r.fates("closed", udp(ap(evil4, 1000), ap(host4, 0)))))
		require.Equal(t, "1/4", icmpReply(t, r.fates("closed", udp(ap(evil6, 1000), ap(host6, 0)))))
		// From port 0: "none", there is nowhere to answer to (RFC 768).
		require.Empty(t, r.fates("to-service", udp(ap(evil4, 0), ap(host4, 7), 'x')))
		require.Empty(t, r.fates("to-service", udp(ap(evil6, 0), ap(host6, 7), 'x')))
		// TCP knows no such exception, and Linux makes none.
		r.ip(seg(ap(evil4, 0), ap(host4, 80), packet.SYN, 9, 0))
		r.wait("answer to port 0", func(b []byte) bool { return b[33] == packet.SYN|packet.ACK })
	})
}

func TestHostileICMP(t *testing.T) {
	eachLink(t, func(t *testing.T, r *hostile) {
		quote := body(seg(ap(host4, 80), ap(evil4, 1000), packet.ACK, 1, 1))
		inner := v4{src: host4, dst: evil4, proto: 6, id: 1}.put(quote)
		q6 := v6(host6, evil6, 6, body(seg(ap(host6, 80), ap(evil6, 1000), packet.ACK, 1, 1)))
		var all [][]byte
		for kind := range 256 {
			if kind == 8 || kind == 128 {
				continue // echo is answered; timestamp need not be (RFC 1122, 3.2.2.8), Linux does
			}
			all = append(all, icmp4(evil4, host4, uint8(kind), 0, 0, inner), icmp4(evil4, host4, uint8(kind), 4, 0, inner[:24]))
			if kind < 130 || kind > 160 { // the link's own are below
				all = append(all, icmp6(evil6, host6, uint8(kind), 0, 0, q6), icmp6(evil6, host6, uint8(kind), 3, 0, q6[:20]))
			}
		}
		// No ICMP error is answered, nor is what nobody knows (RFC 1122, 3.2.2).
		for _, p := range all {
			require.Empty(t, r.fates("to-stack", p), "% x", p)
		}
		// Quotes that lie about themselves.
		for at := range 20 {
			for _, v := range []byte{0, 0x40, 0x4f, 0xff} {
				lie := append([]byte(nil), inner...)
				lie[at] = v
				r.ip(icmp4(evil4, host4, 3, 3, 0, lie), icmp4(evil4, host4, 3, 4, 0, lie), icmp4(evil4, host4, 11, 0, 0, lie))
			}
			r.barrier()
		}
	})
}

// TestHostileForgedErrors: nobody ends or cripples a connection by ICMP. Linux takes
// unreachables as soft errors too (RFC 5927, 5.2) and believes no MTU below 552.
func TestHostileForgedErrors(t *testing.T) {
	for _, h := range []struct{ peer, evil, host netip.Addr }{
		{stacktest.Peer4.Addr(), evil4, host4}, {stacktest.Peer6.Addr(), evil6, host6},
	} {
		t.Run(h.host.String(), func(t *testing.T) {
			r := newHostile(t, tun.PipeOptions{})
			dial := func() (net.Conn, netip.AddrPort) {
				c, err := r.client.DialTCP(t.Context(), ap(h.host, 7), stack.DialConfig{})
				require.NoError(t, err)
				t.Cleanup(func() { c.Close() })
				require.NoError(t, c.SetDeadline(time.Now().Add(2*patience)))
				return c, netip.MustParseAddrPort(c.LocalAddr().String())
			}
			echo := func(c net.Conn, data []byte) {
				t.Helper()
				go c.Write(data)
				got := make([]byte, len(data))
				_, err := io.ReadFull(c, got)
				require.NoError(t, err)
				require.True(t, bytes.Equal(data, got))
			}
			c, from := dial()
			r.forge(h.host, from) // the host's end may still be half open
			echo(c, []byte("here"))
			c, from = dial()
			echo(c, []byte("here"))
			r.forge(h.host, from)
			longest := 0
			r.wire.mu.Lock()
			r.wire.other = func(ip []byte) {
				if i, p := packet.Parse(ip, len(ip)); p == packet.None && i.Kind == packet.TCP && i.SrcPort == 7 {
					longest = max(longest, len(ip))
				}
			}
			r.wire.mu.Unlock()
			echo(c, bytes.Repeat([]byte("still whole "), 20000))
			r.wire.mu.Lock()
			defer r.wire.mu.Unlock()
			least := 552
			if h.host.Is6() {
				least = 1280
			}
			require.LessOrEqual(t, longest, least)
			require.Greater(t, longest, least-60, "netstack leaves room for all options")
		})
	}
}

// forge tells the host all that ICMP can say against a connection of its port 7.
func (r *hostile) forge(host netip.Addr, from netip.AddrPort) {
	r.t.Helper()
	quote := seg(ap(host, 7), from, packet.ACK, 1, 1)
	if host.Is4() {
		for code := range uint8(16) {
			r.ip(icmp4(evil4, host4, 3, code, 0, quote))
		}
		r.ip(icmp4(evil4, host4, 4, 0, 0, quote), icmp4(evil4, host4, 11, 0, 0, quote), icmp4(evil4, host4, 12, 0, 0, quote))
		for _, mtu := range []uint32{0, 1, 60, 67, 68, 100, 551} {
			r.ip(icmp4(evil4, host4, 3, 4, mtu, quote))
		}
	} else {
		for code := range uint8(8) {
			r.ip(icmp6(evil6, host6, 1, code, 0, quote))
		}
		for _, mtu := range []uint32{0, 1, 68, 576, 1279} {
			r.ip(icmp6(evil6, host6, 2, 0, mtu, quote))
		}
		r.ip(icmp6(evil6, host6, 3, 0, 0, quote), icmp6(evil6, host6, 4, 0, 0, quote))
	}
	r.barrier()
}

func TestHostileOptions4(t *testing.T) {
	eachLink(t, func(t *testing.T, r *hostile) {
		sport := uint16(3000)
		send := func(opts ...byte) [][]byte {
			sport++
			p := v4{src: evil4, dst: host4, proto: 6, id: 1, opts: opts}.put(body(seg(ap(evil4, sport), ap(host4, 80), packet.SYN, 1, 0)))
			return r.late("to-stack", p)
		}
		answered := func(opts ...byte) {
			t.Helper()
			flags, _, _ := tcpReply(t, send(opts...))
			require.Equal(t, packet.SYN|packet.ACK, flags)
		}
		answered(1, 1, 1, 0)
		answered(7, 7, 4, 0, 0, 0, 0, 0)     // record route
		answered(68, 8, 5, 0, 0, 0, 0, 0)    // timestamp
		answered(148, 4, 0, 0)               // router alert
		answered(0x9a, 4, 1, 2)              // unknown
		answered(131, 7, 8, 10, 77, 0, 9, 0) // loose source route, at its end: this is its last stop
		answered(137, 7, 8, 10, 77, 0, 9, 0) // strict
		for _, x := range []struct {         // RFC 1122, 3.2.1.8: a parameter problem
			name string
			at   int
			opts []byte
		}{
			{"record route pointer", 22, []byte{7, 7, 3, 0, 0, 0, 0, 0}},
			{"record route length", 21, []byte{7, 3, 4, 0}},
			{"router alert value", 22, []byte{148, 4, 1, 0}},
			{"twice", 24, []byte{148, 4, 0, 0, 148, 4, 0, 0}},
		} {
			require.Equal(t, fmt.Sprintf("12/0 at %d", x.at), icmpReply(t, send(x.opts...)), x.name)
		}
		// Options that end outside of the header.
		sport++
		for _, opts := range [][]byte{{7, 99, 4, 0}, {7, 1, 4, 0}, {7, 0, 4, 0}, {1, 1, 1, 7}} {
			p := v4{src: evil4, dst: host4, proto: 6, id: 1, opts: opts}.put(body(seg(ap(evil4, sport), ap(host4, 80), packet.SYN, 1, 0)))
			replies := r.fates("to-stack", p)
			for _, b := range replies {
				require.EqualValues(t, 1, b[9], "no TCP: % x", b)
			}
		}
		// A protocol that nobody speaks.
		require.Equal(t, "3/2", icmpReply(t, r.fates("to-stack", v4{src: evil4, dst: host4, proto: 132, id: 1}.put(make([]byte, 20)))))
	})
}

func TestHostileExtensions6(t *testing.T) {
	eachLink(t, func(t *testing.T, r *hostile) {
		syn := func(port uint16) []byte { return body(seg(ap(evil6, port), ap(host6, 80), packet.SYN, 1, 0)) }
		sport := uint16(4000)
		for _, x := range []struct {
			name, want string
			next       uint8
			ext        []byte
		}{
			{"hop by hop, padding", "syn+ack", 0, []byte{6, 0, 1, 4, 0, 0, 0, 0}},
			{"hop by hop, unknown to skip", "syn+ack", 0, []byte{6, 0, 0x1e, 4, 0, 0, 0, 0}},
			{"hop by hop, unknown to drop", "", 0, []byte{6, 0, 0x5e, 4, 0, 0, 0, 0}},
			{"hop by hop, unknown to tell", "4/2 at 42", 0, []byte{6, 0, 0x9e, 4, 0, 0, 0, 0}},
			{"destination, unknown to tell", "4/2 at 42", 60, []byte{6, 0, 0xde, 4, 0, 0, 0, 0}},
			{"routing header 0 with a stop left (RFC 5095)", "4/0 at 42", 43, []byte{6, 2, 0, 1, 0, 0, 0, 0, 0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9}},
			{"routing header 0 at its end", "syn+ack", 43, []byte{6, 2, 0, 0, 0, 0, 0, 0, 0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9}},
			{"atomic fragment (RFC 6946)", "syn+ack", 44, []byte{6, 0, 0, 0, 0, 0, 0, 9}},
			{"unknown next header", "4/1 at 6", 200, []byte{6, 0, 0, 0, 0, 0, 0, 0}},
			{"hop by hop in second place", "4/1 at 40", 60, []byte{0, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0}},
		} {
			t.Run(x.name, func(t *testing.T) {
				r.t = t
				sport++
				replies := r.fates("to-stack", v6(evil6, host6, x.next, append(x.ext, syn(sport)...)))
				switch x.want {
				case "":
					require.Empty(t, replies)
				case "syn+ack":
					flags, _, _ := tcpReply(t, r.orLater(replies))
					require.Equal(t, packet.SYN|packet.ACK, flags)
				default:
					require.Equal(t, x.want, icmpReply(t, replies))
				}
			})
		}
		r.t = t
		jumbo := v6(evil6, host6, 0, append([]byte{6, 0, 0xc2, 4, 0, 1, 0, 0}, syn(1)...))
		jumbo[4], jumbo[5] = 0, 0
		long := append([]byte{6, 255, 1, 4, 0, 0, 0, 0}, syn(1)...)
		chain := []byte{}
		for range 9 {
			chain = append(chain, 60, 0, 1, 4, 0, 0, 0, 0)
		}
		chain = append(append(chain, 6, 0, 1, 4, 0, 0, 0, 0), syn(1)...)
		require.Empty(t, r.fates("malformed", jumbo, v6(evil6, host6, 0, long), v6(evil6, host6, 60, chain),
			v6(evil6, host6, 0, []byte{6, 0, 1, 40, 0, 0, 0, 0}), v6(evil6, host6, 6, nil)))
	})
}
