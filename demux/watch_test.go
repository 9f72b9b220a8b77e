package demux

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/demux/packet"
)

// The watcher sees every packet that gets its fate in this package, once, with what
// it found queued and how long it waited. To-stack and its like are told by whoever
// serves.
func TestWatcher(t *testing.T) {
	now := int64(0)
	r := newRig(Options{Now: func() int64 { return now }})
	dns, web := UDPPort(53), TCPPort(80)
	require.NoError(t, r.t.Bind(dns, Config{Socket: true, Limits: Limits{Packets: 3}}))
	require.NoError(t, r.t.Bind(web, Config{Limits: Limits{Packets: 2}}))
	var got []string
	w := &Watcher{In: func(p Packet, s Sight) {
		n := binary.BigEndian.Uint32(p.Frame()[len(p.Frame())-4:])
		got = append(got, fmt.Sprintf("%v %d %v found %d waited %d", s.Line, n, s.Fate, p.Depth(), s.Now-p.At()))
	}}
	datagram := func(n uint32) []byte { return udp4(4000, 53, numbered(n, 4)...) }
	segment := func(n uint32) []byte { return tcp4(4000, 80, packet.ACK, numbered(n, 4)...) }

	r.send(datagram(1)) // queued before anybody looks: its fate comes later
	r.t.SetWatcher(w)
	now = 5
	r.send(datagram(2), datagram(3), datagram(4), segment(5), segment(6), segment(7))
	broken := datagram(8)
	broken[20]++ // its source port
	r.send(broken)
	now = 12
	p, ok, err := r.t.Pop(dns)
	require.True(t, ok)
	require.NoError(t, err)
	r.t.Free(p)
	r.t.Release(dns)
	now = 20
	r.t.Drain()
	require.Equal(t, []string{
		"53/udp 4 queue-full found 3 waited 0",
		"80/tcp 7 queue-full found 2 waited 0",
		"host 8 bad-checksum found 0 waited 0",
		"53/udp 1 to-service found 0 waited 12",
		"53/udp 2 port-released found 1 waited 7",
		"53/udp 3 port-released found 2 waited 7",
		"80/tcp 5 host-stopped found 0 waited 15",
		"80/tcp 6 host-stopped found 1 waited 15",
	}, got)

	got = nil
	require.NoError(t, r.t.Bind(dns, Config{Socket: true, Limits: Limits{Packets: 3}, Policy: Policy{Discipline: HeadDrop}}))
	r.send(datagram(1), datagram(2), datagram(3))
	now = 30
	r.send(datagram(4))
	require.NoError(t, r.t.SetPolicy(dns, Policy{CoDel, 5, 10}))
	for now = 35; now <= 45; now += 10 {
		p, _, _ := r.t.Pop(dns)
		r.t.Free(p)
		r.send(datagram(uint32(now)))
	}
	require.Equal(t, []string{
		"53/udp 1 head-drop found 0 waited 10",
		"53/udp 2 to-service found 1 waited 15",
		"53/udp 3 codel-drop found 2 waited 25",
		"53/udp 4 to-service found 2 waited 15",
	}, got)

	// A reader that gives back what it holds for an owner who has gone.
	r.t.Release(dns)
	got = nil
	require.NoError(t, r.t.Bind(dns, Config{Socket: true}))
	r.t.SetInline(dns, true)
	_, _, err = r.t.Pop(dns)
	require.NoError(t, err)
	put(r.in, 0, datagram(9), Offload{})
	runs := r.in.Deliver(1)
	require.Len(t, runs, 1)
	r.in.ServeRun(runs[0], func(Port, Packet) Fate {
		r.t.Release(dns)
		return NoFate
	})
	require.Equal(t, []string{"53/udp 9 port-released found 0 waited 0"}, got)

	r.t.SetWatcher(nil)
	got = nil
	r.send(broken)
	require.Empty(t, got)
	r.law(t)
}

// The path of a packet allocates nothing, watched or not.
func TestWatcherAllocatesNothing(t *testing.T) {
	r := newRig(Options{Now: func() int64 { return 1 }})
	require.NoError(t, r.t.Bind(UDPPort(53), Config{Socket: true, Limits: Limits{Packets: 1}}))
	f := udp4(4000, 53, numbered(1, 4)...)
	seen := 0
	r.t.SetWatcher(&Watcher{In: func(Packet, Sight) { seen++ }})
	require.Zero(t, testing.AllocsPerRun(100, func() {
		put(r.in, 0, f, Offload{})
		put(r.in, 1, f, Offload{})
		r.in.Deliver(2)
		p, _, _ := r.t.Pop(UDPPort(53))
		r.t.Free(p)
	}))
	require.Equal(t, 202, seen)
}
