package demux

import (
	"testing"

	"porthole/demux/packet"
)

// FuzzDeliver: whatever a device reads, each frame gets one fate or one place, the
// law holds, and every slot comes back.
func FuzzDeliver(f *testing.F) {
	f.Add(literalUDP, uint8(0), uint8(0))
	f.Add(literalTCP6, uint8(0), uint8(0))
	f.Add(literalTCP6, uint8(2), uint8(40))
	f.Add(udp6(4000, 53, make([]byte, 3000)...), uint8(0), uint8(0))
	f.Add(tcp4(4000, 80, packet.SYN), uint8(1), uint8(30))
	f.Add(ip("10.77.0.2", "10.77.0.1", 1, 8, 0, 0, 0, 0, 1, 0, 1), uint8(0), uint8(0))
	f.Add(ip("fd77::2", "fd77::1", 44, append([]byte{17, 0, 0, 1, 0, 0, 0, 1}, make([]byte, 16)...)...), uint8(0), uint8(0))
	f.Add(append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0}, literalUDP...), uint8(4), uint8(0))
	f.Add(append([]byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 2, 8, 6}, make([]byte, 28)...), uint8(4), uint8(0))

	r := newRig(Options{Packets: 512})
	dns, web := UDPPort(53), TCPPort(80)
	for p, c := range map[Port]Config{dns: {Socket: true}, web: {}} {
		if err := r.t.Bind(p, c); err != nil {
			f.Fatal(err)
		}
	}
	ether := r.t.NewIngress([]byte{2, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte, mode, cut uint8) {
		if len(b) > 1<<17 {
			return
		}
		before := r.t.Totals()
		in := r.in
		if mode&4 != 0 {
			in = ether
		}
		r.t.SetInline(web, mode&8 != 0)
		put(in, 0, b, Offload{Flags: mode & 3})
		put(in, 1, b[:len(b)-min(int(cut), len(b))], Offload{Flags: mode & 3})
		look := func(p Packet) {
			buf := make([]byte, 1<<16)
			n, size := p.CopyPayload(buf)
			if n != min(size, len(buf)) {
				t.Fatalf("payload of %d bytes, %d copied", size, n)
			}
			if p.Info().Version != 0 {
				_, _ = p.From(), p.To()
			}
		}
		for _, run := range in.Deliver(2) {
			in.ServeRun(run, func(_ Port, p Packet) Fate { look(p); return ToStack })
		}
		r.law(t)
		for {
			p, ok, _ := r.t.Pop(dns)
			if !ok {
				break
			}
			look(p)
			r.t.Free(p)
		}
		for {
			run, ok := r.take()
			if !ok {
				break
			}
			r.t.ServeRun(run, func(_ Port, p Packet) Fate {
				if p.Info().Kind == packet.UDP || p.Info().Kind == packet.TCP {
					look(p)
				}
				return ToStack
			})
		}
		r.law(t)
		after := r.t.Totals()
		if after.Arrived != before.Arrived+2 || after.Queued != 0 || r.held() != 0 || r.t.pool.tailBytes.Load() != 0 {
			t.Fatalf("%d arrived, %d queued, %d slots and %d bytes lost", after.Arrived-before.Arrived,
				after.Queued, r.held(), r.t.pool.tailBytes.Load())
		}
	})
}
