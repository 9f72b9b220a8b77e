package flow

import (
	"net/netip"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"porthole/demux"
	"porthole/demux/packet"
)

// datagramAt is one that comes from a client.
type datagramAt struct {
	at   time.Duration
	size int
}

// playUDP sends datagrams into the port of a real table on a virtual clock, which a
// service reads one by one, and returns how many were lost.
func playUDP(lim demux.Limits, d demux.Discipline, all []datagramAt, busy, before time.Duration, told bool, flows *Table) (lost int) {
	const port = 53
	p := demux.UDPPort(port)
	t := demux.New(demux.Options{})
	t.SetAddrs(demux.NewAddrs(netip.PrefixFrom(hostAddr, 24)))
	if err := t.Bind(p, demux.Config{Owner: "test", Limits: lim, Socket: true, Policy: demux.Policy{Discipline: d}}); err != nil {
		panic(err)
	}
	came := []time.Duration{} // of what is queued
	free, head, idle := time.Duration(0), time.Duration(0), time.Duration(0)
	serve := func(until time.Duration) {
		for len(came) > 0 {
			at := max(free, head) + before
			if at > until {
				return
			}
			pkt, _, _ := t.Pop(p)
			if flows != nil {
				flows.Read(int64(at), pkt.IP(), pkt.Info(), int64(at-came[0]))
			}
			t.Free(pkt)
			came = came[1:]
			free, head = at+busy, at
			if idle = free; len(came) > 0 {
				idle = -1
			}
		}
	}
	last := uint64(0)
	now := time.Duration(0)
	t.SetTap(func(_ demux.Port, pkt demux.Packet, f demux.Fate, depth, limit, bytes, maxBytes uint32) {
		if f != demux.HeadDropped {
			return
		}
		if flows != nil {
			flows.Lost(int64(now), pkt.IP(), pkt.Info(), Decision{f, depth, limit, bytes, maxBytes, 0}, int64(now-came[0]))
		}
		came = came[1:]
		lost++
	})
	for i, d := range all {
		now = d.at
		lostBefore := lost
		serve(d.at - 1)
		if flows != nil && told && idle >= 0 && len(came) == 0 && idle <= d.at {
			flows.Idle(int64(idle), p)
			idle = -1
		}
		w := wire{TB: nopTB{}, k: Key{packet.UDP, netip.AddrPortFrom(hostAddr, port), netip.AddrPortFrom(peerAddr, uint16(1024+i%7))}}
		b := w.datagram(In, d.size)
		was := t.Port(p)
		t.Inject(demux.Reassembled, demux.Offload{}, b)
		st := t.Port(p)
		dec := Decision{Depth: uint32(was.Queued), Limit: uint32(was.Limits.Packets), Bytes: uint32(was.Bytes), LimitBytes: uint32(was.Limits.Bytes)}
		if n := st.Fates[demux.QueueFull]; n > last {
			last, dec.Fate = n, demux.QueueFull
			lost++
		} else {
			if len(came) == 0 && lost == lostBefore {
				head = d.at // what a head drop takes away has woken the service
			}
			came = append(came, d.at)
		}
		if flows != nil {
			info, _ := packet.Parse(b, len(b))
			flows.In(int64(d.at), b, &info, dec)
		}
	}
	serve(time.Hour)
	if flows != nil && told && idle >= 0 && len(came) == 0 {
		flows.Idle(int64(idle), p)
	}
	return lost
}

// TestWhyUDPProof: the queue that why asks for refuses nothing, one less does.
func TestWhyUDPProof(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(2, 120).Draw(r, "datagrams")
		span := rapid.SampledFrom([]time.Duration{0, time.Millisecond, time.Second}).Draw(r, "span")
		all := make([]datagramAt, n)
		for i := range all {
			at := time.Duration(rapid.Int64Range(0, int64(span)).Draw(r, "at"))
			all[i] = datagramAt{at&^127 + time.Duration(i), rapid.SampledFrom([]int{0, 1, 40, 512, 1400}).Draw(r, "size")}
		}
		sort.Slice(all, func(i, k int) bool { return all[i].at < all[k].at })
		busy := rapid.SampledFrom([]time.Duration{0, 7 * time.Microsecond, 5*time.Millisecond + 1, 30 * time.Millisecond}).Draw(r, "busy")
		before := time.Duration(0)
		if rapid.Bool().Draw(r, "delay") {
			busy, before = 0, busy
		}
		// Departures alone do not tell a read of microseconds from a late wake-up.
		told := rapid.Bool().Draw(r, "told") || busy+before > 0 && busy+before < wakeLatency
		lim := demux.Limits{Packets: rapid.SampledFrom([]int{1, 4, 64, 4000}).Draw(r, "queue"),
			Bytes: rapid.SampledFrom([]int{2000, 9000, 1 << 20}).Draw(r, "queue-bytes")}
		d := rapid.SampledFrom([]demux.Discipline{demux.TailDrop, demux.HeadDrop}).Draw(r, "policy")
		told = told || d == demux.HeadDrop
		flows := New(Options{Start: zero})
		refused := playUDP(lim, d, all, busy, before, told, flows)
		why := flows.WhyPort(int64(time.Hour), demux.UDPPort(53))
		if refused == 0 {
			if why.Cause != Nothing {
				r.Fatalf("nothing was refused, and why says %+v", why)
			}
			return
		}
		if len(why.Sizes) == 0 {
			r.Fatalf("%d refused and no size: %s", refused, why.Text)
		}
		enough := lim
		for _, s := range why.Sizes {
			c, less := demux.Limits{Packets: 4000, Bytes: 1 << 20}, demux.Limits{Packets: 4000, Bytes: 1 << 20}
			if s.Limit == "queue" {
				enough.Packets, c.Packets, less.Packets = s.Enough, s.Enough, s.Enough-1
			} else {
				enough.Bytes, c.Bytes, less.Bytes = s.Enough, s.Enough, s.Enough-1
			}
			if got := playUDP(c, d, all, busy, before, told, nil); got != 0 {
				r.Fatalf("%s=%d refuses %d: %s", s.Limit, s.Enough, got, why.Text)
			}
			if got := playUDP(less, d, all, busy, before, told, nil); got == 0 {
				r.Fatalf("%s=%d, and one less refuses none: %s", s.Limit, s.Enough, why.Text)
			}
		}
		if got := playUDP(enough, d, all, busy, before, told, nil); got != 0 {
			r.Fatalf("%+v still refuses %d: %s", enough, got, why.Text)
		}
	})
}

// TestWhyPolicies: what a policy drops counts once in its flow, stands in its ladder
// when it was dropped, and is explained; no size is promised that CoDel would not keep.
func TestWhyPolicies(t *testing.T) {
	const port = 53
	for d, want := range map[demux.Discipline][]string{
		demux.HeadDrop: {"53/udp: 4 of 7 datagrams dropped from the head of the queue, 3/3 full, the last 3599 s ago. queue=7 would have been enough.",
			"4 of 7 datagrams dropped, the oldest of the queue of 53/udp, 3/3 full. queue=7 would have been enough. Its first datagram waited 400 ms in the queue for the service."},
		demux.CoDel: {"53/udp: 3 of 7 datagrams dropped by CoDel, 1.0 s in its queue, the last 3599 s ago. All that was taken had waited longer than codel-target for codel-interval, as 4.1/s came and the service read 2.4/s; a larger queue would not have helped, a faster service would.",
			"3 of 7 datagrams dropped by CoDel as they were taken from the queue of 53/udp. All that was taken had waited longer than codel-target for codel-interval, as 4.1/s came and the service read 2.4/s; a larger queue would not have helped, a faster service would. Its first datagram waited 800 ms in the queue for the service."},
	} {
		var now time.Duration
		flows := New(Options{Start: zero})
		q := demux.New(demux.Options{Now: func() int64 { return int64(now) }})
		q.SetAddrs(demux.NewAddrs(netip.PrefixFrom(hostAddr, 24)))
		lim := demux.Limits{Packets: 3}
		if d == demux.CoDel {
			lim.Packets = 100
		}
		require.NoError(t, q.Bind(demux.UDPPort(port), demux.Config{Socket: true, Limits: lim, Policy: demux.Policy{Discipline: d}}))
		q.SetTap(func(_ demux.Port, p demux.Packet, f demux.Fate, depth, limit, bytes, maxBytes uint32) {
			dec := Decision{f, depth, limit, bytes, maxBytes, 0}
			switch f {
			case demux.HeadDropped, demux.CoDelDropped:
				flows.Lost(int64(now), p.IP(), p.Info(), dec, int64(now)-p.At())
				return
			case demux.NoFate:
				dec.Depth, dec.Bytes = depth-1, bytes-demux.Overhead-100
			}
			flows.In(p.At(), p.IP(), p.Info(), dec)
		})
		w := wire{TB: t, k: Key{packet.UDP, netip.AddrPortFrom(hostAddr, port), netip.AddrPortFrom(peerAddr, 1024)}}
		flows.Idle(0, demux.UDPPort(port))
		for range 7 {
			q.Inject(demux.Reassembled, demux.Offload{}, w.datagram(In, 100))
			now += 100 * time.Millisecond
		}
		for now = 800 * time.Millisecond; now < 2*time.Second; now += 300 * time.Millisecond {
			if p, ok, _ := q.Pop(demux.UDPPort(port)); ok {
				flows.Read(int64(now), p.IP(), p.Info(), int64(now)-p.At())
				q.Free(p)
			}
		}
		require.Equal(t, want[0], flows.WhyPort(int64(time.Hour), demux.UDPPort(port)).Text)
		why, ok := flows.WhyLast(int64(time.Hour))
		require.True(t, ok)
		require.Equal(t, want[1], why.Text)
		require.EqualValues(t, 7, why.Flow.In.Datagrams)
	}
}

// TestWhyHeldService: a service that took quickly and then nothing any more is not
// taken for one that goes on so: all that came since has to find room.
func TestWhyHeldService(t *testing.T) {
	for name, idle := range map[string]bool{"busy": false, "idle": true} {
		t.Run(name, func(t *testing.T) {
			flows := New(Options{Start: zero})
			w := wire{TB: t, t: flows, k: Key{packet.UDP, netip.AddrPortFrom(hostAddr, 53), netip.AddrPortFrom(peerAddr, 1024)}}
			b := w.datagram(In, 10)
			i, _ := packet.Parse(b, len(b))
			port := demux.UDPPort(53)
			now := int64(0)
			for range 10 {
				now += int64(time.Millisecond)
				flows.Idle(now, port)
				flows.In(now+1000, b, &i, Decision{Limit: 4})
				flows.Read(now+2000, b, &i, 1000)
			}
			if idle {
				flows.Idle(now+3000, port)
			}
			for n := range uint32(20) {
				now += int64(10 * time.Millisecond)
				d := Decision{Depth: min(n, 4), Limit: 4}
				if n >= 4 {
					d.Fate = demux.QueueFull
				}
				flows.In(now, b, &i, d)
			}
			require.Equal(t, "53/udp: 16 of 30 datagrams refused, queue 4/4 full, the last 1 s ago. queue=20 would have been enough.",
				flows.WhyPort(now+int64(time.Second), port).Text)
		})
	}
}

// TestWhyBothEnds: a port that has lost datagrams at both ends of its queue says how many
// at each, and a queue that was full by its bytes says of how many.
func TestWhyBothEnds(t *testing.T) {
	flows := New(Options{Start: zero})
	k := Key{packet.UDP, netip.AddrPortFrom(hostAddr, 53), netip.AddrPortFrom(peerAddr, 1024)}
	come := func(d Decision) {
		w := wire{TB: t, t: flows, k: k}
		w.tap(In, w.datagram(In, 448), d)
	}
	why := func() string {
		text, _, _ := strings.Cut(flows.WhyPort(0, demux.UDPPort(53)).Text, ", the last")
		return text
	}
	come(Decision{Limit: 64, LimitBytes: 1024})
	come(Decision{Fate: demux.QueueFull, Depth: 1, Limit: 64, Bytes: 1024, LimitBytes: 1024})
	come(Decision{Fate: demux.QueueFull, Depth: 1, Limit: 64, Bytes: 1024, LimitBytes: 1024})
	require.Equal(t, "53/udp: 2 of 3 datagrams refused, queue full by its bytes, 1024/1024", why())
	w := wire{TB: t, k: k}
	b := w.datagram(In, 448)
	i, _ := packet.Parse(b, len(b))
	flows.Lost(0, b, &i, Decision{Fate: demux.HeadDropped, Depth: 1, Limit: 1, Bytes: 1024, LimitBytes: 9000}, 0)
	require.Equal(t, "53/udp: 2 of 3 datagrams refused and 1 dropped from the head of the queue, 1/1 full", why())
}
