package demux

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"porthole/demux/packet"
)

// BenchmarkPath is a packet's whole way: it lies in its slot as a device's read leaves
// it and is put, parsed, judged, looked up, pushed, popped and freed. All memory was
// touched before the clock starts; bytes are not copied (see BenchmarkReference).
//
//	64B, 1500B   the packet's size
//	ports=N      bound UDP ports, each popped by its owner, who never has to wait
//	uniform, zipf  how they are hit, at random; one port is hit in runs
//	answered     the owner waits: the reader serves what it may, wakes the owner for the rest
//	closed       nobody has the port; the reader serves the closed lane, as in the host
//	closed-worker  a worker does: it was left to it
//	closed-flood the closed lane is full, as it is in a flood
//	worker       TCP ports served from the run queue
//	inline       by the reader itself, and what it may not take in a batch from there
//	verified     the device vouches for no checksum
//	resizer, rebinder  another goroutine changes limits or owners all the time
//	full         every queue is full
func BenchmarkPath(b *testing.B) {
	for _, size := range []int{64, 1500} {
		for _, ports := range []int{1, 64, 4096, 65535} {
			for _, dist := range []string{"uniform", "zipf"} {
				if ports > 1 || dist == "uniform" {
					b.Run(fmt.Sprintf("%dB/ports=%d/%s", size, ports, dist), func(b *testing.B) {
						newBench(b, size, ports, dist).sockets(b)
					})
				}
			}
		}
		b.Run(fmt.Sprintf("%dB/closed", size), func(b *testing.B) {
			w := newBench(b, size, 65535, "closed")
			w.t.SetInline(LaneClosed, true)
			w.workers(b)
		})
		b.Run(fmt.Sprintf("%dB/closed-worker", size), func(b *testing.B) {
			newBench(b, size, 65535, "closed").workers(b)
		})
		b.Run(fmt.Sprintf("%dB/closed-flood", size), func(b *testing.B) {
			newBench(b, size, 65535, "closed").loop(b, func(int) {})
		})
	}
	for _, ports := range []int{1, 65535} {
		b.Run(fmt.Sprintf("64B/ports=%d/verified", ports), func(b *testing.B) {
			w := newBench(b, 64, ports, "uniform")
			w.off = Offload{}
			w.sockets(b)
		})
		b.Run(fmt.Sprintf("64B/ports=%d/full", ports), func(b *testing.B) {
			newBench(b, 64, ports, "uniform").full(b)
		})
		b.Run(fmt.Sprintf("64B/ports=%d/worker", ports), func(b *testing.B) {
			newBench(b, 64, ports, "tcp").workers(b)
		})
	}
	for _, ports := range []int{1, 64, 4096, 65535} {
		b.Run(fmt.Sprintf("64B/ports=%d/inline", ports), func(b *testing.B) {
			w := newBench(b, 64, ports, "tcp")
			for _, p := range w.ports() {
				w.t.SetInline(p, true)
			}
			w.workers(b)
		})
		b.Run(fmt.Sprintf("64B/ports=%d/answered", ports), func(b *testing.B) {
			w := newBench(b, 64, ports, "uniform")
			for _, p := range w.ports() {
				w.t.SetInline(p, true)
				w.pop(p) // in vain: it waits
			}
			w.loop(b, w.popWoken)
		})
	}
	for _, ports := range []int{64, 65535} {
		b.Run(fmt.Sprintf("64B/ports=%d/resizer", ports), func(b *testing.B) {
			w := newBench(b, 64, ports, "uniform")
			defer w.meanwhile(func(p Port, n int) { _ = w.t.SetLimits(p, Limits{Packets: 1000 + n%100}) })()
			w.sockets(b)
		})
		b.Run(fmt.Sprintf("64B/ports=%d/rebinder", ports), func(b *testing.B) {
			w := newBench(b, 64, ports, "uniform")
			defer w.meanwhile(func(p Port, _ int) {
				w.t.Release(p)
				_ = w.t.Bind(p, Config{Owner: "bench", Socket: true})
			})()
			w.sockets(b)
		})
	}
}

// TestFlat is a gate: the cost of a packet hardly depends on how many ports are bound.
// The target is 1.5 between 64 and 65,535 ports hit at random; a table that loses that
// loses it by more than the 3 allowed here for a busy machine.
func TestFlat(t *testing.T) {
	if os.Getenv("PORTHOLE_GATE") == "" {
		t.Skip("a measurement; PORTHOLE_GATE=1 runs it, and so does .ci/run")
	}
	ns := map[int]float64{}
	for _, ports := range []int{64, 65535, 64, 65535} {
		w := newBench(t, 64, ports, "uniform")
		w.write()
		if got := w.run(60*window*BatchSize, w.popAll); ns[ports] == 0 || got < ns[ports] {
			ns[ports] = got
		}
		w.law(t)
	}
	t.Logf("64 ports: %.0f ns, 65,535 ports: %.0f ns", ns[64], ns[65535])
	if ns[65535] > 3*ns[64] {
		t.Errorf("65,535 ports cost %.1f times what 64 cost", ns[65535]/ns[64])
	}
}

// BenchmarkReaders is the whole way with one and two readers on one table, each with
// its own core where there are two; ns/packet is of the whole.
func BenchmarkReaders(b *testing.B) {
	for _, ports := range []int{1, 64, 65535} {
		for _, readers := range []int{1, 2} {
			b.Run(fmt.Sprintf("ports=%d/readers=%d", ports, readers), func(b *testing.B) {
				first := newBench(b, 64, ports, "uniform")
				ws := []*benchRig{first}
				for len(ws) < readers {
					w := *first
					w.in = w.t.NewIngress(nil)
					ws = append(ws, &w)
				}
				b.ReportAllocs()
				b.ResetTimer()
				var wg sync.WaitGroup
				for i, w := range ws {
					wg.Go(func() {
						for n := 0; n < b.N/readers; n += BatchSize {
							k := (n/BatchSize + i*batches/2) % batches
							w.fill(w.batch(k))
							w.in.Deliver(BatchSize)
							w.popAll(k)
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				rate(b)
				first.law(b)
			})
		}
	}
}

// batches of frames are made beforehand, and the ports of each.
const batches = 1024

// Where the destination port and UDP's checksum stand in IPv4 without options.
const portAt, sumAt = 22, 26

// window is how many batches are timed for best-ns/op, the quickest of all windows:
// what the code costs where others use the machine too.
const window = 64

type benchRig struct {
	*rig
	tmpl  []byte
	off   Offload
	sum0  uint32 // of the UDP datagram to port 0
	tcp   bool
	dst   [batches * BatchSize]uint16
	bound int
	serve func(Port, Packet) Fate
}

// write puts the frame into every slot that there is.
func (w *benchRig) write() {
	for c := range w.t.pool.chunks {
		if slots := w.t.pool.chunks[c].Load(); slots != nil {
			for i := range slots {
				copy(slots[i].room[:], w.tmpl)
			}
		}
	}
}

func newBench(b testing.TB, size, ports int, dist string) *benchRig {
	w := &benchRig{rig: newRig(Options{}), off: Offload{Flags: 2}, bound: ports}
	w.tcp, w.serve = dist == "tcp", toService
	if w.tcp {
		w.serve = toStack
	}
	if dist == "closed" {
		w.serve = toClosed
	}
	w.tmpl = udp4(4000, 0, make([]byte, size-28)...)
	w.sum0 = uint32(^binary.BigEndian.Uint16(w.tmpl[26:]))
	if w.tcp {
		w.tmpl = tcp4(4000, 1, packet.ACK, make([]byte, size-40)...)
	}
	for _, p := range w.ports() {
		if dist == "closed" {
			break
		}
		if err := w.t.Bind(p, Config{Owner: "bench", Socket: !w.tcp}); err != nil {
			b.Fatal(err)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(rng, 1.1, 1, uint64(ports-1))
	scatter := rng.Perm(ports) // the busiest ports are not neighbours
	for i := range w.dst {
		n := 0
		switch {
		case dist == "zipf":
			n = scatter[zipf.Uint64()]
		case ports > 1:
			n = rng.IntN(ports)
		}
		w.dst[i] = uint16(1 + n)
	}
	w.warm(dist == "closed")
	return w
}

func (w *benchRig) port(n uint16) Port {
	if w.tcp {
		return TCPPort(n)
	}
	return UDPPort(n)
}

func (w *benchRig) ports() []Port {
	ps := make([]Port, w.bound)
	for i := range ps {
		ps[i] = w.port(uint16(1 + i))
	}
	return ps
}

// warm makes the pool larger than it will be needed and sends every port a packet.
func (w *benchRig) warm(closed bool) {
	refs := make([]ref, 4096)
	w.t.pool.take(refs)
	for _, r := range refs {
		w.t.pool.give(r.h, r.s, 1)
	}
	w.write()
	for n := 0; n < w.bound; n += BatchSize {
		k := min(BatchSize, w.bound-n)
		ports := make([]uint16, k)
		for i := range ports {
			ports[i] = uint16(1 + n + i)
		}
		w.fill(ports)
		for _, run := range w.in.Deliver(k) {
			w.in.ServeRun(run, toStack)
		}
		w.serveAll()
		for i := range k {
			if !closed && !w.tcp {
				w.pop(w.port(uint16(1 + n + i)))
			}
		}
	}
}

// fill puts one frame for each port; all of it but the port lies in the room already.
func (w *benchRig) fill(ports []uint16) {
	off, n := w.off, len(w.tmpl)
	for i, port := range ports {
		room := w.in.Room(i)
		binary.BigEndian.PutUint16(room[portAt:], port)
		if off.Flags == 0 {
			s := w.sum0 + uint32(port)
			binary.BigEndian.PutUint16(room[sumAt:], ^uint16(s>>16+s&0xffff))
		}
		w.in.Put(i, n, &off)
	}
}

// batch is the ports of batch k.
func (w *benchRig) batch(k int) []uint16 { return w.dst[k*BatchSize : (k+1)*BatchSize] }

// pop is what a socket's owner does with a packet.
func (w *benchRig) pop(p Port) bool {
	pkt, ok, _ := w.t.Pop(p)
	if ok {
		w.t.Free(pkt)
	}
	return ok
}

// popAll is the owners of batch k: a packet each time.
func (w *benchRig) popAll(k int) {
	for _, n := range w.batch(k) {
		w.pop(w.port(n))
	}
}

// popWoken is the owners whom batch k woke: they take what there is and wait again.
func (w *benchRig) popWoken(k int) {
	for _, n := range w.batch(k) {
		if p := w.port(n); w.t.lines[p].state&waiting == 0 {
			<-w.t.Wake(p)
			for w.pop(p) {
			}
		}
	}
}

func (w *benchRig) serveAll() {
	for w.t.rq.head != 0 {
		i, _ := w.t.rq.take()
		if run, ok := w.t.takeRun(i); ok {
			w.t.ServeRun(run, w.serve)
		}
	}
}

func (w *benchRig) loop(b *testing.B, after func(k int)) {
	w.write()
	b.ReportAllocs()
	b.ResetTimer()
	best := w.run(b.N, after)
	b.StopTimer()
	rate(b)
	if best > 0 {
		b.ReportMetric(best, "best-ns/op")
	}
	w.law(b)
}

// run sends packets and gives the ns per packet of the quickest window.
func (w *benchRig) run(packets int, after func(k int)) float64 {
	best, began := time.Duration(0), time.Now()
	for n := 0; n < packets; n += BatchSize {
		k := n / BatchSize % batches
		w.fill(w.batch(k))
		for _, run := range w.in.Deliver(BatchSize) {
			w.in.ServeRun(run, w.serve)
		}
		after(k)
		if k%window == window-1 {
			now := time.Now()
			if took := now.Sub(began); best == 0 || took < best {
				best = took
			}
			began = now
		}
	}
	return float64(best) / (window * BatchSize)
}

// sockets has every port popped by its owner, and the closed lane served: a rebinder
// leaves a port to nobody for moments.
func (w *benchRig) sockets(b *testing.B) {
	w.loop(b, func(k int) {
		w.popAll(k)
		w.serveAll()
	})
}

func (w *benchRig) workers(b *testing.B) { w.loop(b, func(int) { w.serveAll() }) }

func (w *benchRig) full(b *testing.B) {
	for _, p := range w.ports() {
		_ = w.t.SetLimits(p, Limits{Packets: 1, Bytes: 1})
	}
	w.loop(b, func(int) {})
}

// meanwhile runs change on random ports until the function it returns is called.
func (w *benchRig) meanwhile(change func(p Port, n int)) (stop func()) {
	var done atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		rng := rand.New(rand.NewPCG(9, 9))
		for n := 0; !done.Load(); n++ {
			change(w.port(uint16(1+rng.IntN(w.bound))), n)
		}
	})
	return func() { done.Store(true); wg.Wait() }
}

// rate is for benchmarks whose operation is a packet.
func rate(b *testing.B) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/packet")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "Mpps")
}

// BenchmarkPolicy is a socket port's queue under each discipline, a batch at a time:
// what it costs to be judged, where nothing is dropped (short) and where the queue
// stands and some of it goes (standing).
func BenchmarkPolicy(b *testing.B) {
	for _, d := range Disciplines() {
		for _, c := range []struct {
			name string
			step int64 // from batch to batch, ns
			take int   // of each batch of BatchSize
		}{{"short", 1000, BatchSize}, {"standing", 10 * ms, BatchSize - 1}} {
			b.Run(fmt.Sprintf("%v/%s", d, c.name), func(b *testing.B) {
				r := newPolicyRig(b, Policy{Discipline: d}, Limits{Packets: 256})
				f := udp4(4000, 53, make([]byte, 36)...)
				b.ReportAllocs()
				b.ResetTimer()
				for n := 0; n < b.N; n += BatchSize {
					for i := range BatchSize {
						put(r.in, i, f, Offload{Flags: 2})
					}
					r.in.Deliver(BatchSize)
					r.ns += c.step
					for range c.take {
						if p, ok, _ := r.t.Pop(dnsPort); ok {
							r.t.Free(p)
						}
					}
				}
				b.StopTimer()
				rate(b)
				r.law(b)
			})
		}
	}
}
