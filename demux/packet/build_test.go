package packet

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestPutUDP(t *testing.T) {
	hdr := make([]byte, 64)
	ask4, host4 := netip.MustParseAddrPort("10.77.0.2:40001"), netip.MustParseAddrPort("10.77.0.1:53")
	ask6, host6 := netip.MustParseAddrPort("[fd77::2]:40001"), netip.MustParseAddrPort("[fd77::1]:53")
	mapped := func(a netip.AddrPort) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
	}

	n := PutUDP(hdr, ask4, host4, 64, 0, []byte("ping"))
	require.Equal(t, raw(
		"45000020 00004000 40112631 0a4d0002 0a4d0001", // IPv4, 32 bytes, id 0, DF, ttl 64, UDP
		"9c410035 000c6ff2",                            // UDP 40001 > 53, 12 bytes
	), hdr[:n])
	require.Equal(t, n, PutUDP(hdr[:28], mapped(ask4), mapped(host4), 64, 0, []byte("p"), []byte("in"), nil, []byte("g")))
	require.Equal(t, raw("9c410035 000c6ff2"), hdr[20:28], "mapped addresses, odd pieces")

	n = PutUDP(hdr, ask4, host4, 255, 0x1234)
	require.Equal(t, raw(
		"4500001c 12340000 ff119500 0a4d0002 0a4d0001", // IPv4, 28 bytes, id 0x1234, may be fragmented, ttl 255
		"9c410035 00084ecb",                            // UDP 40001 > 53, 8 bytes
	), hdr[:n])

	n = PutUDP(hdr, ask6, host6, 64, 9, []byte("ping"))
	require.Equal(t, edit("v6 udp", 0)[:48], hdr[:n])
	n = PutUDP(hdr, netip.MustParseAddrPort("[fd77::2%ph0]:40001"), host6, 64, 0, []byte("ping"))
	require.Equal(t, edit("v6 udp", 0)[:48], hdr[:n], "a zone is not sent")

	for name, n := range map[string]int{
		"two families":      PutUDP(hdr, ask4, host6, 64, 0),
		"two families, too": PutUDP(hdr, ask6, host4, 64, 0),
		"no address":        PutUDP(hdr, netip.AddrPort{}, host4, 64, 0),
		"no address to":     PutUDP(hdr, ask4, netip.AddrPort{}, 64, 0),
		"no room":           PutUDP(hdr[:27], ask4, host4, 64, 0),
		"no room, IPv6":     PutUDP(hdr[:47], ask6, host6, 64, 0),
		"too long":          PutUDP(hdr, ask4, host4, 64, 0, make([]byte, 65508)),
		"too long, IPv6":    PutUDP(hdr, ask6, host6, 64, 0, make([]byte, 65528)),
		"negative size":     PutIP(hdr, ask4.Addr(), host4.Addr(), 17, 64, 0, -1),
	} {
		require.Zero(t, n, name)
	}
	require.Equal(t, 28, PutUDP(hdr, ask4, host4, 64, 0, make([]byte, 65507)))
	require.Equal(t, 48, PutUDP(hdr, ask6, host6, 64, 0, make([]byte, 65527)))
}

func TestPutTCP(t *testing.T) {
	hdr := make([]byte, 100)
	ask4, host4 := netip.MustParseAddrPort("10.77.0.2:40001"), netip.MustParseAddrPort("10.77.0.1:80")
	ask6, host6 := netip.MustParseAddrPort("[fd77::2]:40001"), netip.MustParseAddrPort("[fd77::1]:80")
	opts := raw("020405b4 0402 080a 00000001 00000000 01 030307")
	h := TCPHeader{Seq: 0x01020304, Flags: SYN | ECE | CWR, Window: 64240, Options: opts}
	n := PutTCP(hdr, ask6, host6, 64, 0, h)
	require.Equal(t, edit("v6 tcp syn", 0), hdr[:n])

	h = TCPHeader{Seq: 0x01020304, Ack: 9, Flags: PSH | ACK, Window: 64240}
	n = PutTCP(hdr, ask4, host4, 64, 0, h, []byte("pin"), []byte("g"))
	require.Equal(t, edit("v4 tcp data", 0)[20:40], hdr[20:n])

	for i := range hdr {
		hdr[i] = 0xaa
	}
	h.Options = raw("030307") // padded to a word
	n = PutTCP(hdr, ask4, host4, 64, 0, h)
	require.Equal(t, 44, n)
	require.Equal(t, raw("03030700"), hdr[40:44])
	require.Equal(t, byte(0xaa), hdr[44])

	h.Options = make([]byte, 41)
	require.Zero(t, PutTCP(hdr, ask4, host4, 64, 0, h))
	h.Options = make([]byte, 40)
	require.Equal(t, 80, PutTCP(hdr, ask4, host4, 64, 0, h))
	require.Zero(t, PutTCP(hdr[:79], ask4, host4, 64, 0, h))
	require.Zero(t, PutTCP(hdr, ask4, host6, 64, 0, h))
	require.Zero(t, PutTCP(hdr, ask4, host4, 64, 0, h, make([]byte, 65456)))
	require.Equal(t, 80, PutTCP(hdr, ask4, host4, 64, 0, h, make([]byte, 65455)))
}

func drawAddrs(t *rapid.T) (from, to netip.AddrPort) {
	b := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "addresses")
	sp, dp := rapid.Uint16().Draw(t, "from port"), rapid.Uint16().Draw(t, "to port")
	if rapid.Bool().Draw(t, "IPv4") {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b)), sp), netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:])), dp)
	}
	b[0], b[16] = 0xfd, 0xfd // no mapped IPv4 address
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)), sp), netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[16:])), dp)
}

// What is built is what is parsed, and gopacket reads the same.
func TestBuildThenParse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to := drawAddrs(t)
		hop, id := rapid.Byte().Draw(t, "hop"), rapid.Uint16().Draw(t, "id")
		payload := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 40), 0, 4).Draw(t, "payload")
		var flat []byte
		for _, p := range payload {
			flat = append(flat, p...)
		}
		hdr := make([]byte, 100)
		var n int
		h := TCPHeader{
			Seq: rapid.Uint32().Draw(t, "seq"), Ack: rapid.Uint32().Draw(t, "ack"),
			Flags: rapid.Byte().Draw(t, "flags"), Window: rapid.Uint16().Draw(t, "window"),
			Options: rapid.SampledFrom([][]byte{{}, raw("020405b4"), raw("0402030307"), raw("0101080a0000000100000002"),
				raw("0101 0522" + strings.Repeat("0102030405060708", 4))}).Draw(t, "options"),
		}
		kind := UDP
		if rapid.Bool().Draw(t, "TCP") {
			kind = TCP
			n = PutTCP(hdr, from, to, hop, id, h, payload...)
		} else {
			n = PutUDP(hdr, from, to, hop, id, payload...)
		}
		b := append(hdr[:n:n], flat...)
		i, p := Parse(b, len(b))
		require.Equal(t, None, p)
		require.Equal(t, kind, i.Kind)
		require.True(t, VerifyHeader(&i, b))
		require.True(t, VerifyTransport(&i, b, nil))
		require.Equal(t, from, netip.AddrPortFrom(i.Src(b), i.SrcPort))
		require.Equal(t, to, netip.AddrPortFrom(i.Dst(b), i.DstPort))
		require.Equal(t, n, int(i.Payload))
		require.Equal(t, len(flat), i.PayloadLen())
		if kind == TCP {
			seq, ack, window, opts := i.TCP(b)
			require.Equal(t, h.Seq, seq)
			require.Equal(t, h.Ack, ack)
			require.Equal(t, h.Window, window)
			require.Equal(t, h.Flags, i.TCPFlags)
			require.Equal(t, h.Options, opts[:len(h.Options)])
		}
		if i.Version == 4 {
			require.Equal(t, id == 0, b[6] == 0x40)
			require.Equal(t, id, binary.BigEndian.Uint16(b[4:]))
		}
		requireGopacket(t, b)
	})
}

// requireGopacket lets gopacket read b and verify all of its checksums.
func requireGopacket(t require.TestingT, b []byte) gopacket.Packet {
	first := layers.LayerTypeIPv4
	if b[0]>>4 == 6 {
		first = layers.LayerTypeIPv6
	}
	p := gopacket.NewPacket(b, first, gopacket.Default)
	require.NotNil(t, p.NetworkLayer())
	require.NotNil(t, p.TransportLayer())
	if first == layers.LayerTypeIPv4 {
		err, res := p.NetworkLayer().(*layers.IPv4).VerifyChecksum()
		require.NoError(t, err)
		require.True(t, res.Valid)
	}
	switch l := p.TransportLayer().(type) {
	case *layers.UDP:
		require.NoError(t, l.SetNetworkLayerForChecksum(p.NetworkLayer()))
		err, res := l.VerifyChecksum()
		require.NoError(t, err)
		require.True(t, res.Valid)
		require.NotZero(t, l.Checksum)
	case *layers.TCP:
		require.NoError(t, l.SetNetworkLayerForChecksum(p.NetworkLayer()))
		err, res := l.VerifyChecksum()
		require.NoError(t, err)
		require.True(t, res.Valid)
	}
	return p
}
