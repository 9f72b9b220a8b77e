package demux

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"porthole/demux/packet"
)

// storm is everything at once on a few ports: two readers, two workers, an owner
// for each socket port, resizing, rebinding, injecting, and a ledger that is read
// all the time.
type storm struct {
	*testing.T
	*rig
	last    [40]atomic.Uint32 // per port and flow: the newest number seen
	serving [10]atomic.Int32  // per port: servers at work now
}

// Ports 1 to 3 are served by workers, 4 to 6 by sockets, 7 to 9 change sides.
func (s *storm) port(i int) Port {
	if i <= 3 {
		return TCPPort(uint16(i))
	}
	return UDPPort(uint16(i))
}

func (s *storm) config(i int, rng *rand.Rand) Config {
	return Config{Owner: "storm", Limits: Limits{Packets: 1 + rng.IntN(100)}, Socket: i > 3 && (i < 7 || rng.IntN(2) == 0)}
}

// read sends n packets in batches, each flow numbered upwards.
func (s *storm) read(id, n int) {
	rng := rand.New(rand.NewPCG(uint64(id), 1))
	in := s.t.NewIngress(nil)
	defer in.Close()
	var seq [11]uint32
	for n > 0 {
		batch := min(1+rng.IntN(BatchSize), n)
		for i := range batch {
			p := 1 + rng.IntN(10) // 10 is nobody's
			seq[p]++
			size := 4
			if rng.IntN(50) == 0 {
				size = 3000
			}
			f := tcp4(uint16(4000+id), uint16(p), packet.ACK, numbered(seq[p], size)...)
			if p > 3 {
				f = udp4(uint16(4000+id), uint16(p), numbered(seq[p], size)...)
			}
			if rng.IntN(20) == 0 {
				f = f[:30] // malformed
			}
			put(in, i, f, Offload{})
		}
		for _, run := range in.Deliver(batch) {
			s.t.ServeRun(run, s.serve)
		}
		n -= batch
	}
}

// saw checks that a flow's packets come in order.
func (s *storm) saw(p Packet) {
	i := int(p.Info().DstPort)*4 + int(p.Info().SrcPort)%4
	if n := number(p); i < 28 && s.last[i].Swap(n) >= n {
		s.Errorf("port %d, flow %d: %d came late", p.Info().DstPort, p.Info().SrcPort, n)
	}
}

func (s *storm) serve(port Port, p Packet) Fate {
	if port == LaneClosed {
		return Closed
	}
	if s.serving[port.Number()].Add(1) != 1 {
		s.Errorf("%v has two servers", port)
	}
	s.saw(p)
	s.serving[port.Number()].Add(-1)
	return ToStack
}

// own pops a socket port until done.
func (s *storm) own(port Port, done <-chan struct{}) {
	for {
		p, ok, _ := s.t.Pop(port) // between two owners it is nobody's
		if ok {
			s.saw(p)
			s.t.Free(p)
			continue
		}
		select {
		case <-s.t.Wake(port):
		case <-done:
			return
		}
	}
}

// The law holds at every snapshot, whatever happens meanwhile; no slot is lost, no
// port has two servers, and no flow changes its order.
func TestStorm(t *testing.T) {
	const packets, changes = 30000, 1500
	s := &storm{T: t, rig: newRig(Options{Packets: 2048})}
	rng := rand.New(rand.NewPCG(3, 4))
	for i := 1; i <= 9; i++ {
		require.NoError(t, s.t.Bind(s.port(i), s.config(i, rng)))
	}
	var load, rest sync.WaitGroup
	done := make(chan struct{})
	for id := range 2 {
		load.Go(func() { s.read(id, packets) })
	}
	load.Go(func() {
		for n := range uint32(packets / 20) {
			s.t.Inject(Reassembled, Offload{}, udp4(4002, uint16(4+n%6), numbered(n/6+1, 2500)...))
		}
	})
	load.Go(func() { // sizes
		rng := rand.New(rand.NewPCG(5, 6))
		for range changes {
			_ = s.t.SetLimits(s.port(1+rng.IntN(9)), Limits{Packets: 1 + rng.IntN(50), Bytes: 2000 + rng.IntN(100000)})
			s.t.SetInline(s.port(1+rng.IntN(3)), rng.IntN(2) == 0)
		}
	})
	load.Go(func() { // owners
		rng := rand.New(rand.NewPCG(7, 8))
		for range changes {
			i := 1 + rng.IntN(9)
			s.t.Release(s.port(i))
			if err := s.t.Bind(s.port(i), s.config(i, rng)); err != nil {
				t.Error(err)
			}
		}
	})
	for range 2 {
		rest.Go(func() { s.t.Work(s.serve) })
	}
	for i := 4; i <= 9; i++ {
		rest.Go(func() { s.own(s.port(i), done) })
	}
	rest.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			s.law(t)
			s.t.Signal(s.port(5))
		}
	})
	load.Wait()
	close(done)
	s.t.StopWork()
	rest.Wait()
	s.law(t)
	s.t.Drain()
	s.law(t)
	require.Zero(t, s.t.Totals().Queued)
	require.EqualValues(t, 2*packets+packets/20, s.t.Totals().Arrived)
	require.Zero(t, s.held())
}

// A batch wakes one reader of several; the others are passed the token on, and
// nobody sleeps while packets wait.
func TestNoWakeIsLost(t *testing.T) {
	const readers, rounds = 3, 3000
	port := UDPPort(53)
	r := newRig(Options{})
	require.NoError(t, r.t.Bind(port, Config{Socket: true}))
	ctx, cancel := context.WithCancel(context.Background())
	var busy atomic.Int32 // readers between their call and its return
	got := make(chan struct{}, BatchSize)
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			for {
				busy.Add(1)
				for {
					p, ok, _ := r.t.Pop(port)
					if ok {
						if busy.Load() > 1 {
							r.t.Signal(port)
						}
						r.t.Free(p)
						break
					}
					select {
					case <-r.t.Wake(port):
					case <-ctx.Done():
						return
					}
				}
				busy.Add(-1)
				got <- struct{}{}
			}
		})
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for range rounds {
		n := 1 + rng.IntN(4)
		for range n {
			r.send(udp4(4000, 53))
		}
		for range n { // hangs here when one is lost
			<-got
		}
	}
	cancel()
	wg.Wait()
	r.law(t)
}

// TestModel compares a table with a model of slices, command by command.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRig(Options{Packets: 512})
		type q struct {
			bound, socket bool
			maxN, maxB    int
			ids, held     []uint32
			lost          map[Fate]int
			passed        int
		}
		m := map[Port]*q{}
		ports := []Port{TCPPort(1), TCPPort(2), UDPPort(1), UDPPort(2)}
		for _, p := range ports {
			m[p] = &q{lost: map[Fate]int{}}
		}
		var id uint32
		var run Run
		pick := func(t *rapid.T) (Port, *q) {
			p := rapid.SampledFrom(ports).Draw(t, "port")
			return p, m[p]
		}
		const charge = Overhead + 4
		cost := func(p Port) int { // a UDP packet is charged its payload, a TCP packet its length
			if p.IsTCP() {
				return charge + 40
			}
			return charge
		}
		t.Repeat(map[string]func(*rapid.T){
			"bind": func(t *rapid.T) {
				p, q := pick(t)
				socket, n := p.IsUDP() && rapid.Bool().Draw(t, "socket"), rapid.IntRange(1, 70).Draw(t, "packets")
				b := rapid.IntRange(500, 30*charge).Draw(t, "bytes")
				err := r.t.Bind(p, Config{Socket: socket, Limits: Limits{n, b}})
				if (err == nil) == q.bound {
					t.Fatalf("bind %v: %v, bound before: %v", p, err, q.bound)
				}
				if err == nil {
					q.bound, q.socket, q.maxN, q.maxB = true, socket, n, b
				}
			},
			"resize": func(t *rapid.T) {
				p, q := pick(t)
				n, b := rapid.IntRange(1, 70).Draw(t, "packets"), rapid.IntRange(500, 30*charge).Draw(t, "bytes")
				if err := r.t.SetLimits(p, Limits{n, b}); (err == nil) != q.bound {
					t.Fatal(err)
				} else if err == nil {
					q.maxN, q.maxB = n, b
				}
			},
			"release": func(t *rapid.T) {
				p, q := pick(t)
				r.t.Release(p)
				q.bound = false
				q.lost[PortReleased] += len(q.ids)
				q.ids = nil
			},
			"push": func(t *rapid.T) {
				p, q := pick(t)
				for range rapid.IntRange(1, 5).Draw(t, "n") {
					id++
					if p.IsTCP() {
						r.send(tcp4(4000, p.Number(), packet.ACK, numbered(id, 4)...))
					} else {
						r.send(udp4(4000, p.Number(), numbered(id, 4)...))
					}
					switch {
					case !q.bound:
					case len(q.ids) >= q.maxN || (len(q.ids)+1)*cost(p) > q.maxB:
						q.lost[QueueFull]++
					default:
						q.ids = append(q.ids, id)
					}
				}
			},
			"pop": func(t *rapid.T) {
				p, q := pick(t)
				pkt, ok, err := r.t.Pop(p)
				switch {
				case !q.bound || !q.socket:
					if err == nil {
						t.Fatal("popped what is not its own")
					}
				case ok != (len(q.ids) > 0):
					t.Fatalf("pop %v: %v with %d queued", p, ok, len(q.ids))
				case ok:
					if n := number(pkt); n != q.ids[0] {
						t.Fatalf("pop %v: %d, want %d", p, n, q.ids[0])
					}
					q.ids, q.passed = q.ids[1:], q.passed+1
					r.t.Free(pkt)
				}
			},
			"take": func(t *rapid.T) {
				if run.n > 0 {
					return
				}
				got, ok := r.take()
				if !ok || got.Port == LaneClosed {
					if ok {
						r.t.ServeRun(got, toClosed)
					}
					return
				}
				q := m[got.Port]
				if !q.bound || q.socket || got.n > len(q.ids) || got.n == 0 {
					t.Fatalf("took %d of %v, which has %d", got.n, got.Port, len(q.ids))
				}
				run = got
				q.held, q.ids = q.ids[:got.n:got.n], q.ids[got.n:]
			},
			"finish": func(t *rapid.T) {
				if run.n == 0 {
					return
				}
				q, i := m[run.Port], 0
				r.t.ServeRun(run, func(_ Port, p Packet) Fate {
					if n := number(p); n != q.held[i] {
						t.Fatalf("served %d, want %d", n, q.held[i])
					}
					i++
					return AcceptQueueFull
				})
				q.lost[AcceptQueueFull] += len(q.held)
				q.held, run = nil, Run{}
			},
			"": func(t *rapid.T) {
				for _, p := range ports {
					q, s := m[p], r.t.Port(p)
					if err := s.Check(); err != nil {
						t.Fatal(err)
					}
					if s.Queued != len(q.ids)+len(q.held) || s.Bytes != len(q.ids)*cost(p) {
						t.Fatalf("%v: %d packets, %d bytes, want %d", p, s.Queued, s.Bytes, len(q.ids)+len(q.held))
					}
					for f, n := range q.lost {
						if s.Fates[f] != uint64(n) {
							t.Fatalf("%v: %d %v, want %d", p, s.Fates[f], f, n)
						}
					}
					if s.Fates[ToService] != uint64(q.passed) {
						t.Fatalf("%v: %d to-service, want %d", p, s.Fates[ToService], q.passed)
					}
				}
				if err := r.t.Totals().Check(); err != nil {
					t.Fatal(err)
				}
			},
		})
		if run.n > 0 {
			r.t.ServeRun(run, toStack)
		}
		r.t.Drain()
		if n := r.held(); n != 0 {
			t.Fatalf("%d slots lost", n)
		}
	})
}
