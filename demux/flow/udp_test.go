package flow

import (
	"net/netip"
	"sort"
	"testing"
	"time"

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
// service reads one by one, and returns how many were refused.
func playUDP(lim demux.Limits, all []datagramAt, busy, before time.Duration, told bool, flows *Table) (refused int) {
	const port = 53
	p := demux.UDPPort(port)
	t := demux.New(demux.Options{})
	t.SetAddrs(demux.NewAddrs(netip.PrefixFrom(hostAddr, 24)))
	if err := t.Bind(p, demux.Config{Owner: "test", Limits: lim, Socket: true}); err != nil {
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
	for i, d := range all {
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
		} else {
			if len(came) == 0 {
				head = d.at
			}
			came = append(came, d.at)
		}
		if flows != nil {
			info, _ := packet.Parse(b, len(b))
			flows.In(int64(d.at), b, &info, dec)
		}
	}
	serve(time.Hour)
	return int(last)
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
		flows := New(Options{Start: zero})
		refused := playUDP(lim, all, busy, before, told, flows)
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
			if got := playUDP(c, all, busy, before, told, nil); got != 0 {
				r.Fatalf("%s=%d refuses %d: %s", s.Limit, s.Enough, got, why.Text)
			}
			if got := playUDP(less, all, busy, before, told, nil); got == 0 {
				r.Fatalf("%s=%d, and one less refuses none: %s", s.Limit, s.Enough, why.Text)
			}
		}
		if got := playUDP(enough, all, busy, before, told, nil); got != 0 {
			r.Fatalf("%+v still refuses %d: %s", enough, got, why.Text)
		}
	})
}
