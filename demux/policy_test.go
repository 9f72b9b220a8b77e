package demux

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"porthole/internal/codel/codeltest"
)

const ms = int64(time.Millisecond)

// clock is a virtual one.
type clock struct{ ns int64 }

func (c *clock) now() int64 { return c.ns }

// policyRig is a table on a virtual clock with one socket port, 53/udp.
type policyRig struct {
	*rig
	*clock
	tb   testing.TB
	sent uint32
}

var dnsPort = UDPPort(53)

func newPolicyRig(tb testing.TB, pol Policy, lim Limits) *policyRig {
	c := &clock{}
	r := &policyRig{newRig(Options{Now: c.now}), c, tb, 0}
	require.NoError(tb, r.t.Bind(dnsPort, Config{Owner: "dns", Socket: true, Limits: lim, Policy: pol}))
	return r
}

// arrive sends n datagrams of size bytes in one batch, numbered from 1.
func (r *policyRig) arrive(n, size int) {
	var fs [][]byte
	for range n {
		r.sent++
		fs = append(fs, udp4(4000, 53, numbered(r.sent, size)...))
	}
	r.send(fs...)
}

// pop takes up to n and gives their numbers.
func (r *policyRig) pop(n int) (got []uint32) {
	r.tb.Helper()
	for range n {
		p, ok, err := r.t.Pop(dnsPort)
		require.NoError(r.tb, err)
		if !ok {
			break
		}
		got = append(got, number(p))
		r.t.Free(p)
	}
	r.law(r.tb)
	return got
}

func (r *policyRig) fates() string {
	s := r.t.Port(dnsPort)
	return fmt.Sprintf("%d arrived, %d to-service, %d queue-full, %d head-drop, %d codel-drop, %d queued",
		s.Arrived, s.Fates[ToService], s.Fates[QueueFull], s.Fates[HeadDropped], s.Fates[CoDelDropped], s.Queued)
}

// Under head drop the newest always finds a place, at the cost of the oldest.
func TestHeadDrop(t *testing.T) {
	r := newPolicyRig(t, Policy{Discipline: HeadDrop}, Limits{Packets: 3})
	r.arrive(5, 4)
	require.Equal(t, "5 arrived, 0 to-service, 0 queue-full, 2 head-drop, 0 codel-drop, 3 queued", r.fates())
	require.Equal(t, 3, r.t.Port(dnsPort).High)
	require.Equal(t, []uint32{3, 4, 5}, r.pop(9))
	r.arrive(1, 4)
	require.Equal(t, []uint32{6}, r.pop(1))
	evs, _, _ := r.t.Log().Since(nil, 0)
	var filled int
	for _, e := range evs {
		if e.Type == QueueFilled {
			filled++
			require.Equal(t, HeadDropped, e.Fate)
			require.EqualValues(t, 3, e.Count)
		}
	}
	require.Equal(t, 1, filled, "once until half empty again")
}

// Bytes count likewise: one large datagram takes the place of several. One that is
// larger than the queue may ever be takes nobody's.
func TestHeadDropBytes(t *testing.T) {
	r := newPolicyRig(t, Policy{Discipline: HeadDrop}, Limits{Packets: 100, Bytes: 4 * (Overhead + 4)})
	r.arrive(4, 4)
	r.arrive(1, 1000) // as much as 2.7 of the others
	require.Equal(t, "5 arrived, 0 to-service, 0 queue-full, 3 head-drop, 0 codel-drop, 2 queued", r.fates())
	require.Equal(t, 4, r.t.Port(dnsPort).High)
	r.arrive(1, 2000)
	require.Equal(t, "6 arrived, 0 to-service, 1 queue-full, 3 head-drop, 0 codel-drop, 2 queued", r.fates())
	require.Equal(t, []uint32{4, 5}, r.pop(9))
}

// Nothing is lost by the change of a policy, nor by a smaller limit alone: under head
// drop the next arrival makes the queue as small as it may be.
func TestPolicyChange(t *testing.T) {
	r := newPolicyRig(t, Policy{}, Limits{Packets: 100})
	r.arrive(10, 4)
	for _, pol := range []Policy{{Discipline: CoDel}, {Discipline: HeadDrop}, {}, {Discipline: HeadDrop}} {
		require.NoError(t, r.t.SetPolicy(dnsPort, pol))
		require.NoError(t, r.t.SetLimits(dnsPort, Limits{Packets: 4}))
		require.Equal(t, "10 arrived, 0 to-service, 0 queue-full, 0 head-drop, 0 codel-drop, 10 queued", r.fates())
	}
	r.arrive(1, 4)
	require.Equal(t, "11 arrived, 0 to-service, 0 queue-full, 7 head-drop, 0 codel-drop, 4 queued", r.fates())
	require.NoError(t, r.t.SetPolicy(dnsPort, Policy{}))
	r.arrive(1, 4)
	require.Equal(t, "12 arrived, 0 to-service, 1 queue-full, 7 head-drop, 0 codel-drop, 4 queued", r.fates())
	require.Equal(t, []uint32{8, 9, 10, 11}, r.pop(9))
}

// A policy is shown as it counts, and refused where it cannot be.
func TestPolicyOf(t *testing.T) {
	r := newPolicyRig(t, Policy{}, Limits{})
	require.Equal(t, Policy{}, r.t.Port(dnsPort).Policy)
	require.NoError(t, r.t.SetPolicy(dnsPort, Policy{Discipline: CoDel, Interval: time.Second}))
	require.Equal(t, Policy{CoDel, DefaultTarget, time.Second}, r.t.Port(dnsPort).Policy)
	require.NoError(t, r.t.SetPolicy(dnsPort, Policy{HeadDrop, time.Second, time.Second}))
	require.Equal(t, Policy{Discipline: HeadDrop}, r.t.Port(dnsPort).Policy)
	r.t.Release(dnsPort)
	require.ErrorContains(t, r.t.SetPolicy(dnsPort, Policy{}), "set policy of 53/udp: not bound")
	require.NoError(t, r.t.Bind(dnsPort, Config{Socket: true}))
	require.Equal(t, Policy{}, r.t.Port(dnsPort).Policy, "a new owner begins with its own")

	web := TCPPort(80)
	require.ErrorContains(t, r.t.Bind(web, Config{Policy: Policy{Discipline: CoDel}}), "workers serve this")
	require.NoError(t, r.t.Bind(web, Config{}))
	require.ErrorContains(t, r.t.SetPolicy(web, Policy{Discipline: HeadDrop}), "workers serve this")
	require.NoError(t, r.t.SetPolicy(web, Policy{}))
	require.ErrorContains(t, r.t.SetPolicy(dnsPort, Policy{Discipline: 9}), "no discipline 9")
	timeless := newRig(Options{})
	require.ErrorIs(t, timeless.t.Bind(dnsPort, Config{Socket: true, Policy: Policy{Discipline: CoDel}}), errNoClock)

	for _, d := range Disciplines() {
		got, ok := ParseDiscipline(d.String())
		require.True(t, ok)
		require.Equal(t, d, got)
	}
	_, ok := ParseDiscipline("fast")
	require.False(t, ok)
}

// run has two datagrams arrive each step and one taken, until the clock shows until;
// it gives the times at which CoDel dropped.
func (r *policyRig) run(step, until int64) (drops []int64) {
	was := r.t.Port(dnsPort).Fates[CoDelDropped]
	for ; r.ns < until; r.ns += step {
		r.arrive(2, 100)
		r.pop(1)
		for n := r.t.Port(dnsPort).Fates[CoDelDropped]; was < n; was++ {
			drops = append(drops, r.ns)
		}
	}
	return drops
}

// A queue that stands above the target loses its first packet an interval after it
// came above it, the next one an interval later, and then by the square root of the
// drops.
func TestCoDelControlLaw(t *testing.T) {
	r := newPolicyRig(t, Policy{Discipline: CoDel}, Limits{Packets: 30000, Bytes: 1 << 28})
	drops := r.run(ms, 1000*ms)
	// One more waits each ms. At t the one that came at t/2 is taken, so the wait is
	// first 5 ms at 9 or 10 ms; the interval is 100 ms.
	require.InDelta(t, 110*ms, drops[0], float64(ms))
	next := drops[0]
	for n := 1; n < len(drops); n++ {
		next += int64(100 * float64(ms) / math.Sqrt(float64(n)))
		require.InDelta(t, next, drops[n], float64(ms), "drop %d", n)
	}
	require.Greater(t, len(drops), 20)
}

// A burst that is worked off within an interval loses nothing, nor does a queue below
// the target, however many it holds; nor the last packet of a queue, however long it
// waited.
func TestCoDelLeavesAlone(t *testing.T) {
	r := newPolicyRig(t, Policy{Discipline: CoDel}, Limits{})
	r.arrive(60, 100)
	for range 60 { // waits of up to 90 ms
		r.ns += 3 * ms / 2
		require.Len(t, r.pop(1), 1)
	}
	for range 300 {
		r.arrive(3, 100)
		r.ns += 4 * ms
		require.Len(t, r.pop(3), 3)
	}
	for range 10 {
		r.arrive(1, 100)
		r.ns += 1000 * ms
		require.Len(t, r.pop(1), 1)
	}
	require.Equal(t, "970 arrived, 970 to-service, 0 queue-full, 0 head-drop, 0 codel-drop, 0 queued", r.fates())
}

// Under CoDel a full queue drops its tail; times can be set; what was queued under
// another policy has waited since it came.
func TestCoDelSettable(t *testing.T) {
	r := newPolicyRig(t, Policy{}, Limits{Packets: 10})
	r.arrive(12, 100)
	require.Equal(t, "12 arrived, 0 to-service, 2 queue-full, 0 head-drop, 0 codel-drop, 10 queued", r.fates())
	require.NoError(t, r.t.SetPolicy(dnsPort, Policy{CoDel, 20 * time.Millisecond, 40 * time.Millisecond}))
	r.ns = 19 * ms
	require.Equal(t, []uint32{1}, r.pop(1)) // below the target
	r.ns = 20 * ms
	require.Equal(t, []uint32{2}, r.pop(1)) // above it, from now on
	r.ns = 59 * ms
	require.Equal(t, []uint32{3}, r.pop(1))
	r.ns = 60 * ms
	require.Equal(t, []uint32{5}, r.pop(1)) // for an interval: 4 is dropped
	require.Equal(t, "12 arrived, 4 to-service, 2 queue-full, 0 head-drop, 1 codel-drop, 5 queued", r.fates())
	evs, _, _ := r.t.Log().Since(nil, 0)
	last := evs[len(evs)-1]
	require.Equal(t, Event{Seq: last.Seq, At: last.At, Type: QueueStands, Port: dnsPort, Fate: CoDelDropped, Count: 7}, last)
	r.arrive(6, 100)
	require.Equal(t, "18 arrived, 4 to-service, 3 queue-full, 0 head-drop, 1 codel-drop, 10 queued", r.fates())
}

// The tap sees what a policy drops, with what the queue held then, that packet
// included.
func TestPolicyTap(t *testing.T) {
	r := newPolicyRig(t, Policy{Discipline: HeadDrop}, Limits{Packets: 2})
	var got []string
	r.t.SetTap(func(p Port, pkt Packet, f Fate, depth, limit, bytes, maxBytes uint32) {
		got = append(got, fmt.Sprintf("%d %v %d/%d %d", number(pkt), f, depth, limit, bytes))
	})
	r.arrive(3, 4)
	require.NoError(t, r.t.SetLimits(dnsPort, Limits{Packets: 3}))
	require.NoError(t, r.t.SetPolicy(dnsPort, Policy{Discipline: CoDel}))
	r.arrive(1, 4)
	r.ns = 50 * ms
	r.pop(1)
	r.arrive(1, 4)
	r.ns = 150 * ms
	r.pop(1)
	require.Equal(t, []string{
		"1 none 1/2 580", "2 none 2/2 1160", "1 head-drop 2/2 1160", "3 none 2/2 1160",
		"4 none 3/3 1740", "5 none 3/3 1740", "3 codel-drop 3/3 1740",
	}, got)
}

// Neither policy allocates.
func TestPolicyAllocs(t *testing.T) {
	for _, d := range Disciplines() {
		r := newPolicyRig(t, Policy{Discipline: d}, Limits{Packets: 8})
		f := udp4(4000, 53, numbered(1, 100)...)
		n := testing.AllocsPerRun(500, func() {
			for range 8 {
				put(r.in, 0, f, Offload{})
				r.in.Deliver(1)
			}
			r.ns += 10 * ms
			for range 4 {
				if p, ok, _ := r.t.Pop(dnsPort); ok {
					r.t.Free(p)
				}
			}
		})
		require.Zero(t, n, d)
		require.NotZero(t, r.t.Port(dnsPort).Fates[[]Fate{QueueFull, HeadDropped, CoDelDropped}[d]], d)
	}
}

// Head drop works where no free slot is left: what it drops makes room in memory too.
func TestHeadDropWithoutMemory(t *testing.T) {
	r := newPolicyRig(t, Policy{Discipline: HeadDrop}, Limits{Packets: 32})
	r.arrive(32, 4)
	refs := make([]ref, 1<<16)
	n, _ := r.t.pool.take(refs) // all there is
	r.arrive(200, 4)
	require.Equal(t, "232 arrived, 0 to-service, 0 queue-full, 200 head-drop, 0 codel-drop, 32 queued", r.fates())
	for _, x := range refs[:n] {
		r.t.pool.give(x.h, x.s, 1)
	}
	require.Equal(t, uint32(201), r.pop(1)[0])
}

// CoDel drops what its RFC's pseudocode drops, when it does, however packets come and
// are taken, one by one or many at once.
func TestCoDelModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		pol := Policy{CoDel, time.Duration(rapid.IntRange(1, 8).Draw(rt, "target")), time.Duration(rapid.IntRange(1, 40).Draw(rt, "interval"))}
		r := newPolicyRig(t, pol, Limits{Packets: 20000, Bytes: 1 << 28})
		m := &codeltest.Model{Target: int64(pol.Target), Interval: int64(pol.Interval), MaxPacket: Overhead + 100}
		var ids []uint32
		at := map[uint32]int64{}
		lost := 0
		busy := rapid.IntRange(0, 3).Draw(rt, "busy") // how much more comes than goes
		for range rapid.IntRange(1, 400).Draw(rt, "steps") {
			r.ns += rapid.Int64Range(0, 6).Draw(rt, "ns")
			n := rapid.IntRange(0, 1+busy).Draw(rt, "arrive")
			r.arrive(n, 100)
			for id := r.sent - uint32(n) + 1; id <= r.sent; id++ {
				ids, at[id] = append(ids, id), r.ns
			}
			var want []uint32
			k := rapid.IntRange(1, 3).Draw(rt, "pop")
			for range k {
				l := m.Deque(r.ns, len(ids), func(i int) (int64, int) { return at[ids[i]], Overhead + 100 })
				ids, lost = ids[l:], lost+l
				if len(ids) == 0 {
					break
				}
				want, ids = append(want, ids[0]), ids[1:]
			}
			if got := r.pop(k); !slices.Equal(got, want) {
				rt.Fatalf("popped %v, want %v", got, want)
			}
		}
		if s := r.t.Port(dnsPort); s.Fates[CoDelDropped] != uint64(lost) || s.Queued != len(ids) {
			rt.Fatalf("%d dropped, %d queued, want %d and %d", s.Fates[CoDelDropped], s.Queued, lost, len(ids))
		}
	})
}
