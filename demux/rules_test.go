package demux

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"porthole/demux/packet"
	"porthole/impair"
)

func ruled(t interface{ Fatal(...any) }, s string) impair.Rules {
	r, err := impair.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// clockRig is a rig on a clock that the test moves.
type clockRig struct {
	*rig
	now int64
}

func newClockRig() *clockRig {
	r := &clockRig{now: 1}
	r.rig = newRig(Options{Now: func() int64 { return r.now }})
	return r
}

// advance moves the clock, and lets go on what is due.
func (r *clockRig) advance(ns int64) {
	r.now += ns
	r.t.releaseUntilNow()
}

// popped takes all datagrams of a socket port: their numbers, and what rules did.
func (r *clockRig) popped(t testing.TB, p Port) (ids []uint32, faults []impair.Fault) {
	t.Helper()
	for {
		pkt, ok, err := r.t.Pop(p)
		require.NoError(t, err)
		if !ok {
			return ids, faults
		}
		ids, faults = append(ids, number(pkt)), append(faults, pkt.Fault())
		r.t.Free(pkt)
	}
}

// TestRulesDelay: what waits in the rules has arrived and is queued; it comes into the
// queue when its time has come, with the rule's name, and other ports do not wait.
func TestRulesDelay(t *testing.T) {
	r := newClockRig()
	slow, quick := UDPPort(53), UDPPort(54)
	for _, p := range []Port{slow, quick} {
		require.NoError(t, r.t.Bind(p, Config{Owner: "test", Socket: true}))
	}
	require.NoError(t, r.t.SetRules(slow, ruled(t, "delay:50ms"), 1))
	r.send(udp4(9, 53, numbered(1, 4)...), udp4(9, 54, numbered(2, 4)...), udp4(9, 53, numbered(3, 4)...))
	ids, faults := r.popped(t, quick)
	require.Equal(t, []uint32{2}, ids)
	require.Equal(t, []impair.Fault{0}, faults)
	s := r.t.Port(slow)
	require.EqualValues(t, 2, s.Arrived)
	require.Equal(t, 2, s.Queued)
	require.Equal(t, 2, s.Waiting)
	require.Equal(t, 2, s.Impaired.Waiting)
	r.law(t)
	r.advance(50*ms - 1)
	ids, _ = r.popped(t, slow)
	require.Empty(t, ids)
	r.advance(1)
	ids, faults = r.popped(t, slow)
	require.Equal(t, []uint32{1, 3}, ids)
	require.Equal(t, []impair.Fault{impair.Delayed, impair.Delayed}, faults)
	r.law(t)

	// Rules that go let out what waits, and the port costs nothing any more.
	r.send(udp4(9, 53, numbered(4, 4)...))
	require.NoError(t, r.t.SetRules(slow, impair.Rules{}, 1))
	ids, _ = r.popped(t, slow)
	require.Equal(t, []uint32{4}, ids)
	require.Zero(t, r.t.delays.ports.Load())
	require.Zero(t, r.t.lines[slow].state&impaired)
	r.law(t)
	require.Zero(t, r.held())
}

// TestRulesFaults: the fate of what a rule drops, the kind of what it copies, and what
// a turned bit does.
func TestRulesFaults(t *testing.T) {
	for _, c := range []struct {
		rules      string
		popped     int
		copies     uint64
		fates      [NumFates]uint64 // of the port, for 10 datagrams
		badAtHost  uint64
		knownFault impair.Fault
	}{
		{rules: "loss:100%", fates: [NumFates]uint64{FaultInjected: 10}},
		{rules: "duplicate:100%", popped: 20, copies: 10, fates: [NumFates]uint64{ToService: 20}},
		{rules: "corrupt:100%", badAtHost: 10},
		{rules: "delay:10ms,limit:4", popped: 4, fates: [NumFates]uint64{FaultInjected: 6, ToService: 4}, knownFault: impair.Delayed},
		{rules: "rate:1mbit,limit:2", popped: 3, fates: [NumFates]uint64{FaultInjected: 7, ToService: 3}},
	} {
		r := newClockRig()
		p := UDPPort(53)
		require.NoError(t, r.t.Bind(p, Config{Owner: "test", Socket: true}))
		require.NoError(t, r.t.SetRules(p, ruled(t, c.rules), 1))
		for i := range 10 {
			r.send(udp4(9, 53, numbered(uint32(i), 100)...))
			r.law(t)
		}
		r.advance(1000 * ms)
		ids, faults := r.popped(t, p)
		require.Len(t, ids, c.popped, c.rules)
		s := r.t.Port(p)
		require.Equal(t, c.fates, s.Fates, c.rules)
		require.Equal(t, c.copies, s.Kinds[Duplicated])
		require.Equal(t, c.copies, r.t.Totals().Kinds[Duplicated])
		bad := r.t.Port(LaneHost).Fates
		require.Equal(t, c.badAtHost, bad[BadChecksum]+bad[Malformed]+bad[NotForUs]+bad[Martian], "%s %v", c.rules, bad)
		if c.knownFault != 0 {
			require.Equal(t, c.knownFault, faults[0])
		}
		r.law(t)
		require.Zero(t, r.held())
	}
}

// TestRulesCut: a super-packet goes through the rules in pieces, one of which arrived
// from the device; one piece lost is one segment missing.
func TestRulesCut(t *testing.T) {
	r := newClockRig()
	p := TCPPort(80)
	require.NoError(t, r.t.Bind(p, Config{Owner: "test"}))
	require.NoError(t, r.t.SetRules(p, ruled(t, "loss:20%,seed:3"), 1))
	f := tcp4big(9, 80, 20*1000)
	put(r.in, 0, f, Offload{Flags: needsCsum, GSO: 1, SegSize: 1000, HdrLen: 40, CsumStart: 20, CsumOffset: 16})
	require.Empty(t, r.in.Deliver(1))
	s := r.t.Port(p)
	require.EqualValues(t, 20, s.Arrived)
	require.EqualValues(t, 1, s.Kinds[FromDevice])
	require.EqualValues(t, 19, s.Kinds[Segmented])
	lost := s.Fates[FaultInjected]
	require.NotZero(t, lost)
	require.Equal(t, lost, s.Impaired.Lost)
	got := 0
	for run, ok := r.take(); ok; run, ok = r.take() {
		r.t.ServeRun(run, func(_ Port, pkt Packet) Fate {
			require.EqualValues(t, 1040, pkt.Info().Length)
			require.True(t, packet.VerifyTransport(pkt.Info(), pkt.IP(), pkt.Rest()))
			got++
			return ToStack
		})
	}
	require.EqualValues(t, 20, got+int(lost))
	// Pieces too many, or no memory for all of them: nothing passes, in one fate.
	put(r.in, 0, f, Offload{Flags: needsCsum, GSO: 1, SegSize: 100, HdrLen: 40, CsumStart: 20, CsumOffset: 16})
	r.in.Deliver(1)
	require.EqualValues(t, 1, r.t.Port(p).Fates[NoBuffer])
	// A partial checksum alone is completed.
	put(r.in, 0, tcp4big(9, 80, 500), Offload{Flags: needsCsum, CsumStart: 20, CsumOffset: 16})
	r.in.Deliver(1)
	r.law(t)
	for run, ok := r.take(); ok; run, ok = r.take() {
		r.t.ServeRun(run, func(_ Port, pkt Packet) Fate {
			require.True(t, packet.VerifyTransport(pkt.Info(), pkt.IP(), pkt.Rest()))
			return ToStack
		})
	}
	require.Zero(t, r.held())
}

// tcp4big is a segment with so much data whose checksum is still to be computed.
func tcp4big(from, to uint16, size int) []byte {
	f := tcp4(from, to, packet.ACK)
	f = append(f, make([]byte, size)...)
	f[2], f[3] = byte(len(f)>>8), byte(len(f))
	f[10], f[11] = 0, 0
	sum := ^packet.Sum(f[:20], 0)
	f[10], f[11] = byte(sum>>8), byte(sum)
	f[36], f[37] = 0xbe, 0xef
	return f
}

// TestRulesReleased: the port goes while packets wait in its rules; the next owner has
// none.
func TestRulesReleased(t *testing.T) {
	r := newClockRig()
	p := UDPPort(53)
	require.ErrorContains(t, r.t.SetRules(p, ruled(t, "loss:1%"), 1), "not bound")
	require.ErrorContains(t, r.t.SetRules(LaneICMP, ruled(t, "loss:1%"), 1), "not bound")
	require.NoError(t, r.t.Bind(p, Config{Owner: "one", Socket: true}))
	require.NoError(t, r.t.SetRules(p, ruled(t, "delay:50ms"), 1))
	r.send(udp4(9, 53, 1), udp4(9, 53, 2))
	r.t.Release(p)
	require.EqualValues(t, 2, r.t.Port(p).Fates[PortReleased])
	r.law(t)
	require.NoError(t, r.t.Bind(p, Config{Owner: "two", Socket: true}))
	r.send(udp4(9, 53, numbered(3, 4)...))
	ids, _ := r.popped(t, p)
	require.Equal(t, []uint32{3}, ids)
	require.NoError(t, r.t.SetRules(p, ruled(t, "delay:50ms"), 1))
	r.send(udp4(9, 53, 4))
	r.t.Drain()
	require.EqualValues(t, 1, r.t.Totals().Fates[HostStopped])
	r.law(t)
	require.Zero(t, r.held())
}

// TestRulesOfSelfTest: what the host sends to itself was on no wire.
func TestRulesOfSelfTest(t *testing.T) {
	r := newClockRig()
	p := UDPPort(53)
	require.NoError(t, r.t.Bind(p, Config{Owner: "one", Socket: true}))
	require.NoError(t, r.t.SetRules(p, ruled(t, "loss:100%"), 1))
	r.t.Inject(SelfTest, Offload{}, udp4(9, 53, numbered(1, 4)...))
	r.t.Inject(Reassembled, Offload{}, udp4(9, 53, numbered(2, 4)...))
	ids, _ := r.popped(t, p)
	require.Equal(t, []uint32{1}, ids)
	require.EqualValues(t, 1, r.t.Port(p).Fates[FaultInjected])
	r.law(t)
}

// TestRulesLaw: the law holds after every step, whatever rules come and go.
func TestRulesLaw(t *testing.T) {
	texts := []string{"none", "loss:30%", "duplicate:50%,corrupt:20%", "delay:5ms±5ms,limit:5", "rate:1mbit,limit:4,policy:codel,target:1ms", "delay:3ms,reorder:50%,drop-syn:1", "gemodel:10%/20%,delay:1ms,duplicate:20%"}
	rapid.Check(t, func(rt *rapid.T) {
		r := newClockRig()
		ports := []Port{TCPPort(1), UDPPort(4)}
		bind := func(i int) { _ = r.t.Bind(ports[i], Config{Owner: "law", Socket: i == 1, Limits: Limits{Packets: 8}}) }
		bind(0)
		bind(1)
		sent := uint64(0)
		rt.Repeat(map[string]func(*rapid.T){
			"send": func(rt *rapid.T) {
				p := rapid.SampledFrom([]uint16{1, 4, 7}).Draw(rt, "port")
				flags := rapid.SampledFrom([]uint8{packet.SYN, packet.ACK}).Draw(rt, "flags")
				if p == 1 && rapid.Bool().Draw(rt, "super") {
					put(r.in, 0, tcp4big(9, p, 3500), Offload{Flags: needsCsum, GSO: 1, SegSize: 1000, HdrLen: 40, CsumStart: 20, CsumOffset: 16})
				} else if p == 1 {
					put(r.in, 0, tcp4(9, p, flags), Offload{})
				} else {
					put(r.in, 0, udp4(9, p, numbered(1, 900)...), Offload{})
				}
				if rapid.Bool().Draw(rt, "marked") {
					r.in.Mark(0, rapid.SampledFrom([]impair.Fault{impair.Lost, impair.Delayed, impair.Duplicated, impair.Segmented}).Draw(rt, "mark"))
				}
				sent++
				for _, run := range r.in.Deliver(1) {
					r.in.ServeRun(run, toStack)
				}
			},
			"rules": func(rt *rapid.T) {
				_ = r.t.SetRules(rapid.SampledFrom(ports).Draw(rt, "port"), ruled(rt, rapid.SampledFrom(texts).Draw(rt, "rules")), rapid.Uint64().Draw(rt, "seed"))
			},
			"wait": func(rt *rapid.T) { r.advance(rapid.Int64Range(0, 10*ms).Draw(rt, "ns")) },
			"serve": func(rt *rapid.T) {
				for run, ok := r.take(); ok; run, ok = r.take() {
					r.t.ServeRun(run, toStack)
				}
				if pkt, ok, _ := r.t.Pop(ports[1]); ok {
					r.t.Free(pkt)
				}
			},
			"rebind": func(rt *rapid.T) {
				i := rapid.IntRange(0, 1).Draw(rt, "port")
				r.t.Release(ports[i])
				r.law(t)
				bind(i)
			},
			"": func(rt *rapid.T) {
				for _, s := range r.t.Ports() {
					if err := s.Check(); err != nil {
						rt.Fatal(err)
					}
				}
				s := r.t.Totals()
				if err := s.Check(); err != nil {
					rt.Fatal(err)
				}
				if n := s.Kinds[FromDevice] + s.Kinds[Duplicated] + s.Kinds[Segmented]; n < sent || s.Arrived != n {
					rt.Fatalf("%d sent, %v arrived of %d", sent, s.Kinds, s.Arrived)
				}
			},
		})
		for _, p := range ports {
			r.t.Release(p)
		}
		for run, ok := r.take(); ok; run, ok = r.take() {
			r.t.ServeRun(run, toClosed)
		}
		if n := r.held(); n != 0 {
			rt.Fatalf("%d slots are lost", n)
		}
	})
}

// TestRulesStorm: readers, workers, owners, the goroutine that releases, rules and
// owners that change, all at once; the law at every look.
func TestRulesStorm(t *testing.T) {
	const packets = 20000
	r := newRig(Options{Packets: 2048})
	ports := []Port{TCPPort(1), TCPPort(2), UDPPort(4), UDPPort(5)}
	bind := func(i int) { _ = r.t.Bind(ports[i], Config{Owner: "storm", Socket: i > 1}) }
	for i := range ports {
		bind(i)
	}
	texts := []string{"none", "loss:10%,duplicate:10%", "delay:200us±200us,corrupt:5%", "rate:100mbit,limit:20,policy:codel", "delay:100us,reorder:50%"}
	var load, rest sync.WaitGroup
	var done atomic.Bool
	for id := range 2 {
		load.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(id), 1))
			in := r.t.NewIngress(nil)
			defer in.Close()
			for range packets / 32 {
				for i := range 32 {
					switch p := uint16(rng.IntN(7)); {
					case p < 3 && rng.IntN(8) == 0:
						put(in, i, tcp4big(9, p, 5000), Offload{Flags: needsCsum, GSO: 1, SegSize: 1000, HdrLen: 40, CsumStart: 20, CsumOffset: 16})
					case p < 3:
						put(in, i, tcp4(9, p, packet.ACK), Offload{})
					default:
						put(in, i, udp4(9, p, numbered(1, 40)...), Offload{})
					}
				}
				for _, run := range in.Deliver(32) {
					in.ServeRun(run, toStack)
				}
			}
		})
	}
	rest.Go(func() { r.t.Work(toStack) })
	rest.Go(r.t.ReleaseDelayed)
	rest.Go(func() {
		for !done.Load() {
			for _, p := range ports[2:] {
				if pkt, ok, _ := r.t.Pop(p); ok {
					r.t.Free(pkt)
				}
			}
		}
	})
	rest.Go(func() {
		rng := rand.New(rand.NewPCG(7, 1))
		for n := 0; !done.Load(); n++ {
			i := rng.IntN(len(ports))
			if n%16 == 0 {
				r.t.Release(ports[i])
				bind(i)
			}
			_ = r.t.SetRules(ports[i], ruled(t, texts[rng.IntN(len(texts))]), rng.Uint64())
			r.law(t)
		}
	})
	load.Wait()
	done.Store(true)
	r.t.StopWork()
	rest.Wait()
	r.law(t)
	r.t.Drain()
	r.law(t)
	require.Zero(t, r.t.Totals().Queued)
	require.Zero(t, r.held())
	for _, p := range ports {
		r.t.Release(p)
	}
	require.Zero(t, r.t.delays.ports.Load())
}

// TestRulesAllocate nothing for other ports, and nothing for theirs.
func TestRulesAllocate(t *testing.T) {
	r := newClockRig()
	require.NoError(t, r.t.Bind(UDPPort(53), Config{Owner: "test", Socket: true}))
	require.NoError(t, r.t.Bind(UDPPort(54), Config{Owner: "test", Socket: true}))
	require.NoError(t, r.t.SetRules(UDPPort(53), ruled(t, "loss:1%,delay:1ms±1ms"), 1))
	f, g := udp4(9, 53, numbered(1, 100)...), udp4(9, 54, numbered(1, 100)...)
	var off Offload
	one := func() {
		for i, b := range [][]byte{f, g} {
			r.in.Put(i, copy(r.in.Room(i), b), &off)
		}
		r.in.Deliver(2)
		r.advance(ms)
		for _, p := range []Port{UDPPort(53), UDPPort(54)} {
			for pkt, ok, _ := r.t.Pop(p); ok; pkt, ok, _ = r.t.Pop(p) {
				r.t.Free(pkt)
			}
		}
	}
	for range 2000 {
		one()
	}
	require.LessOrEqual(t, testing.AllocsPerRun(1000, one), 2.0, "the times at which to look again")
}
