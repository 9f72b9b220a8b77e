package demux

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

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
			in.ServeRun(run, s.lend)
		}
		n -= batch
	}
}

// lend is serve for the readers, who leave some of what is nobody's to a worker.
func (s *storm) lend(port Port, p Packet) Fate {
	if port == LaneClosed && number(p)%8 == 0 {
		return NoFate
	}
	return s.serve(port, p)
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
	defer s.serving[port.Number()].Add(-1)
	if port.IsUDP() && number(p)%8 == 0 { // for the owner
		return NoFate
	}
	if port.IsUDP() && !s.lent(port) {
		// The last owner's: the next one may have taken later ones of this batch already.
		return port.usual()
	}
	s.saw(p)
	return port.usual()
}

// lent reports whether the reader serves for the owner who has the port now.
func (s *storm) lent(port Port) bool {
	l := &s.t.lines[port]
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state&lent != 0
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
	s.t.SetInline(LaneClosed, true)
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
			s.t.SetInline(s.port(1+rng.IntN(9)), rng.IntN(2) == 0)
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

// The tap sees each datagram that a socket's queue took or refused, with what the
// queue held then, and no packet that workers serve but the refused ones.
func TestTap(t *testing.T) {
	r := newRig(Options{})
	dns, web := UDPPort(53), TCPPort(80)
	require.NoError(t, r.t.Bind(dns, Config{Socket: true, Limits: Limits{Packets: 3}}))
	require.NoError(t, r.t.Bind(web, Config{Limits: Limits{Packets: 1}}))
	var got []string
	r.t.SetTap(func(p Port, pkt Packet, f Fate, depth, limit, bytes, maxBytes uint32) {
		got = append(got, fmt.Sprintf("%v %d %v %d/%d %d", p, number(pkt), f, depth, limit, bytes))
	})
	var frames [][]byte
	for n := range uint32(5) {
		frames = append(frames, udp4(4000, 53, numbered(n, 4)...))
	}
	r.send(append(frames, tcp4(4000, 80, packet.ACK, numbered(5, 4)...), tcp4(4000, 80, packet.ACK, numbered(6, 4)...))...)
	require.Equal(t, []string{
		"53/udp 0 none 1/3 580", "53/udp 1 none 2/3 1160", "53/udp 2 none 3/3 1740",
		"53/udp 3 queue-full 3/3 1740", "53/udp 4 queue-full 3/3 1740",
		"80/tcp 6 queue-full 1/1 620",
	}, got)
}

// A port is one cache line, and what is known of a packet another, right before its
// headers; neither holds a pointer.
func TestLayout(t *testing.T) {
	require.EqualValues(t, 64, unsafe.Sizeof(line{}))
	require.EqualValues(t, 64, unsafe.Offsetof(slot{}.room))
	require.EqualValues(t, 33*64, unsafe.Sizeof(slot{}))
	tab := New(Options{})
	require.Zero(t, uintptr(unsafe.Pointer(&tab.lines[0]))%64)
	var refs [1]ref
	tab.pool.take(refs[:])
	require.Zero(t, uintptr(unsafe.Pointer(refs[0].s))%64)
}

// What a full queue refuses is counted in its line and settled before it overflows.
func TestManyRefused(t *testing.T) {
	const n = 70000
	r := newRig(Options{})
	require.NoError(t, r.t.Bind(UDPPort(53), Config{Socket: true, Limits: Limits{Packets: 1}}))
	f := udp4(4000, 53)
	for range n/BatchSize + 1 {
		for i := range BatchSize {
			put(r.in, i, f, Offload{})
		}
		r.in.Deliver(BatchSize)
	}
	s := r.t.Port(UDPPort(53))
	require.NoError(t, s.Check())
	require.EqualValues(t, s.Arrived-1, s.Fates[QueueFull])
	require.NoError(t, r.t.Totals().Check())
}
