package packet

import (
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/require"
)

// FuzzParse requires that whatever Parse accepts lies in bounds, that no accessor
// fails on it, and that gopacket, where it accepts the same bytes, agrees.
func FuzzParse(f *testing.F) {
	for _, s := range samples {
		f.Add(s.b, uint16(len(s.b)))
		f.Add(s.b, s.want.Payload)
	}
	f.Fuzz(func(t *testing.T, b []byte, cut uint16) {
		n := min(int(cut), len(b))
		head, tail := b[:n:n], b[n:]
		agreePlain(t, b, n)
		i, p := Parse(head, len(b))
		if p != None {
			if i.Kind != Other && i.Kind != Fragment || i.SrcPort|i.DstPort != 0 {
				t.Fatalf("%v, yet %+v", p, i)
			}
			return
		}
		l4, payload, length := int(i.L4), int(i.Payload), int(i.Length)
		if l4 > payload || payload > len(head) || payload+i.PayloadLen() > length || length > len(b) {
			t.Fatalf("out of bounds: %+v in %d of %d", i, n, len(b))
		}
		if i.Version == 4 && l4 < 20 || i.Version == 6 && l4 < 40 {
			t.Fatalf("inside the IP header: %+v", i)
		}
		if !i.Src(head).IsValid() || !i.Dst(head).IsValid() || len(i.SrcBytes(head)) != len(i.DstBytes(head)) {
			t.Fatalf("no addresses: %+v", i)
		}
		VerifyHeader(&i, head)
		whole, p := Parse(b, len(b))
		if p != None || whole != i {
			t.Fatalf("in one piece %+v, in two %+v", whole, i)
		}
		if VerifyTransport(&i, head, tail) != VerifyTransport(&i, b, nil) {
			t.Fatal("checksum depends on how the packet lies in memory")
		}
		if i.Kind == TCP {
			_, _, _, opts := i.TCP(head)
			if 20+len(opts) != payload-l4 {
				t.Fatalf("%d bytes of options in %+v", len(opts), i)
			}
			ParseOptions(opts)
		}
		compareGopacket(t, b, i)
		Finish(head, tail, &i)
		if !VerifyTransport(&i, head, tail) {
			t.Fatal("finished, and wrong")
		}
	})
}

// compareGopacket requires that gopacket sees the same protocol, ports, flags, data
// and checksum. It knows no IPv6 header 253, and follows a routing header that has not
// arrived; there it has no say.
func compareGopacket(t *testing.T, b []byte, i Info) {
	first := layers.LayerTypeIPv4
	if i.Version == 6 {
		first = layers.LayerTypeIPv6
	}
	p := gopacket.NewPacket(b, first, gopacket.DecodeOptions{Lazy: true})
	switch i.Kind {
	case UDP:
		l, ok := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
		if !ok {
			return
		}
		require.Equal(t, i.SrcPort, uint16(l.SrcPort))
		require.Equal(t, i.DstPort, uint16(l.DstPort))
		require.Equal(t, string(b[i.Payload:int(i.Payload)+i.PayloadLen()]), string(l.Payload))
		if l.Checksum == 0 || p.NetworkLayer() == nil {
			return
		}
		require.NoError(t, l.SetNetworkLayerForChecksum(p.NetworkLayer()))
		err, res := l.VerifyChecksum()
		require.NoError(t, err)
		require.Equal(t, res.Valid, VerifyTransport(&i, b, nil))
	case TCP:
		l, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !ok || p.ErrorLayer() != nil {
			return
		}
		require.Equal(t, i.SrcPort, uint16(l.SrcPort))
		require.Equal(t, i.DstPort, uint16(l.DstPort))
		seq, ack, window, _ := i.TCP(b)
		require.Equal(t, l.Seq, seq)
		require.Equal(t, l.Ack, ack)
		require.Equal(t, l.Window, window)
		for flag, want := range map[uint8]bool{FIN: l.FIN, SYN: l.SYN, RST: l.RST, PSH: l.PSH, ACK: l.ACK, URG: l.URG, ECE: l.ECE, CWR: l.CWR} {
			require.Equal(t, want, i.TCPFlags&flag != 0)
		}
		require.Equal(t, string(b[i.Payload:int(i.Payload)+i.PayloadLen()]), string(l.Payload))
		require.NoError(t, l.SetNetworkLayerForChecksum(p.NetworkLayer()))
		err, res := l.VerifyChecksum()
		require.NoError(t, err)
		require.Equal(t, res.Valid, VerifyTransport(&i, b, nil))
	}
}

// FuzzSegment cuts whatever TCP packet comes, and requires whole and right segments.
func FuzzSegment(f *testing.F) {
	f.Add(super(false, TCPHeader{Seq: 1, Flags: ACK | PSH}, counted(300), 1), uint16(100), uint16(128))
	f.Add(super(true, TCPHeader{Seq: 1<<32 - 1, Flags: 0xff, Urgent: 130}, counted(301), 0), uint16(301), uint16(1))
	f.Add(withOptions4(super(false, TCPHeader{}, counted(50), 1), 40), uint16(200), uint16(49))
	f.Add(withExtensions6(super(true, TCPHeader{}, counted(99), 0), []byte{0, 60}, pad6, pad6), uint16(80), uint16(33))
	f.Fuzz(func(t *testing.T, b []byte, cut, segSize uint16) {
		checkSegment(t, b, int(cut), int(segSize))
	})
}

// FuzzOptions requires that the walk over options ends, and within them.
func FuzzOptions(f *testing.F) {
	for _, s := range []string{"", "00", "01010402", "020405b4 0402 080a 00000001 00000000 01 030307", "0200", "02", "22060102 0304", "0512 00000001 00000002 00000003 00000004"} {
		f.Add(raw(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		o := Options(b)
		turns, used := 0, 0
		for {
			kind, value, ok := o.Next()
			if !ok {
				break
			}
			if kind < 2 {
				t.Fatalf("padding given as option %d", kind)
			}
			used += 2 + len(value)
			if turns++; turns > len(b) || used > len(b) {
				t.Fatal("more options than bytes")
			}
		}
		if got, ok := ParseOptions(b); ok == o.Bad() || got.WindowScale > 14 || len(got.FastOpen) > 16 {
			t.Fatalf("%+v, %v", got, ok)
		}
	})
}
