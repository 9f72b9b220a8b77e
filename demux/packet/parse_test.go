package packet

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	for _, s := range samples {
		t.Run(s.name, func(t *testing.T) {
			got, p := Parse(s.b, len(s.b))
			require.Equal(t, None, p)
			require.Equal(t, s.want, got)
			require.Equal(t, int(s.want.size), got.PayloadLen())

			i := Info{Kind: 77, SrcPort: 1, Length: 1 << 30, ICMPType: 9} // what lay there before must not show
			require.Equal(t, None, i.Parse(s.b, len(s.b)))
			require.Equal(t, s.want, i)

			from, to := netip.MustParseAddr("10.77.0.2"), netip.MustParseAddr("10.77.0.1")
			if got.Version == 6 {
				from, to = netip.MustParseAddr("fd77::2"), netip.MustParseAddr("fd77::1")
				if s.want.ICMPType == 135 {
					to = netip.MustParseAddr("ff02::1:ff00:1")
				}
			}
			require.Equal(t, from, got.Src(s.b))
			require.Equal(t, to, got.Dst(s.b))
			require.Equal(t, from.AsSlice(), got.SrcBytes(s.b))
			require.Equal(t, to.AsSlice(), got.DstBytes(s.b))
		})
	}
}

// The headers are all that Parse needs, and it needs all of them: the data may lie
// elsewhere.
func TestParseHeadOnly(t *testing.T) {
	for _, s := range samples {
		head := int(s.want.Payload)
		if s.want.Kind == Other {
			head = len(s.b) // what makes it so may stand behind L4
		}
		got, p := Parse(s.b[:head], len(s.b))
		require.Equal(t, None, p, s.name)
		require.Equal(t, s.want, got, s.name)
		for n := range int(s.want.Payload) {
			_, p := Parse(s.b[:n:n], len(s.b))
			require.Equal(t, HeadersTooLong, p, "%s, %d bytes", s.name, n)
		}
	}
}

// A frame cut anywhere within the packet's own length is malformed, and nothing panics.
func TestParseTruncated(t *testing.T) {
	for _, s := range samples {
		for n := range int(s.want.Length) {
			b := append([]byte(nil), s.b[:n]...)
			_, p := Parse(b[:n:n], n)
			require.Equal(t, Truncated, p, "%s, %d bytes", s.name, n)
			agreePlain(t, s.b, n)
		}
		agreePlain(t, s.b, len(s.b))
	}
}

// agreePlain requires that ParsePlain says what Parse does of a frame of n bytes, with
// the rest of b behind it, and leaves nothing plain to Parse.
func agreePlain(t *testing.T, b []byte, n int) {
	t.Helper()
	var h [40]byte
	copy(h[:], b)
	want, p := Parse(b[:n:n], n)
	got := Info{ICMPType: 1}
	plain := got.ParsePlain(&h, n)
	if plain != (p == None && want.Kind <= UDP && b[0] == 0x45) {
		t.Fatalf("plain: %v, where Parse says %v of %+v", plain, p, want)
	}
	if plain && got != want {
		t.Fatalf("got %+v, want %+v", got, want)
	}
}

// edit returns a copy of the sample of that name with bytes replaced from byte at on.
func edit(name string, at int, with ...byte) []byte {
	for _, s := range samples {
		if s.name == name {
			b := append([]byte(nil), s.b...)
			copy(b[at:], with)
			return b
		}
	}
	panic("no sample " + name)
}

func TestParseProblems(t *testing.T) {
	chain := func(n int) []byte { // n destination options headers before UDP
		kinds, bodies := make([]byte, n), make([][]byte, n)
		for i := range n {
			kinds[i], bodies[i] = 60, pad6
		}
		return withExtensions6(udpPacket(there6, here6, 4), kinds, bodies...)
	}
	fragment6 := func(offset uint16, more bool, data int) []byte {
		f := offset
		if more {
			f |= 1
		}
		b := append([]byte(nil), udpPacket(there6, here6, 4)[:40]...)
		b[6] = 44
		b = append(b, 17, 0, byte(f>>8), byte(f), 0, 0, 0, 1)
		b = append(b, make([]byte, data)...)
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
		return b
	}
	with := func(b []byte, at int, v ...byte) []byte { copy(b[at:], v); return b }
	padded := func(b []byte) []byte { return append(append([]byte(nil), b...), make([]byte, 64)...) }

	for _, c := range []struct {
		name string
		b    []byte
		want Problem
	}{
		{"nothing", nil, Truncated},
		{"one byte", []byte{0x45}, Truncated},
		{"version 5", edit("v4 udp", 0, 0x55), BadVersion},
		{"version 0 in one byte", []byte{0}, BadVersion},
		{"version 15", edit("v6 udp", 0, 0xf0), BadVersion},
		{"header length 16", edit("v4 udp", 0, 0x44), BadHeaderLength},
		{"header length 0", edit("v4 udp", 0, 0x40), BadHeaderLength},
		{"header longer than the packet", edit("v4 udp", 0, 0x4f), BadLength},
		{"total length 19", edit("v4 udp", 2, 0, 19), BadLength},
		{"total length 0", edit("v4 udp", 2, 0, 0), BadLength},
		{"total length one too large", edit("v4 udp", 2, 0, 33), Truncated},
		{"first fragment of 12 bytes, with all of its header", edit("v4 udp", 6, 0x20), BadFragment},
		{"payload length one too large", edit("v6 udp", 4, 0, 13), Truncated},
		{"padding does not count as packet", padded(edit("v4 udp", 2, 0, 27)), ShortTransport},
		{"padding does not count as packet, IPv6", padded(edit("v6 udp", 4, 0, 7)), ShortTransport},

		{"UDP of 7 bytes", edit("v4 udp", 2, 0, 27), ShortTransport},
		{"UDP of 0 bytes", edit("v4 udp", 2, 0, 20), ShortTransport},
		{"TCP of 19 bytes", edit("v4 tcp data", 2, 0, 39), ShortTransport},
		{"TCP of 19 bytes, IPv6", edit("v6 tcp syn", 4, 0, 19), ShortTransport},
		{"ICMPv4 of 7 bytes", edit("v4 echo", 2, 0, 27), ShortTransport},
		{"ICMPv6 of 3 bytes", edit("v6 echo", 4, 0, 3), ShortTransport},
		{"no bytes of UDP, IPv6", edit("v6 udp", 4, 0, 0), ShortTransport},
		{"UDP length 7", edit("v4 udp", 24, 0, 7), BadUDPLength},
		{"UDP length 0", edit("v4 udp", 24, 0, 0), BadUDPLength},
		{"UDP length 0, IPv6", edit("v6 udp", 44, 0, 0), BadUDPLength},
		{"UDP length 1 too large", edit("v4 udp", 24, 0, 13), BadUDPLength},
		{"TCP data offset 4", edit("v4 tcp data", 32, 0x40), BadTCPOffset},
		{"TCP data offset 0", edit("v4 tcp data", 32, 0), BadTCPOffset},
		{"TCP data offset 7 in 24 bytes", edit("v4 tcp data", 32, 0x70), BadTCPOffset},

		{"empty fragment", edit("v4 last fragment", 2, 0, 20), BadFragment},
		{"inner fragment of 7 bytes", edit("v4 later fragment", 2, 0, 27), BadFragment},
		{"fragment that ends at 65536", edit("v4 last fragment at the limit", 6, 0x1f, 0xfd), BadFragment},
		{"ping of death", edit("v4 last fragment", 6, 0x1f, 0xff), BadFragment},
		{"empty fragment, IPv6", fragment6(8, false, 0), BadFragment},
		{"empty first fragment, IPv6", fragment6(0, true, 0), BadFragment},
		{"inner fragment of 9 bytes, IPv6", fragment6(0, true, 9), None}, // a parameter problem is owed
		{"fragment that ends at 65536, IPv6", fragment6(65528, false, 8), None},
		{"fragment that ends at 65535, IPv6", fragment6(65528, false, 7), None},
		// RFC 7112: a first fragment has all headers.
		{"first fragment with a UDP header", fragment6(0, true, 8), None},
		{"first fragment with half a TCP header", with(fragment6(0, true, 16), 40, 6), BadFragment},
		{"first fragment with a TCP header", with(fragment6(0, true, 24), 40, 6), None},
		{"first fragment that ends in its options", with(fragment6(0, true, 8), 40, 60, 0, 0, 1, 0, 0, 0, 1, 17, 0, 1, 4), BadFragment},
		{"first fragment that ends in a long one", with(fragment6(0, true, 16), 40, 60, 0, 0, 1, 0, 0, 0, 1, 17, 1, 1, 12), BadFragment},
		{"first fragment with options and UDP", with(fragment6(0, true, 16), 40, 60, 0, 0, 1, 0, 0, 0, 1, 17, 0, 1, 4), None},
		{"first fragment of an unknown protocol", with(fragment6(0, true, 8), 40, 99), None},
		{"later fragment without any", with(fragment6(8, true, 8), 40, 6), None},
		{"the same with options before it", withExtensions6(fragment6(65528, false, 7), []byte{60}, pad6), BadFragment},

		{"jumbogram", edit("v6 two extensions", 4, 0, 0), Jumbogram},
		{"eight extensions", chain(8), None},
		{"nine extensions", chain(9), ChainTooLong},
		{"extension cut by the packet's end", edit("v6 two extensions", 4, 0, 15), BadExtension},
		{"extension of 4 bytes", edit("v6 two extensions", 4, 0, 4), BadExtension},
		{"extension longer than the packet", edit("v6 two extensions", 41, 200), BadExtension},
		{"extension that ends in the padding", padded(edit("v6 routing header, arrived", 41, 5)), BadExtension},
		{"routing header longer than the packet", edit("v6 routing header, arrived", 41, 200), BadExtension},
		{"option longer than its header", edit("v6 two extensions", 47, 1, 60, 0, 1, 9), BadExtension},
		{"option without a length", edit("v6 two extensions", 47, 1), BadExtension},
		{"fragment header of 7 bytes", edit("v6 first fragment", 4, 0, 7), BadExtension},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, p := Parse(c.b, len(c.b))
			require.Equal(t, c.want.String(), p.String())
			agreePlain(t, c.b, len(c.b))
			if p == BadFragment {
				require.Equal(t, Fragment, got.Kind)
			} else if p != None {
				require.Equal(t, Other, got.Kind)
				require.Zero(t, got.DstPort)
			}
		})
	}
}

// HeadersTooLong is about the first piece of a frame alone: the same bytes, given as
// one piece, are fine.
func TestParseHeadersTooLong(t *testing.T) {
	for _, c := range []struct {
		name string
		b    []byte
		head int
	}{
		{"IPv4 header", edit("v4 udp", 0), 19},
		{"IPv4 options", edit("v4 options", 0), 20},
		{"UDP over IPv4", edit("v4 udp", 0), 27},
		{"TCP over IPv4", edit("v4 tcp syn", 0), 39},
		{"TCP options", edit("v4 tcp syn", 0), 59},
		{"ICMPv4", edit("v4 echo", 0), 27},
		{"IPv6 header", edit("v6 udp", 0), 39},
		{"UDP over IPv6", edit("v6 udp", 0), 47},
		{"ICMPv6", edit("v6 echo", 0), 43},
		{"extension", edit("v6 two extensions", 0), 47},
		{"second extension's body", edit("v6 routing header, arrived", 0), 63},
		{"fragment header", edit("v6 first fragment", 0), 47},
	} {
		_, p := Parse(c.b[:c.head], len(c.b))
		require.Equal(t, HeadersTooLong, p, c.name)
		_, p = Parse(c.b, len(c.b))
		require.Equal(t, None, p, c.name)
	}
}

func TestLinkKinds(t *testing.T) {
	for n := range 256 {
		b := edit("v6 echo", 40, byte(n))
		i, p := Parse(b, len(b))
		require.Equal(t, None, p)
		want := ICMP
		if n == 2 || n >= 133 && n <= 137 {
			want = Link
		}
		require.Equal(t, want, i.Kind, "ICMPv6 type %d", n)

		b = edit("v4 fragmentation needed", 20, 3, byte(n))
		i, _ = Parse(b, len(b))
		want = ICMP
		if n == 4 {
			want = Link
		}
		require.Equal(t, want, i.Kind, "ICMPv4 code %d", n)
		b = edit("v4 fragmentation needed", 20, byte(n), 4)
		i, _ = Parse(b, len(b))
		require.Equal(t, n == 3, i.Kind == Link, "ICMPv4 type %d", n)
	}
}

// Every protocol number that is not a transport of ours is Other in both families,
// but for the IPv6 extension headers, which are walked.
func TestOtherProtocols(t *testing.T) {
	walked := map[int]bool{0: true, 43: true, 44: true, 60: true, 253: true}
	for n := range 256 {
		b := edit("v4 udp", 9, byte(n))
		if n != 6 && n != 17 && n != 1 {
			i, p := Parse(b, len(b))
			require.Equal(t, None, p)
			require.Equal(t, Info{Kind: Other, Version: 4, Proto: byte(n), L4: 20, Payload: 20, Length: 32, size: 12}, i)
		}
		b = edit("v6 udp", 6, byte(n))
		if n != 6 && n != 17 && n != 58 && !walked[n] {
			i, p := Parse(b, len(b))
			require.Equal(t, None, p)
			require.Equal(t, Info{Kind: Other, Version: 6, Proto: byte(n), L4: 40, Payload: 40, Length: 52, size: 12}, i)
		}
	}
}

// The two highest bits of an option's type say what a host does that does not know it
// (RFC 8200, 4.2): 00 is skip.
func TestUnknownOptions(t *testing.T) {
	for _, header := range []byte{0, 60} {
		for n := 2; n < 256; n++ {
			b := edit("v6 unknown option to be skipped", 42, byte(n))
			b[6] = header
			want := Other
			if n < 64 {
				want = UDP
			}
			i, p := Parse(b, len(b))
			require.Equal(t, None, p)
			require.Equal(t, want, i.Kind, "header %d, option %d", header, n)
		}
	}
}

func TestInfoIsSmall(t *testing.T) {
	require.LessOrEqual(t, unsafe.Sizeof(Info{}), uintptr(32))
}

func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for p := range numProblems {
		require.NotEmpty(t, p.String())
		require.False(t, seen[p.String()], p.String())
		seen[p.String()] = true
	}
	require.Equal(t, "unknown", numProblems.String())
	for k := range Other + 1 {
		require.False(t, seen[k.String()], k.String())
		seen[k.String()] = true
	}
	require.Equal(t, "unknown", (Other + 1).String())
}

func TestHotPathAllocatesNothing(t *testing.T) {
	var packets [][]byte
	for _, s := range samples {
		packets = append(packets, s.b)
	}
	hdr, buf := make([]byte, 100), make([]byte, 2048)
	super := tcpPacket(there4, here4, 5000)
	superInfo, _ := Parse(super, len(super))
	payload := make([]byte, 33)
	opts := raw("0402080a0000000100000002 01030307 22060102 0304")
	require.Zero(t, testing.AllocsPerRun(100, func() {
		for _, b := range packets {
			i, p := Parse(b, len(b))
			if p != None || !VerifyHeader(&i, b) || len(i.SrcBytes(b)) == 0 || !i.Dst(b).IsValid() {
				panic("bad sample")
			}
			VerifyTransport(&i, b, nil)
		}
		if PutUDP(hdr, here4, there4, 64, 0, payload, payload) == 0 ||
			PutTCP(hdr, here6, there6, 64, 0, TCPHeader{Options: opts}, payload) == 0 {
			panic("not built")
		}
		Segment(&superInfo, super[:1000], super[1000:], 1448, buf, func(p []byte) bool { return len(p) > 0 })
		ParseOptions(opts)
	}))
}
