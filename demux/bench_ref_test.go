package demux

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"porthole/demux/packet"
)

// BenchmarkClassify is parse and verdict alone: which line, or which fate.
func BenchmarkClassify(b *testing.B) {
	for _, c := range []struct {
		name string
		b    []byte
		off  Offload
	}{
		{"udp4", udp4(4000, 53, make([]byte, 36)...), Offload{Flags: 2}},
		{"udp6", udp6(4000, 53, make([]byte, 16)...), Offload{Flags: 2}},
		{"tcp4", tcp4(4000, 80, packet.ACK, make([]byte, 24)...), Offload{Flags: 2}},
		{"tcp6", tcp6(4000, 80, packet.ACK, make([]byte, 4)...), Offload{Flags: 2}},
		{"udp4-verified", udp4(4000, 53, make([]byte, 36)...), Offload{}},
		{"tcp4-verified", tcp4(4000, 80, packet.ACK, make([]byte, 24)...), Offload{}},
		{"udp4-1472-verified", udp4(4000, 53, make([]byte, 1472)...), Offload{}},
		{"echo", ip("10.77.0.2", "10.77.0.1", 1, 8, 0, 0, 0, 0, 1, 0, 1), Offload{Flags: 2}},
		{"not-for-us", ip("10.77.0.2", "10.77.0.9", 17, make([]byte, 8)...), Offload{}},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := newRig(Options{})
			_ = r.t.Bind(UDPPort(53), Config{Socket: true})
			_ = r.t.Bind(TCPPort(80), Config{})
			for i := range BatchSize {
				put(r.in, i, c.b, c.off)
			}
			a := r.t.addrs.Load()
			b.ReportAllocs()
			b.ResetTimer()
			for n := range b.N {
				r.in.classify(r.in.slots[n%BatchSize], a, 0)
			}
			rate(b)
		})
	}
}

// BenchmarkLookup is what the table itself adds: finding the line of a random port
// and reading its state.
func BenchmarkLookup(b *testing.B) {
	for _, ports := range []int{1, 64, 4096, 65535} {
		b.Run(fmt.Sprintf("ports=%d", ports), func(b *testing.B) {
			w := newBench(b, 64, ports, "uniform")
			var n uint32
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				n += w.t.lines[UDPPort(w.dst[i%len(w.dst)])].maxN.Load()
			}
			rate(b)
			sink = n
		})
	}
}

var sink uint32

// BenchmarkReference is what to compare with, on the same machine in the same run.
func BenchmarkReference(b *testing.B) {
	for _, size := range []int{64, 1500} {
		b.Run(fmt.Sprintf("copy/%dB", size), func(b *testing.B) {
			from, to := make([]byte, size), make([]byte, 64*2112)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				copy(to[i%64*2112:], from)
			}
			rate(b)
		})
	}
	b.Run("fill", func(b *testing.B) { // what BenchmarkPath spends on making its frames
		w := newBench(b, 64, 64, "uniform")
		b.ReportAllocs()
		b.ResetTimer()
		for n := 0; n < b.N; n += BatchSize {
			w.fill(w.batch(n / BatchSize % batches))
		}
		rate(b)
	})
	for _, mib := range []int{4, 64} {
		b.Run(fmt.Sprintf("random-line/%dMiB", mib), func(b *testing.B) {
			lines := make([][8]uint64, mib<<20/64)
			order := make([]uint32, 1<<16)
			rng := rand.New(rand.NewPCG(1, 2))
			for i := range lines {
				lines[i][0] = 1
			}
			for i := range order {
				order[i] = uint32(rng.IntN(len(lines)))
			}
			var sum uint64
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				sum += lines[order[i%len(order)]][0]
			}
			rate(b)
			sink = uint32(sum)
		})
	}
	for _, ports := range []int{64, 65535} {
		b.Run(fmt.Sprintf("gopacket-map/ports=%d", ports), func(b *testing.B) {
			w := newBench(b, 64, ports, "uniform")
			queues := map[uint16]*[]byte{}
			for i := range ports {
				queues[uint16(1+i)] = new([]byte)
			}
			var ip4 layers.IPv4
			var u layers.UDP
			var data gopacket.Payload
			p := gopacket.NewDecodingLayerParser(layers.LayerTypeIPv4, &ip4, &u, &data)
			p.IgnoreUnsupported = true // ports that stand for a protocol of its
			decoded := make([]gopacket.LayerType, 0, 4)
			frame := append([]byte(nil), w.tmpl...)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				port := w.dst[i%len(w.dst)]
				frame[portAt], frame[portAt+1] = byte(port>>8), byte(port)
				if err := p.DecodeLayers(frame, &decoded); err != nil {
					b.Fatal(err)
				}
				*queues[uint16(u.DstPort)] = data
			}
			rate(b)
		})
	}
}
