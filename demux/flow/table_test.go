package flow

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"porthole/demux"
	"porthole/demux/packet"
	"porthole/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// TestTable compares a table with the simplest one: a list in the order of use.
func TestTable(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		limit := rapid.IntRange(1, 20).Draw(r, "limit")
		tab := New(Options{Flows: limit, Changes: 8})
		type model struct {
			key Key
			id  ID
			seq [2]uint32
		}
		var order []*model // least recently used first
		now, evicted, made := int64(0), 0, ID(0)
		for range rapid.IntRange(1, 120).Draw(r, "steps") {
			now += int64(rapid.IntRange(2, 9).Draw(r, "ms")) << 20
			n := rapid.IntRange(0, 30).Draw(r, "flow")
			k := Key{packet.TCP, netip.AddrPortFrom(hostAddr, 80), netip.AddrPortFrom(peerAddr, uint16(5000+n))}
			if n%2 == 1 {
				k.Local, k.Remote = netip.AddrPortFrom(hostAddr6, 80), netip.AddrPortFrom(peerAddr6, uint16(5000+n))
			}
			w := wire{nopTB{}, tab, now, k, uint32(n) << 27, uint32(n) << 28}
			var m *model
			for i, o := range order {
				if o.key == k {
					m = o
					order = append(order[:i], order[i+1:]...)
					break
				}
			}
			if m == nil {
				if len(order) == limit {
					order = order[1:]
					evicted++
				}
				made++
				m = &model{key: k, id: made, seq: [2]uint32{1, 1}}
				w.handshake()
			} else {
				d := Direction(rapid.IntRange(0, 1).Draw(r, "direction"))
				size := rapid.IntRange(0, 1400).Draw(r, "size")
				w.tap(d, w.segment(d, packet.ACK, m.seq[d], m.seq[1-d], size), Decision{Fate: demux.ToStack})
				m.seq[d] += uint32(size)
			}
			order = append(order, m)
		}
		flows := tab.Flows(now, Filter{})
		if len(flows) != len(order) {
			r.Fatalf("%d flows, not %d", len(flows), len(order))
		}
		for _, m := range order {
			f, ok := tab.Get(now, m.id)
			if !ok || f.Local != m.key.Local || f.Remote != m.key.Remote || f.Partial ||
				f.In.Bytes != uint64(m.seq[In]-1) || f.Out.Bytes != uint64(m.seq[Out]-1) || f.In.Resent+f.Out.Resent+f.In.Gaps > 0 {
				r.Fatalf("flow %v: %+v, %v, want %+v", m.id, f, ok, m)
			}
			k := m.key.key()
			if rec := tab.find(&k); rec == nil {
				r.Fatalf("flow %v is in no index", m.id)
			}
		}
		used := 0
		for i := range tab.index {
			if tab.index[i].Load() != 0 {
				used++
			}
		}
		if s := tab.Stats(); s.Evicted != uint64(evicted) || s.Seen != uint64(made) || used != len(order) {
			r.Fatalf("%+v and %d in the index, want %d evicted of %d", s, used, evicted, made)
		}
	})
}

// TestLadderProperty: a ladder keeps the first and the last rungs and knows how many
// are between, and gives its blocks back.
func TestLadderProperty(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		p := &rungs{}
		p.init(3)
		var l [3]ladder
		put := [3]int{}
		for range rapid.IntRange(0, 400).Draw(r, "steps") {
			i := rapid.IntRange(0, 2).Draw(r, "flow")
			if rapid.IntRange(0, 99).Draw(r, "drop") == 0 {
				p.drop(&l[i])
				put[i] = 0
				continue
			}
			put[i]++
			p.add(&l[i], rung{n: uint32(put[i])})
		}
		for i := range l {
			all, first, skipped := p.copy(nil, &l[i])
			if len(all)+int(skipped) != put[i] || len(all) > 2*Rungs || first > Rungs || put[i] > 0 && first == 0 {
				r.Fatalf("flow %d: %d put, %d kept, %d skipped", i, put[i], len(all), skipped)
			}
			for k, x := range all {
				if k < first-1 && int(x.n) != k+1 || k > 0 && x.n <= all[k-1].n || k == len(all)-1 && int(x.n) != put[i] {
					r.Fatalf("flow %d: rung %d of %d is number %d of %d", i, k, len(all), x.n, put[i])
				}
			}
		}
		for i := range l {
			p.drop(&l[i])
		}
		if p.single != 3 || p.extra != 9 || len(p.free) != int(p.made) {
			r.Fatalf("blocks are lost: %d of 3, %d of 9, %d free of %d", p.single, p.extra, len(p.free), p.made)
		}
	})
}

// TestLadderBound: the default ladder at its bound and beyond.
func TestLadderBound(t *testing.T) {
	tab := New(Options{Flows: 4})
	k := Key{packet.TCP, netip.AddrPortFrom(hostAddr, 80), netip.AddrPortFrom(peerAddr, 5000)}
	w := wire{t, tab, 0, k, 0, 0}
	for range 2 * Rungs {
		w.in(packet.SYN, 0, 0, 0)
	}
	f, _ := tab.Get(0, 1)
	require.Len(t, f.Ladder, 2*Rungs)
	require.Zero(t, f.Skipped)
	w.now = 7
	w.in(packet.SYN, 0, 0, 0)
	f, _ = tab.Get(0, 1)
	require.Len(t, f.Ladder, 2*Rungs)
	require.EqualValues(t, 1, f.Skipped)
	require.Equal(t, Rungs, f.Head)
	require.EqualValues(t, 7, f.Ladder[2*Rungs-1].At)
	var b bytes.Buffer
	require.NoError(t, f.WriteLadder(&b))
	require.Contains(t, b.String(), "... 1 more ...")
	require.Contains(t, f.Line(), "59 more")
}

// TestBytes: sequence numbers that wrap, more than once, are counted.
func TestBytes(t *testing.T) {
	tab := New(Options{Flows: 4})
	k := Key{packet.TCP, netip.AddrPortFrom(hostAddr, 80), netip.AddrPortFrom(peerAddr, 5000)}
	w := wire{t, tab, 0, k, 1<<32 - 10, 1<<31 - 10}
	w.handshake()
	const step = 60000
	seg := w.segment(In, packet.ACK, 1, 1, step)
	info, _ := packet.Parse(seg, len(seg))
	total := uint64(0)
	for total < 10<<30 {
		s := w.irs + 1 + uint32(total)
		seg[24], seg[25], seg[26], seg[27] = byte(s>>24), byte(s>>16), byte(s>>8), byte(s)
		tab.In(0, seg, &info, Decision{Fate: demux.ToStack})
		total += step
	}
	f, _ := tab.Get(0, 1)
	require.Equal(t, total, f.In.Bytes)
	require.Zero(t, f.In.Resent+f.In.Gaps)
}

// TestConcurrent has readers, workers, the host's senders, events and those who look,
// on few records, so that they are taken over all the time.
func TestConcurrent(t *testing.T) {
	tab := New(Options{Flows: 32, Ports: 2, PerPort: 16, Changes: 16})
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for n := range 3000 {
				p := uint16(5000 + (n*(g+1))%67)
				k := Key{packet.TCP, netip.AddrPortFrom(hostAddr, 80+p%5), netip.AddrPortFrom(peerAddr, p)}
				w := wire{nopTB{}, tab, int64(n) << 21, k, 0, 0}
				switch n % 5 {
				case 0:
					w.handshake()
				case 1:
					w.in(packet.ACK, 1, 1, 100)
					tab.Established(w.now, k, 1, 4)
				case 2:
					w.out(packet.ACK, 1, 101, 100)
					tab.Accepted(w.now, k, 5)
					tab.FirstRead(w.now, k)
				case 3:
					b := (&wire{TB: nopTB{}, k: Key{packet.UDP, netip.AddrPortFrom(hostAddr, p%7), k.Remote}}).datagram(In, 9)
					i, _ := packet.Parse(b, len(b))
					tab.In(w.now, b, &i, Decision{Fate: demux.QueueFull, Depth: 1, Limit: 1})
					tab.Read(w.now, b, &i, 1)
				case 4:
					w.in(packet.RST, 101, 0, 0)
				}
			}
		})
	}
	all.Go(func() {
		cursor := uint64(0)
		for n := range 200 {
			for _, f := range tab.Flows(int64(n), Filter{}) {
				_ = f.Line()
			}
			_, cursor, _ = tab.Since(int64(n), cursor, 0)
			tab.WhyLast(int64(n))
			tab.WhyPort(int64(n), demux.TCPPort(80))
			tab.Stats()
		}
	})
	all.Wait()
	require.Equal(t, 32, tab.Stats().Flows)
	used := 0
	for i := range tab.index {
		if e := tab.index[i].Load(); e != 0 {
			used++
			k := tab.cold[0][e&tab.low-1].k
			r, slot := tab.search(tab.hash(&k), &k)
			require.NotNil(t, r)
			require.Equal(t, e&tab.low-1, slot)
		}
	}
	require.LessOrEqual(t, used, 32)
}

// TestOff: a nil table is one that is switched off.
func TestOff(t *testing.T) {
	var tab *Table
	k := Key{packet.TCP, netip.AddrPortFrom(hostAddr, 80), netip.AddrPortFrom(peerAddr, 5000)}
	w := wire{t, tab, 0, k, 0, 0}
	w.handshake()
	tab.Admitted(0, k, 0, 0)
	tab.Refused(0, k, demux.SynQueueFull, 0, 0)
	tab.Established(0, k, 0, 0)
	tab.Accepted(0, k, 0)
	tab.FirstRead(0, k)
	tab.Idle(0, demux.TCPPort(80))
	tab.DoorLimits(80, 1, 1)
	tab.Held(0, demux.TCPPort(80), true)
	tab.Released(0, demux.TCPPort(80))
	require.Empty(t, tab.Flows(0, Filter{}))
	_, ok := tab.Get(0, 1)
	require.False(t, ok)
	_, ok = tab.WhyLast(0)
	require.False(t, ok)
	require.NotEmpty(t, tab.WhyPort(0, demux.TCPPort(80)).Text)
	_, _, missed := tab.Since(0, 0, 0)
	require.Zero(t, missed+uint64(tab.Stats().Flows))
}

// TestSteadyStateAllocatesNothing: data, whole connections at the bound, drops, events
// and datagrams, once all memory has been used once.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	const flows = 64
	r := newBulk(t, Options{Flows: flows, PerPort: 128}, flows)
	n := 0
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		n++
		require.True(t, r.send(int64(n)<<20, n%flows))
	}), "data")
	k := Key{packet.TCP, netip.AddrPortFrom(hostAddr, 80), netip.AddrPortFrom(peerAddr, 5000)}
	w := wire{t, r.t, 0, k, 0, 0}
	dg := wire{TB: t, k: Key{packet.UDP, netip.AddrPortFrom(hostAddr, 53), k.Remote}}
	type frame struct {
		b []byte
		i packet.Info
		d Direction
		f demux.Fate
	}
	var frames []frame
	for _, x := range []struct {
		d Direction
		b []byte
		f demux.Fate
	}{
		{In, w.segment(In, packet.SYN, 0, 0, 0, 2, 4, 5, 180, 4, 2), demux.AcceptQueueFull},
		{In, w.segment(In, packet.SYN, 0, 0, 0), demux.ToStack},
		{Out, w.segment(Out, packet.SYN|packet.ACK, 0, 1, 0), 0},
		{In, w.segment(In, packet.ACK, 1, 1, 0), demux.ToStack},
		{In, w.segment(In, packet.ACK, 1, 1, 500), demux.ToStack},
		{In, w.segment(In, packet.ACK, 1, 1, 500), demux.ToStack},
		{In, w.segment(In, packet.RST, 501, 0, 0), demux.ToStack},
		{In, dg.datagram(In, 100), demux.NoFate},
		{In, dg.datagram(In, 100), demux.QueueFull},
		{Out, dg.datagram(Out, 100), 0},
	} {
		i, p := packet.Parse(x.b, len(x.b))
		require.Equal(t, packet.None, p)
		frames = append(frames, frame{x.b, i, x.d, x.f})
	}
	round := func() {
		n++
		for k := range frames {
			f := &frames[k]
			f.b[15] = byte(n) // another client each time
			if f.d == Out {
				f.b[15], f.b[19] = hostAddr.As4()[3], byte(n)
			}
			if f.d == In {
				r.t.In(int64(n)<<20, f.b, &f.i, Decision{Fate: f.f, Depth: 4, Limit: 4})
			} else {
				r.t.Out(int64(n)<<20, f.b, &f.i)
			}
		}
		r.t.Read(int64(n)<<20, frames[7].b, &frames[7].i, 5)
		key := Key{packet.TCP, k.Local, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 77, 0, byte(n)}), 5000)}
		r.t.Established(int64(n)<<20, key, 1, 4)
		r.t.Accepted(int64(n)<<20, key, 77)
		r.t.FirstRead(int64(n)<<20, key)
		r.t.Idle(int64(n)<<20, demux.TCPPort(80))
	}
	for range 300 {
		round()
	}
	require.Zero(t, testing.AllocsPerRun(500, round), "connections")
}

// TestJSON: a flow is the same after a journey through JSON, and its text too.
func TestJSON(t *testing.T) {
	tab := New(Options{Start: zero})
	k := Key{packet.TCP, netip.AddrPortFrom(hostAddr, 80), netip.AddrPortFrom(peerAddr, 5000)}
	w := wire{t, tab, 0, k, 1000, 7000}
	w.tap(In, w.segment(In, packet.SYN, 0, 0, 0, 2, 4, 5, 180, 3, 3, 7, 34, 6, 1, 2, 3, 4), Decision{Fate: demux.AcceptQueueFull, Depth: 1, Limit: 1})
	w.now = 1e9
	w.handshake()
	tab.Established(w.now, k, 1, 2)
	tab.Accepted(w.now, k, 3e6)
	w.in(packet.ACK|packet.PSH, 1, 1, 10)
	w.tap(In, w.segment(In, packet.ACK, 11, 1, 10), Decision{Fate: demux.QueueFull, Depth: 1, Limit: 1})
	w.in(packet.ACK, 11, 1, 10)
	w.out(packet.FIN|packet.ACK, 1, 21, 0)
	f, ok := tab.Get(w.now, 1)
	require.True(t, ok)
	b, err := json.Marshal(f)
	require.NoError(t, err)
	var g Flow
	require.NoError(t, json.Unmarshal(b, &g))
	require.Equal(t, f, g)
	require.Equal(t, f.Line(), g.Line())
	for _, bad := range []string{`{"what":"x"}`, `{"what":"data","fate":"x"}`, `[]`} {
		var r Rung
		require.Error(t, json.Unmarshal([]byte(bad), &r))
	}
	var s State
	require.Error(t, s.UnmarshalText([]byte("no")))
}

func TestParseID(t *testing.T) {
	for _, id := range []ID{1, 35, 36, 1 << 40} {
		got, err := ParseID(id.String())
		require.NoError(t, err)
		require.Equal(t, id, got)
	}
	for _, bad := range []string{"", "f", "1", "f0", "f01", "fA", "f-1", "f+1", "last", "80/tcp", "fzzzzzzzzzzzzzz"} {
		_, err := ParseID(bad)
		require.Error(t, err, bad)
	}
}

// TestRecorders: ports beyond the bound are not recorded until one has been idle, and
// a ring that has wrapped says what it lost.
func TestRecorders(t *testing.T) {
	var rs recorders
	rs.init(Options{Ports: 2, PerPort: 100})
	p := func(n int) demux.Port { return demux.TCPPort(uint16(n)) }
	for i := range 250 {
		rs.add(p(1), event{at: int64(i)})
	}
	rs.add(p(2), event{at: 250})
	rs.add(p(3), event{at: 251})
	require.EqualValues(t, 1, rs.unrecorded.Load())
	rec := rs.record(p(1), 0)
	evs, missed := rec.events, rec.missed
	require.Len(t, evs, 100)
	require.EqualValues(t, 150, missed)
	require.EqualValues(t, 150, evs[0].at)
	rs.add(p(3), event{at: 249 + idlePort})
	evs = rs.record(p(3), 0).events
	require.Len(t, evs, 1)
	evs = rs.record(p(1), 0).events
	require.Empty(t, evs, "the idlest made room")
	evs = rs.record(p(2), 0).events
	require.Len(t, evs, 1)
	rs.add(demux.LaneClosed, event{})
	require.EqualValues(t, 2, rs.unrecorded.Load())
}

// FuzzTaps: whatever comes, nothing panics, and the ledger of records holds.
func FuzzTaps(f *testing.F) {
	k := Key{packet.TCP, netip.AddrPortFrom(hostAddr, 80), netip.AddrPortFrom(peerAddr, 5000)}
	w := wire{f, nil, 0, k, 1 << 31, 1<<32 - 1}
	f.Add(append(append([]byte{0, 0, 9, 40}, w.segment(In, packet.SYN, 0, 0, 0)...), append([]byte{1, 0, 0, 40}, w.segment(Out, packet.SYN|packet.ACK, 0, 1, 0)...)...))
	f.Add(append([]byte{0, 1, 15, 50}, w.segment(In, packet.ACK, 1, 1, 10)...))
	f.Add(append([]byte{2, 1, 7, 38}, (&wire{TB: f, k: Key{packet.UDP, k.Local, k.Remote}}).datagram(In, 10)...))
	f.Fuzz(func(t *testing.T, in []byte) {
		tab := New(Options{Flows: 4, PerPort: 8, Changes: 4, Start: zero})
		now := int64(0)
		for len(in) > 4 {
			what, fate, wait, n := in[0], in[1], in[2], min(int(in[3]), len(in)-4)
			b := in[4 : 4+n]
			in = in[4+n:]
			now += int64(wait) * 1e8
			i, p := packet.Parse(b, len(b))
			if p != packet.None {
				continue
			}
			switch what % 4 {
			case 0:
				tab.In(now, b, &i, Decision{demux.Fate(fate) % demux.Fate(demux.NumFates), uint32(wait), 3, 99, 999, 0})
			case 1:
				tab.Out(now, b, &i)
			case 2:
				tab.Read(now, b, &i, int64(wait))
			case 3:
				if i.Kind <= packet.UDP {
					w := keyOf(In, b, &i)
					k := w.public()
					if k.key() != w {
						t.Fatalf("key %+v is %+v", w, k)
					}
					tab.Established(now, k, 1, 2)
					tab.Accepted(now, k, int64(wait))
					tab.FirstRead(now, k)
				}
			}
		}
		for _, fl := range tab.Flows(now, Filter{}) {
			_ = fl.Line()
			if err := fl.WriteLadder(&bytes.Buffer{}); err != nil {
				t.Fatal(err)
			}
			if len(fl.Ladder) == 0 || len(fl.Ladder) > 2*Rungs {
				t.Fatalf("%v has %d rungs", fl.ID, len(fl.Ladder))
			}
			w, ok := tab.WhyFlow(now, fl.ID)
			if !ok || w.Text == "" || w.Cause == "" {
				t.Fatalf("why %v: %+v", fl.ID, w)
			}
			_ = tab.WhyPort(now, fl.demuxPort())
			if _, err := json.Marshal(fl); err != nil {
				t.Fatal(err)
			}
		}
		if s := tab.Stats(); uint64(s.Flows)+s.Evicted != s.Seen {
			t.Fatal(fmt.Sprint(s))
		}
	})
}

// TestFloodLeavesOthers: what closed ports and full queues refuse of strangers takes no
// more than its share of the table, and what goes without is counted. A flow that is
// known keeps what its queue refuses.
func TestFloodLeavesOthers(t *testing.T) {
	for _, fate := range []demux.Fate{demux.Closed, demux.SynQueueFull, demux.QueueFull} {
		t.Run(fate.String(), func(t *testing.T) {
			tab := New(Options{Flows: 1 << 13})
			w := wire{TB: t, t: tab, k: Key{packet.TCP, netip.AddrPortFrom(hostAddr, 80), netip.AddrPortFrom(peerAddr, 5000)}, irs: 1000, iss: 9000}
			w.handshake()
			stranger := w
			const n = 100_000
			for i := range n { // in one second
				w.now = int64(i) * 10_000
				stranger.now = w.now
				stranger.k.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), uint16(6000+i>>16))
				stranger.tap(In, stranger.segment(In, packet.SYN, 0, 0, 0), Decision{Fate: fate})
			}
			s := tab.Stats()
			require.InDelta(t, refusedBurst+refusedPerSecond, s.Seen-1, 2)
			require.EqualValues(t, n, s.Seen-1+s.Skipped)
			require.Zero(t, s.Evicted)
			if fate.Dropped() {
				w.tap(In, w.segment(In, packet.ACK, 1, 1, 10), Decision{Fate: fate})
				f := tab.Flows(w.now, Filter{Remote: peerAddr})
				require.Equal(t, s, tab.Stats())
				require.True(t, slices.ContainsFunc(f, func(f Flow) bool { return f.Remote == w.k.Remote && f.Dropped == 1 }))
			}
		})
	}
}
