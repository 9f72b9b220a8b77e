package packet

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

var (
	here4  = netip.MustParseAddrPort("10.77.0.1:5353")
	there4 = netip.MustParseAddrPort("10.77.0.2:40001")
	here6  = netip.MustParseAddrPort("[fd77::1]:5353")
	there6 = netip.MustParseAddrPort("[fd77::2]:40001")
)

func udpPacket(from, to netip.AddrPort, size int) []byte {
	b := make([]byte, 48+size)
	payload := make([]byte, size)
	n := PutUDP(b, from, to, 64, 0, payload)
	copy(b[n:], payload)
	return b[:n+size]
}

func tcpPacket(from, to netip.AddrPort, size int) []byte {
	b := make([]byte, 100+size)
	payload := make([]byte, size)
	opts := []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}
	n := PutTCP(b, from, to, 64, 0, TCPHeader{Seq: 1, Ack: 2, Flags: ACK | PSH, Window: 512, Options: opts}, payload)
	copy(b[n:], payload)
	return b[:n+size]
}

// withOptions4 puts n bytes of no-operation options into an IPv4 packet.
func withOptions4(b []byte, n int) []byte {
	out := append([]byte(nil), b[:20]...)
	for range n {
		out = append(out, 1)
	}
	out = append(out, b[20:]...)
	out[0] += byte(n / 4)
	binary.BigEndian.PutUint16(out[2:], uint16(len(out)))
	out[10], out[11] = 0, 0
	binary.BigEndian.PutUint16(out[10:], ^Sum(out[:20+n], 0))
	return out
}

// withExtensions6 puts extension headers between an IPv6 header and what follows. Each
// is given without its next-header byte, which is set here.
func withExtensions6(b []byte, kinds []byte, bodies ...[]byte) []byte {
	out := append([]byte(nil), b[:40]...)
	last := out[6]
	at := 6
	for i, body := range bodies {
		out[at] = kinds[i]
		at = len(out)
		out = append(append(out, last), body...)
	}
	out = append(out, b[40:]...)
	binary.BigEndian.PutUint16(out[4:], uint16(len(out)-40))
	return out
}

var pad6 = []byte{0, 1, 4, 0, 0, 0, 0} // length 0, PadN of 6 bytes

var sinkInfo Info

func BenchmarkParse(b *testing.B) {
	mixed := make([][]byte, 4096)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range mixed {
		from, to := there4, here4
		if r.IntN(2) == 0 {
			from, to = there6, here6
		}
		to = netip.AddrPortFrom(to.Addr(), uint16(r.IntN(65536)))
		if r.IntN(2) == 0 {
			mixed[i] = udpPacket(from, to, 20)
		} else {
			mixed[i] = tcpPacket(from, to, 12)
		}
	}
	fragment := udpPacket(there4, here4, 40)
	fragment[6], fragment[7] = 0x20, 5
	for _, c := range []struct {
		name    string
		packets [][]byte
	}{
		{"v4 udp", [][]byte{udpPacket(there4, here4, 36)}},
		{"v4 tcp", [][]byte{tcpPacket(there4, here4, 12)}},
		{"v4 udp 1500", [][]byte{udpPacket(there4, here4, 1472)}},
		{"v4 options", [][]byte{withOptions4(udpPacket(there4, here4, 28), 8)}},
		{"v4 fragment", [][]byte{fragment}},
		{"v6 udp", [][]byte{udpPacket(there6, here6, 16)}},
		{"v6 tcp", [][]byte{tcpPacket(there6, here6, 12)}},
		{"v6 two extensions", [][]byte{withExtensions6(udpPacket(there6, here6, 16), []byte{0, 60}, pad6, pad6)}},
		{"mixed", mixed},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			var i Info
			mask := len(c.packets) - 1
			n := 0
			for b.Loop() {
				p := c.packets[n&mask]
				if problem := i.Parse(p, len(p)); problem != None {
					b.Fatal(problem)
				}
				sinkInfo.DstPort += i.DstPort
				n++
			}
		})
	}
}

// BenchmarkGopacket is the reference: the fast decoder of the library in common use.
func BenchmarkGopacket(b *testing.B) {
	for _, c := range []struct {
		name  string
		first gopacket.LayerType
		p     []byte
	}{
		{"v4 udp", layers.LayerTypeIPv4, udpPacket(there4, here4, 36)},
		{"v4 tcp", layers.LayerTypeIPv4, tcpPacket(there4, here4, 12)},
		{"v6 udp", layers.LayerTypeIPv6, udpPacket(there6, here6, 16)},
	} {
		b.Run(c.name, func(b *testing.B) {
			var (
				ip4     layers.IPv4
				ip6     layers.IPv6
				tcp     layers.TCP
				udp     layers.UDP
				payload gopacket.Payload
			)
			d := gopacket.NewDecodingLayerParser(c.first, &ip4, &ip6, &tcp, &udp, &payload)
			decoded := make([]gopacket.LayerType, 0, 4)
			b.ReportAllocs()
			for b.Loop() {
				if err := d.DecodeLayers(c.p, &decoded); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

var sinkSum uint16

func BenchmarkSum(b *testing.B) {
	for _, c := range []struct {
		name string
		size int
	}{{"20", 20}, {"64", 64}, {"1500", 1500}, {"1501", 1501}, {"65000", 65000}} {
		b.Run(c.name, func(b *testing.B) {
			p := make([]byte, c.size)
			for i := range p {
				p[i] = byte(i * 7)
			}
			b.SetBytes(int64(c.size))
			for b.Loop() {
				sinkSum = Sum(p, sinkSum)
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	for _, c := range []struct {
		name string
		p    []byte
	}{
		{"v4 udp 64", udpPacket(there4, here4, 36)},
		{"v4 tcp 1500", tcpPacket(there4, here4, 1448)},
		{"v6 tcp 1500", tcpPacket(there6, here6, 1428)},
	} {
		b.Run(c.name, func(b *testing.B) {
			i, _ := Parse(c.p, len(c.p))
			b.ReportAllocs()
			for b.Loop() {
				if !VerifyHeader(&i, c.p) || !VerifyTransport(&i, c.p, nil) {
					b.Fatal("bad checksum")
				}
			}
		})
	}
}

func BenchmarkPutUDP(b *testing.B) {
	hdr, payload := make([]byte, 48), make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		if PutUDP(hdr, here4, there4, 64, 0, payload) != 28 {
			b.Fatal("not written")
		}
	}
}

func BenchmarkSegment(b *testing.B) {
	p := tcpPacket(there4, here4, 60000)
	i, _ := Parse(p, len(p))
	buf := make([]byte, 2048)
	b.ReportAllocs()
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		Segment(&i, p, nil, 1448, buf, func([]byte) bool { return true })
	}
}
