package demux

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/demux/packet"
)

// served lets one worker serve all there is and names its turns: port:packets.
func served(r *rig) string {
	var turns []string
	for {
		run, ok := r.take()
		if !ok {
			return strings.Join(turns, " ")
		}
		turns = append(turns, fmt.Sprintf("%d:%d", run.Port.Number(), run.n))
		r.t.ServeRun(run, toStack)
	}
}

// Deficit round robin: a turn is 64 KiB, a small packet is charged 4 KiB of it, so
// neither bulk nor small packets of one port hold the others up.
func TestTurns(t *testing.T) {
	small := tcp4(4000, 80, packet.ACK)
	for _, c := range []struct {
		name   string
		frames map[uint16][]int // per port: payload sizes
		want   string
	}{
		{"bulk beside small", map[uint16][]int{1: rep(60000, 4), 2: rep(10, 20)}, "1:1 2:16 1:1 2:4 1:1 1:1"},
		{"small beside bulk", map[uint16][]int{1: rep(10, 40), 2: rep(30000, 5)}, "1:16 2:2 1:16 2:2 1:8 2:1"},
		{"what a turn leaves over is kept", map[uint16][]int{1: rep(40000, 5)}, "1:1 1:2 1:1 1:1"},
		{"an empty queue keeps nothing", map[uint16][]int{1: {60000}}, "1:1"},
		{"equal", map[uint16][]int{1: rep(10, 32), 2: rep(10, 32), 3: rep(10, 32)}, "1:16 2:16 3:16 1:16 2:16 3:16"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(Options{})
			for p := uint16(1); p <= 3; p++ {
				require.NoError(t, r.t.Bind(TCPPort(p), Config{}))
				for _, n := range c.frames[p] {
					r.send(super(p, n))
				}
			}
			require.Equal(t, c.want, served(r))
			r.law(t)
		})
	}
	require.Less(t, len(small)+Overhead, minCost)
}

func rep(v, n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = v
	}
	return s
}

// A port that never had more than one packet has saved nothing up.
func TestIdlePortSavesNothing(t *testing.T) {
	r := newRig(Options{})
	require.NoError(t, r.t.Bind(TCPPort(1), Config{}))
	for range 10 {
		r.send(tcp4(4000, 1, packet.ACK))
		require.Equal(t, "1:1", served(r))
	}
	for range 20 {
		r.send(tcp4(4000, 1, packet.ACK))
	}
	require.Equal(t, "1:16 1:4", served(r))
}

// A packet that costs more than a quantum is served, one a turn.
func TestHugePacketIsServed(t *testing.T) {
	r := newRig(Options{})
	require.NoError(t, r.t.Bind(UDPPort(9), Config{Limits: Limits{Bytes: 1 << 20}}))
	for range 3 {
		r.t.Inject(Reassembled, Offload{}, udp4(4000, 9, make([]byte, 65507)...))
	}
	require.Equal(t, "9:1 9:1 9:1", served(r))
}

// Workers that wait are woken for every port, and all return when told to.
func TestWorkers(t *testing.T) {
	const workers, ports, packets = 3, 50, 4000
	r := newRig(Options{})
	for p := range uint16(ports) {
		require.NoError(t, r.t.Bind(TCPPort(1+p), Config{}))
	}
	seen := make(chan uint32, packets)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			r.t.Work(func(_ Port, p Packet) Fate {
				seen <- number(p)
				return ToStack
			})
		})
	}
	got := map[uint32]bool{}
	for i := range uint32(packets) {
		r.send(tcp4(4000, uint16(1+i*7%ports), packet.ACK, numbered(i, 4)...))
		if i%10 == 9 { // let them fall asleep
			for range 10 {
				got[<-seen] = true
			}
		}
	}
	require.Len(t, got, packets)
	r.t.StopWork()
	wg.Wait()
	r.law(t)
	r.send(tcp4(4000, 1, packet.ACK)) // nobody serves it: it waits for Drain
	require.Equal(t, 1, r.t.Port(TCPPort(1)).Queued)
	r.t.Work(toStack) // returns at once
	r.t.Drain()
	r.law(t)
	require.Zero(t, r.held())
}

// A flow keeps its order when the reader serves some of it and workers the rest.
func TestOrderThroughTakeover(t *testing.T) {
	const packets = 30000
	r := newRig(Options{Packets: 40000})
	port := TCPPort(80)
	require.NoError(t, r.t.Bind(port, Config{Limits: Limits{Packets: packets, Bytes: 1 << 30}}))
	r.t.SetInline(port, true)
	var last, inline uint32 // guarded by the one server per port
	serve := func(_ Port, p Packet) Fate {
		n := number(p)
		if n != last+1 {
			t.Errorf("%d after %d", n, last)
		}
		last = n
		return ToStack
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { r.t.Work(serve) })
	}
	for n := uint32(1); n <= packets; {
		batch := 1 + int(n)%40
		for i := range batch {
			put(r.in, i, tcp4(4000, 80, packet.ACK, numbered(n, 4)...), Offload{})
			n++
		}
		for _, run := range r.in.Deliver(batch) {
			inline += uint32(run.n)
			r.in.ServeRun(run, serve)
		}
	}
	r.t.StopWork()
	wg.Wait()
	for {
		run, ok := r.takeStopped()
		if !ok {
			break
		}
		r.t.ServeRun(run, serve)
	}
	require.Zero(t, r.t.Port(port).Queued)
	require.NotZero(t, inline)
	r.law(t)
}

// takeStopped takes a turn after StopWork.
func (r *rig) takeStopped() (Run, bool) {
	r.t.rq.mu.Lock()
	r.t.rq.closed = false
	r.t.rq.mu.Unlock()
	return r.take()
}

// A port that is released, and perhaps bound again, while its reader serves it: what
// was served stays served, what the reader gives back is the last owner's.
func TestReleaseUnderTheReader(t *testing.T) {
	for name, rebind := range map[string]bool{"released": false, "bound again": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(Options{})
			p := UDPPort(53)
			require.NoError(t, r.t.Bind(p, Config{Socket: true}))
			r.t.SetInline(p, true)
			_, ok, err := r.t.Pop(p)
			require.NoError(t, err)
			require.False(t, ok)
			for i := range uint32(5) {
				put(r.in, int(i), udp4(4000, 53, numbered(i, 4)...), Offload{})
			}
			runs := r.in.Deliver(5)
			require.Len(t, runs, 1)
			served := 0
			r.in.ServeRun(runs[0], func(Port, Packet) Fate {
				if served++; served < 3 {
					return ToService
				}
				r.t.Release(p)
				if rebind {
					require.NoError(t, r.t.Bind(p, Config{Socket: true}))
					for i := range uint32(3) {
						other := r.t.NewIngress(nil)
						put(other, 0, udp4(4000, 53, numbered(10+i, 4)...), Offload{})
						require.Empty(t, other.Deliver(1), "one server per port")
						other.Close()
					}
				}
				return NoFate
			})
			s := r.t.Port(p)
			require.EqualValues(t, 2, s.Fates[ToService])
			require.EqualValues(t, 3, s.Fates[PortReleased])
			if rebind {
				require.Equal(t, 3, s.Queued)
				pkt, ok, err := r.t.Pop(p)
				require.NoError(t, err)
				require.True(t, ok)
				require.EqualValues(t, 10, number(pkt))
				r.t.Free(pkt)
			}
			r.law(t)
			r.t.Drain()
			require.Zero(t, r.held())
		})
	}
}

// What the reader does not refuse itself of a lane goes back, with all that follow, for a
// worker; both together are no more than the queue holds.
func TestLaneGoesBack(t *testing.T) {
	r := newRig(Options{})
	require.NoError(t, r.t.SetLimits(LaneClosed, Limits{Packets: 40, Bytes: 1 << 20}))
	r.t.SetInline(LaneClosed, true)
	for i := range uint32(50) {
		put(r.in, int(i), tcp4(4000, 9, packet.SYN, numbered(i, 4)...), Offload{})
	}
	runs := r.in.Deliver(50)
	require.Len(t, runs, 1)
	r.in.ServeRun(runs[0], func(p Port, pkt Packet) Fate {
		if number(pkt) < 30 {
			return Closed
		}
		other := r.t.NewIngress(nil) // another reader's come after those that go back
		put(other, 0, tcp4(4000, 9, packet.SYN, numbered(50, 4)...), Offload{})
		require.Empty(t, other.Deliver(1), "one server per port")
		other.Close()
		return NoFate
	})
	s := r.t.Port(LaneClosed)
	require.EqualValues(t, 30, s.Fates[Closed])
	require.EqualValues(t, 11, s.Fates[QueueFull])
	require.Equal(t, 10, s.Queued)
	require.Zero(t, s.Fates[PortReleased])
	require.True(t, r.pending())
	run, ok := r.take()
	require.True(t, ok)
	next := uint32(30)
	r.t.ServeRun(run, func(p Port, pkt Packet) Fate {
		require.Equal(t, next, number(pkt))
		next++
		return Closed
	})
	require.EqualValues(t, 40, next)
	r.law(t)
	require.Zero(t, r.held())

	put(r.in, 0, tcp4(4000, 9, packet.SYN), Offload{})
	require.Len(t, r.in.Deliver(1), 1, "the reader serves it again")
}

// The hot path allocates nothing, whatever becomes of the packet.
func TestNoAllocations(t *testing.T) {
	r := newRig(Options{})
	dns, full, web := UDPPort(53), UDPPort(54), TCPPort(80)
	require.NoError(t, r.t.Bind(dns, Config{Socket: true}))
	require.NoError(t, r.t.Bind(full, Config{Socket: true, Limits: Limits{Packets: 1}}))
	require.NoError(t, r.t.Bind(web, Config{}))
	require.NoError(t, r.t.Bind(TCPPort(81), Config{}))
	r.t.SetInline(TCPPort(81), true)
	answered := UDPPort(55)
	require.NoError(t, r.t.Bind(answered, Config{Socket: true}))
	r.t.SetInline(answered, true)
	r.send(udp4(4000, 54))
	batch := func(f []byte, after func()) func() {
		return func() {
			for i := range BatchSize {
				r.in.Put(i, copy(r.in.Room(i), f), &Offload{})
			}
			for _, run := range r.in.Deliver(BatchSize) {
				r.in.ServeRun(run, toStack)
			}
			after()
		}
	}
	work := func() {
		for r.pending() {
			i, _ := r.t.rq.take()
			if run, ok := r.t.takeRun(i); ok {
				r.t.ServeRun(run, toClosed)
			}
		}
	}
	for name, f := range map[string]func(){
		"socket": batch(udp4(4000, 53, 1, 2), func() {
			for {
				p, ok, _ := r.t.Pop(dns)
				if !ok {
					return
				}
				_ = p.From()
				r.t.Free(p)
			}
		}),
		"answered by the reader": batch(udp4(4000, 55), func() {
			for {
				p, ok, _ := r.t.Pop(answered)
				if !ok {
					return
				}
				r.t.Free(p)
			}
		}),
		"queue full":   batch(udp4(4000, 54), func() {}),
		"closed":       batch(udp4(4000, 99), work),
		"worker":       batch(tcp4(4000, 80, packet.ACK), work),
		"inline":       batch(tcp4(4000, 81, packet.ACK), work),
		"malformed":    batch([]byte{0x45, 0}, func() {}),
		"not for us":   batch(ip("10.77.0.2", "10.77.0.9", 17, make([]byte, 8)...), func() {}),
		"bad checksum": batch(with(tcp4(4000, 80, packet.ACK), 37, 9), func() {}),
	} {
		f() // fill the pool
		require.Zero(t, testing.AllocsPerRun(50, f), name)
	}
	r.law(t)
}

// TestServedSlotsStay: the slots of what a reader serves itself are its own again at
// once, as many as it has room for.
func TestServedSlotsStay(t *testing.T) {
	r := newRig(Options{})
	require.NoError(t, r.t.Bind(TCPPort(80), Config{}))
	r.t.SetInline(TCPPort(80), true)
	send := func() {
		for i := range inlineMax {
			put(r.in, i, tcp4(4000, 80, packet.ACK), Offload{})
		}
		for _, run := range r.in.Deliver(inlineMax) {
			r.in.ServeRun(run, toStack)
		}
	}
	send()
	require.Equal(t, inlineMax, r.in.spareN)
	require.Zero(t, r.t.pool.returned.Load())
	took := r.in.spare
	send()
	require.Equal(t, inlineMax, r.in.spareN)
	require.NotEqual(t, took, r.in.spare, "those that came now")
	r.law(t)

	// A reader that has no room for them.
	for i := range inlineMax {
		put(r.in, i, tcp4(4000, 80, packet.ACK), Offload{})
	}
	runs := r.in.Deliver(inlineMax)
	n, _ := r.t.pool.take(r.in.spare[r.in.spareN : len(r.in.spare)-3])
	r.in.spareN += n
	r.in.ServeRun(runs[0], toStack)
	require.Equal(t, len(r.in.spare), r.in.spareN)
	require.EqualValues(t, inlineMax-3, r.t.pool.returned.Load()>>32)
	r.law(t)
	require.Zero(t, r.held())
}
