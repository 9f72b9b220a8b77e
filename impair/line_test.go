package impair

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

func rules(t testing.TB, s string) Rules {
	t.Helper()
	r, err := Parse(s)
	require.NoError(t, err)
	return r
}

const ms = int64(time.Millisecond)

// pass sends n packets of size bytes, one every step, and gives what comes out.
func pass(l *Line[int], n, size int, step int64) (out []Item[int]) {
	take := func(now int64) {
		for it, ok := l.Pop(now); ok; it, ok = l.Pop(now) {
			out = append(out, it)
		}
	}
	for i := range n {
		now := int64(i) * step
		take(now)
		v := l.Judge(false)
		if v.Fault.Dropped() {
			continue
		}
		l.Push(now, i, size, v.Fault)
		if v.Copy {
			l.Push(now, i, size, v.Fault|Duplicated)
		}
		take(now)
	}
	for l.Next() != Never {
		take(l.Next())
	}
	return out
}

// TestChances holds each chance against theory: within five standard deviations of n
// independent draws.
func TestChances(t *testing.T) {
	const n = 200_000
	for _, c := range []struct {
		rules string
		count func(Stats) uint64
		want  float64
	}{
		{"loss:5%", func(s Stats) uint64 { return s.Lost }, 0.05},
		{"loss:0.1%", func(s Stats) uint64 { return s.Lost }, 0.001},
		{"loss:100%", func(s Stats) uint64 { return s.Lost }, 1},
		{"duplicate:2%", func(s Stats) uint64 { return s.Duplicated }, 0.02},
		{"corrupt:10%", func(s Stats) uint64 { return s.Corrupted }, 0.1},
		{"delay:1ms,reorder:25%", func(s Stats) uint64 { return s.Reordered }, 0.25},
		{"delay:1ms,reorder:100%,gap:5", func(s Stats) uint64 { return s.Reordered }, 0.2},
		{"drop-syn:7", func(s Stats) uint64 { return s.SYNDropped }, 0},
	} {
		l := NewLine[int](rules(t, c.rules), 1, DefaultBounds)
		pass(l, n, 100, 1000)
		s := l.Stats()
		tolerance := 5*math.Sqrt(c.want*(1-c.want)/n) + 1e-9
		require.InDelta(t, c.want, float64(c.count(s))/n, tolerance, c.rules)
		require.Equal(t, s.Arrived+s.Duplicated, s.Passed+s.Dropped(), c.rules)
	}
}

// TestGilbertElliott: the share of lost packets is that of the bad state, and bursts are
// geometric with mean 1/R.
func TestGilbertElliott(t *testing.T) {
	const n = 400_000
	for _, c := range []struct {
		rules       string
		loss, burst float64
	}{
		{"gemodel:1%/10%", 0.01 / 0.11, 10},
		{"gemodel:2%/50%", 0.02 / 0.52, 2},
		{"gemodel:5%", 0.05, 1 / 0.95}, // R = 100% - P: independent
	} {
		l := NewLine[int](rules(t, c.rules), 3, DefaultBounds)
		lost, bursts, was := 0, 0, false
		for range n {
			now := l.Judge(false).Fault == Lost
			if now {
				lost++
				if !was {
					bursts++
				}
			}
			was = now
		}
		require.InEpsilon(t, c.loss, float64(lost)/n, 0.05, c.rules)
		require.InEpsilon(t, c.burst, float64(lost)/float64(bursts), 0.05, c.rules)
	}
	l := NewLine[int](rules(t, "gemodel:1%/10%/70%/0.5%"), 3, DefaultBounds)
	for range n {
		l.Judge(false)
	}
	bad := 0.01 / 0.11
	require.InEpsilon(t, bad*0.7+(1-bad)*0.005, float64(l.Stats().Lost)/n, 0.05)
}

// TestJitter: mean and spread of the delay by its distribution.
func TestJitter(t *testing.T) {
	const n = 100_000
	for _, c := range []struct {
		rules      string
		mean, dev  float64 // ms
		least, top float64
	}{
		{"delay:50ms±10ms", 50, 10 / math.Sqrt(3), 40, 60},
		{"delay:50ms+-10ms,distribution:normal", 50, 10, 10, 90},
		// Shape 3: median below the mean, and a tail; its variance hardly converges.
		{"delay:50ms±10ms,distribution:pareto", 50, 0, 50 - 10*2./3, 90},
		{"delay:0s±1ms", 0.25, 0, 0, 1}, // what would be negative is 0
		{"delay:3ms", 3, 0.0001, 3, 3},
	} {
		l := NewLine[int](rules(t, c.rules), 5, DefaultBounds)
		var sum, square float64
		for _, it := range pass(l, n, 100, ms) {
			d := float64(it.Due-it.Since) / float64(ms)
			if d < c.least || d > c.top {
				t.Fatalf("%s: %v ms is not %v to %v", c.rules, d, c.least, c.top)
			}
			sum += d
			square += d * d
		}
		mean := sum / n
		require.InDelta(t, c.mean, mean, 0.01*c.mean, c.rules)
		if c.dev > 0 {
			require.InDelta(t, c.dev, math.Sqrt(max(0, square/n-mean*mean)), 0.02*c.dev+0.001, c.rules)
		}
	}
}

// TestRate: packets leave one after the other, and the queue takes as many as its limit.
func TestRate(t *testing.T) {
	l := NewLine[int](rules(t, "rate:10mbit,limit:4"), 1, DefaultBounds)
	var faults []Fault
	for i := range 7 {
		faults = append(faults, l.Push(0, i, 1250, 0)) // 1 ms each
	}
	require.Equal(t, []Fault{0, 0, 0, 0, 0, OverLimit, OverLimit}, faults, "one on the wire, four wait")
	for i := range 5 {
		require.Equal(t, int64(i+1)*ms, l.Next())
		_, early := l.Pop(l.Next() - 1)
		require.False(t, early)
		it, ok := l.Pop(l.Next())
		require.True(t, ok)
		require.Equal(t, i, it.V)
		require.Equal(t, i > 0, it.Fault&Queued != 0)
	}
	require.Equal(t, int64(Never), l.Next())

	// Bytes bound the queue, too; a packet that finds the wire idle needs no place.
	l = NewLine[int](rules(t, "rate:8kbit,limit-bytes:1000b"), 1, DefaultBounds)
	require.Zero(t, l.Push(0, 0, 1500, 0))
	require.Zero(t, l.Push(0, 1, 1000, 0))
	require.Equal(t, OverLimit, l.Push(0, 2, 64, 0))

	// The delay comes behind the rate, and nothing overtakes there.
	l = NewLine[int](rules(t, "rate:10mbit,delay:20ms±19ms"), 1, DefaultBounds)
	out := pass(l, 500, 1250, ms/2)
	require.True(t, slices.IsSortedFunc(out, func(a, b Item[int]) int { return a.V - b.V }))
	// Long after, the link had time for all of them.
	require.GreaterOrEqual(t, out[499].Due, 500*ms)
}

// TestLimitOfDelay: without a rate, limit bounds what is in the delay.
func TestLimitOfDelay(t *testing.T) {
	l := NewLine[int](rules(t, "delay:10ms,limit:2"), 1, DefaultBounds)
	require.Zero(t, l.Push(0, 0, 100, 0))
	require.Zero(t, l.Push(0, 1, 100, 0))
	require.Equal(t, OverLimit, l.Push(0, 2, 100, 0))
	l.Pop(10 * ms)
	require.Zero(t, l.Push(10*ms, 3, 100, 0))

	l = NewLine[int](rules(t, "delay:10ms"), 1, Bounds{Packets: 3, Bytes: 250})
	require.Zero(t, l.Push(0, 0, 100, 0))
	require.Zero(t, l.Push(0, 1, 100, 0))
	require.Equal(t, OverLimit, l.Push(0, 2, 100, 0), "the line's own bound of bytes")
}

// TestCoDel: a queue that stands because more comes than leaves is brought near its
// target; tail drop keeps it full.
func TestCoDel(t *testing.T) {
	wait := func(text string) (median time.Duration, s Stats) {
		l := NewLine[int](rules(t, text), 1, DefaultBounds)
		var waits []int64
		// 10 % more than the link takes, for 60 s: what a sender that does not listen does.
		for _, it := range pass(l, 66_000, 1250, ms*10/11) {
			if !it.Fault.Dropped() && it.Since > 30_000*ms {
				waits = append(waits, it.Due-it.Since)
			}
		}
		slices.Sort(waits)
		return time.Duration(waits[len(waits)/2]), l.Stats()
	}
	tail, ts := wait("rate:10mbit,limit:500")
	codel, cs := wait("rate:10mbit,limit:500,policy:codel")
	require.Greater(t, tail, 450*time.Millisecond)
	require.Less(t, codel, 30*time.Millisecond)
	require.Zero(t, ts.Aged)
	require.NotZero(t, ts.OverLimit)
	require.NotZero(t, cs.Aged)
	for _, s := range []Stats{ts, cs} {
		require.Equal(t, s.Arrived, s.Passed+s.Dropped())
	}
	// A queue that only bursts is left alone.
	l := NewLine[int](rules(t, "rate:10mbit,policy:codel"), 1, DefaultBounds)
	for burst := range int64(100) {
		for i := range 50 {
			l.Push(burst*200*ms, i, 1250, 0)
		}
	}
	for l.Next() != Never {
		l.Pop(l.Next())
	}
	require.Zero(t, l.Stats().Aged)
}

// TestCoDelModel: a link drops what the RFC's pseudocode drops of the same packets.
func TestCoDelModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Rules{Rate: 10e6, Limit: 1000, Policy: CoDelPolicy,
			Target:   time.Duration(rapid.Int64Range(1, 8).Draw(t, "target") * ms),
			Interval: time.Duration(rapid.Int64Range(1, 40).Draw(t, "interval") * ms)}
		l := NewLine[int](r, 1, DefaultBounds)
		m := codeltest.Model{Target: int64(r.Target), Interval: int64(r.Interval), MaxPacket: mtu}
		var got, want, queue []int
		var at []int64
		var size []int
		var now, free int64
		take := func() { // what leaves by now
			for it, ok := l.Pop(now); ok; it, ok = l.Pop(now) {
				if it.Fault.Dropped() {
					got = append(got, it.V)
				}
			}
			for len(queue) > 0 && max(free, at[queue[0]]) <= now {
				start := max(free, at[queue[0]])
				lost := m.Deque(start, len(queue), func(i int) (int64, int) { return at[queue[i]], size[queue[i]] })
				want = append(want, queue[:lost]...)
				free = start + int64(r.Rate.Time(size[queue[lost]]))
				queue = queue[lost+1:]
			}
		}
		gap := rapid.Int64Range(1, 3).Draw(t, "gap") * ms // a full packet takes 1.2 ms
		for i := range rapid.IntRange(1, 600).Draw(t, "packets") {
			if rapid.IntRange(0, 49).Draw(t, "pause") == 0 { // about when an old cycle is forgotten
				now += rapid.Int64Range(0, 18*int64(r.Interval)).Draw(t, "long")
			}
			now += rapid.Int64Range(0, gap).Draw(t, "ns")
			take()
			at, size = append(at, now), append(size, rapid.IntRange(400, mtu).Draw(t, "size"))
			queue = append(queue, i)
			if l.Push(now, i, size[i], 0) != 0 {
				t.Fatal("refused")
			}
			take()
		}
		for l.Next() != Never {
			now = l.Next()
			take()
		}
		if !slices.Equal(got, want) {
			t.Fatalf("dropped %v, want %v", got, want)
		}
	})
}

// TestCoDelAnew: rules that name other times begin a new cycle, others leave it alone.
func TestCoDelAnew(t *testing.T) {
	drops := func(text string) int {
		l := NewLine[int](rules(t, "rate:10mbit,policy:codel"), 1, DefaultBounds)
		for i := range 200 { // 200 ms of the link
			l.Push(0, i, 1250, 0)
		}
		l.Pop(104 * ms) // above the target since 5 ms: the first goes at 105
		l.SetRules(104*ms, rules(t, text))
		l.Pop(150 * ms)
		return 200 - 151 - l.queue.len() // one has gone on the wire each ms, from 0 on
	}
	require.NotZero(t, drops("rate:10mbit,policy:codel,loss:1%"))
	require.Zero(t, drops("rate:10mbit,policy:codel,interval:101ms"))
	require.Zero(t, drops("rate:10mbit"))
}

// TestSeed: one seed, one outcome; another one, another. A rule that is added changes
// nothing about the others' draws.
func TestSeed(t *testing.T) {
	run := func(text string, seed uint64) string {
		l := NewLine[int](rules(t, text), seed, DefaultBounds)
		return fmt.Sprint(pass(l, 2000, 100, ms), l.Stats())
	}
	const all = "loss:5%,corrupt:3%,duplicate:2%,delay:5ms±3ms,reorder:10%,rate:10mbit"
	require.Equal(t, run(all, 1), run(all, 1))
	require.NotEqual(t, run(all, 1), run(all, 2))

	lost := func(text string) (ids []int) {
		l := NewLine[int](rules(t, text), 9, DefaultBounds)
		for i := range 2000 {
			if l.Judge(false).Fault == Lost {
				ids = append(ids, i)
			}
		}
		return ids
	}
	require.Equal(t, lost("loss:5%"), lost("loss:5%,corrupt:50%,duplicate:50%"))
}

func TestDropSYN(t *testing.T) {
	l := NewLine[int](rules(t, "drop-syn:2"), 1, DefaultBounds)
	var faults []Fault
	for _, syn := range []bool{false, true, false, true, true, true} {
		faults = append(faults, l.Judge(syn).Fault)
	}
	require.Equal(t, []Fault{0, SYNDropped, 0, SYNDropped, 0, 0}, faults)
	l.SetRules(0, l.Rules())
	require.Equal(t, SYNDropped, l.Judge(true).Fault, "setting the rules counts anew")
}

// TestSetRules: what waits when the rules go leaves at once, in order.
func TestSetRules(t *testing.T) {
	l := NewLine[int](rules(t, "rate:8kbit,delay:10s"), 1, DefaultBounds)
	for i := range 10 {
		l.Push(0, i, 1000, 0)
	}
	l.Pop(3_500 * ms) // three are in the delay, one on the wire
	l.SetRules(4_000*ms, Rules{})
	require.Equal(t, 4_000*ms, l.Next())
	for i := range 10 {
		it, ok := l.Pop(4_000 * ms)
		require.True(t, ok, i)
		require.Equal(t, i, it.V)
	}
	require.Equal(t, int64(Never), l.Next())
}

// TestNext: who looks at a line when it says misses nobody's time, though what waits for
// the rate may overtake what is in the delay.
func TestNext(t *testing.T) {
	for _, text := range []string{
		"rate:10mbit,delay:100ms,reorder:50%",
		"rate:10mbit,delay:100ms±90ms",
		"rate:10mbit,delay:100ms,policy:codel",
	} {
		l := NewLine[int](rules(t, "delay:200ms"), 1, DefaultBounds)
		l.Push(0, -1, 1250, 0)
		l.SetRules(0, rules(t, "rate:10mbit,delay:1s")) // what waits in the old delay stays there
		l.SetRules(0, rules(t, text))
		for i := range 300 {
			l.Push(0, i, 1250, 0)
		}
		for l.Next() != Never {
			now := l.Next()
			for it, ok := l.Pop(now); ok; it, ok = l.Pop(now) {
				if !it.Fault.Dropped() {
					require.Equal(t, it.Due, now, "%s: %d", text, it.V)
				}
			}
		}
	}
}

// TestLaw drives a line with anything: nothing is lost unseen, nothing comes twice,
// nothing comes early, the bounds hold.
func TestLaw(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Bounds{Packets: rapid.IntRange(1, 50).Draw(t, "packets"), Bytes: rapid.IntRange(2000, 50000).Draw(t, "bytes")}
		l := NewLine[int](genRules(t), rapid.Uint64().Draw(t, "seed"), b)
		now, id, out := int64(0), 0, map[int]bool{}
		check := func() {
			s := l.Stats()
			if s.Arrived+s.Duplicated != s.Passed+s.Dropped()+uint64(s.Waiting) {
				t.Fatalf("law: %+v", s)
			}
			if s.Waiting > b.Packets || s.WaitingBytes > b.Bytes {
				t.Fatalf("bounds: %+v", s)
			}
			if (s.Waiting == 0) != (l.Next() == Never) {
				t.Fatalf("%d wait, next is %d", s.Waiting, l.Next())
			}
		}
		take := func(it Item[int], ok bool) bool {
			if ok && out[it.V] {
				t.Fatalf("%d came twice", it.V)
			}
			out[it.V] = true
			return ok
		}
		t.Repeat(map[string]func(*rapid.T){
			"send": func(t *rapid.T) {
				v := l.Judge(rapid.Bool().Draw(t, "syn"))
				size := rapid.IntRange(1, 1500).Draw(t, "size")
				if v.Fault.Dropped() {
					return
				}
				id++
				l.Push(now, id, size, v.Fault)
				if v.Copy {
					id++
					l.Push(now, id, size, v.Fault|Duplicated)
				}
			},
			"wait": func(t *rapid.T) { now += rapid.Int64Range(0, 100*ms).Draw(t, "ns") },
			"pop": func(t *rapid.T) {
				next := l.Next()
				it, ok := l.Pop(now)
				if take(it, ok) && next > now && !it.Fault.Dropped() {
					t.Fatalf("came at %d, %d was next", now, next)
				}
			},
			"set":   func(t *rapid.T) { l.SetRules(now, genRules(t)) },
			"drain": func(t *rapid.T) { take(l.Drain()) },
			"":      func(t *rapid.T) { check() },
		})
	})
}

// TestPassAllocates nothing once a line has its size.
func TestPassAllocates(t *testing.T) {
	l := NewLine[int](rules(t, "loss:1%,corrupt:1%,delay:1ms±1ms,rate:1gbit,policy:codel"), 1, DefaultBounds)
	now := int64(0)
	one := func() {
		now += 10_000
		if v := l.Judge(false); !v.Fault.Dropped() {
			l.Push(now, 1, 1000, v.Fault)
		}
		for _, ok := l.Pop(now); ok; _, ok = l.Pop(now) {
		}
	}
	for range 10_000 {
		one()
	}
	require.Zero(t, testing.AllocsPerRun(1000, one))
}
