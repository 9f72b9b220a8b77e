package demux_test

import (
	"fmt"
	"net/netip"
	"time"

	"porthole/demux"
	"porthole/demux/packet"
)

// A queue on a virtual clock: time is what Options.Now says, and nothing runs but the
// calls. For 10 s, 1,000 datagrams come a second and the owner takes 950: a full queue
// keeps all of them waiting, whichever end it drops, while CoDel keeps it from filling.
func ExampleTable_SetPolicy() {
	for _, d := range demux.Disciplines() {
		var now time.Duration
		t := demux.New(demux.Options{Now: func() int64 { return int64(now) }})
		host := netip.MustParseAddrPort("10.77.0.1:53")
		t.SetAddrs(demux.NewAddrs(netip.PrefixFrom(host.Addr(), 24)))
		port := demux.UDPPort(53)
		if err := t.Bind(port, demux.Config{
			Owner: "lab", Socket: true, // the caller takes packets out itself
			Limits: demux.Limits{Packets: 100, Bytes: 1 << 20},
			Policy: demux.Policy{Discipline: d},
		}); err != nil {
			panic(err)
		}
		in := t.NewIngress(nil)
		var waited, worst time.Duration
		taken := 0
		for ; now < 10*time.Second; now += time.Millisecond {
			n := packet.PutUDP(in.Room(0), netip.MustParseAddrPort("10.77.0.2:4000"), host, 64, 1, nil)
			in.Put(0, n, &demux.Offload{})
			in.Deliver(1)
			if now%(20*time.Millisecond) == 0 {
				continue
			}
			if p, ok, _ := t.Pop(port); ok {
				wait := now - time.Duration(p.At())
				waited, worst = waited+wait, max(worst, wait)
				taken++
				t.Free(p)
			}
		}
		s := t.Port(port)
		fmt.Printf("%-9v %4d taken, mean wait %3v, worst %3v; %3d queue-full, %3d head-drop, %3d codel-drop, %3d queued\n",
			d, s.Fates[demux.ToService], (waited / time.Duration(taken)).Round(time.Millisecond), worst,
			s.Fates[demux.QueueFull], s.Fates[demux.HeadDropped], s.Fates[demux.CoDelDropped], s.Queued)
	}
	// Output:
	// tail-drop 9500 taken, mean wait 93ms, worst 105ms; 401 queue-full,   0 head-drop,   0 codel-drop,  99 queued
	// head-drop 9500 taken, mean wait 89ms, worst 99ms;   0 queue-full, 401 head-drop,   0 codel-drop,  99 queued
	// codel     9500 taken, mean wait 11ms, worst 28ms;   0 queue-full,   0 head-drop, 493 codel-drop,   7 queued
}
