package demux

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// BenchmarkPath is a packet's whole way: parse, verdict, look-up, push, pop. The
// frames stand ready in the batch's slots, as a device's read leaves them.
func BenchmarkPath(b *testing.B) {
	for _, ports := range []int{1, 64, 4096, 65535} {
		b.Run(fmt.Sprintf("ports=%d", ports), func(b *testing.B) { benchPath(b, ports, true) })
	}
	b.Run("closed", func(b *testing.B) { benchPath(b, 65535, false) })
}

func benchPath(b *testing.B, ports int, bind bool) {
	r := newRig(Options{})
	for p := 1; p <= ports && bind; p++ {
		if err := r.t.Bind(UDPPort(uint16(p)), Config{Owner: "bench", Socket: true}); err != nil {
			b.Fatal(err)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	const frames = 1 << 14
	dst := make([]uint16, frames)
	for i := range dst {
		dst[i] = uint16(1 + rng.IntN(ports))
	}
	tmpl := udp4(4000, 1, make([]byte, 36)...)
	tmpl[26], tmpl[27] = 0, 0 // no checksum: the device vouches for it
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += BatchSize {
		for k := range BatchSize {
			p := dst[(i+k)%frames]
			room := r.in.Room(k)
			copy(room, tmpl)
			room[22], room[23] = byte(p>>8), byte(p)
			r.in.Put(k, len(tmpl), Tail{}, Offload{Flags: 2})
		}
		r.in.Deliver(BatchSize)
		if !bind {
			line, _ := r.t.rq.take()
			run, _ := r.t.takeRun(line)
			r.t.ServeRun(run, toClosed)
			continue
		}
		for k := range BatchSize {
			if pkt, ok, _ := r.t.Pop(UDPPort(dst[(i+k)%frames])); ok {
				r.t.Free(pkt)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/packet")
}
