package porthole_test

import (
	"encoding/binary"
	"net"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/demux"
	"porthole/services"
	"porthole/tun"
)

func TestPolicyNames(t *testing.T) {
	require.Equal(t, []string{porthole.PolicyTailDrop, porthole.PolicyHeadDrop, porthole.PolicyCoDel}, porthole.Policies())
	require.Equal(t, demux.TailDrop.String(), porthole.Policies()[0], "the default")
}

// numbers sends count numbered datagrams in batches that are awaited.
func numbers(t *testing.T, r *rig, c net.Conn, port string, count int) {
	before := status(t, r.host, port).Arrived
	for i := range count {
		_, err := c.Write(binary.BigEndian.AppendUint32(nil, uint32(i)))
		require.NoError(t, err)
		if i%100 == 99 || i == count-1 {
			until(t, "a batch", func() bool { return status(t, r.host, port).Arrived == before+uint64(i)+1 })
		}
	}
}

// answers reads n echoed numbers.
func answers(t *testing.T, c net.Conn, n int) (got []uint32) {
	var b [8]byte
	for range n {
		k, err := c.Read(b[:])
		require.NoError(t, err)
		require.Equal(t, 4, k)
		got = append(got, binary.BigEndian.Uint32(b[:]))
	}
	return got
}

// lawful requires that every packet of a port is accounted for.
func lawful(t *testing.T, r *rig, port string) {
	l, ok := r.host.PortLedger(port)
	require.True(t, ok)
	require.True(t, l.LawOK, l.Broken)
}

// TestHeadDropKeepsTheNewest: by configuration, a held service's queue of 64 keeps the
// last 64 of 1,000; tail drop, set meanwhile, keeps them from those that follow.
func TestHeadDropKeepsTheNewest(t *testing.T) {
	r := newRig(t, tun.PipeOptions{}, func(c *porthole.Config) {
		s, err := porthole.ParseSettings("accept=never queue=64 policy=head-drop")
		require.NoError(t, err)
		c.Ports = map[services.Port]porthole.Settings{services.UDP(7): s}
	})
	c := dial(t, r, "udp", 7)
	numbers(t, r, c, "7/udp", 1000)
	s := status(t, r.host, "7/udp")
	require.Equal(t, []uint64{64, 936, 0}, []uint64{uint64(s.Queued), s.Fates["head-drop"], s.Fates["queue-full"]})
	set(t, r.host, "7/udp", "policy=tail-drop")
	numbers(t, r, c, "7/udp", 10)
	set(t, r.host, "7/udp", "accept=normal")
	for i, n := range answers(t, c, 64) {
		require.EqualValues(t, 936+i, n)
	}
	s = status(t, r.host, "7/udp")
	require.Equal(t, []uint64{936, 10, 64}, []uint64{s.Fates["head-drop"], s.Fates["queue-full"], s.Fates["to-service"]})
	lawful(t, r, "7/udp")
}

// TestCoDelDrops: a service too slow for what comes loses some of it under CoDel,
// though its queue never fills; the rest is answered in order.
func TestCoDelDrops(t *testing.T) {
	r := newRig(t, tun.PipeOptions{}, nil)
	set(t, r.host, "7/udp", "accept=never")
	before := status(t, r.host, "7/udp")
	c := dial(t, r, "udp", 7)
	numbers(t, r, c, "7/udp", 300)
	set(t, r.host, "7/udp", "policy=codel codel-target=1ms codel-interval=5ms service-delay=2ms accept=normal")
	require.Equal(t, "policy=codel codel-target=1ms codel-interval=5ms service-delay=2ms accept=normal", status(t, r.host, "7/udp").Changed)
	until(t, "all to have gone", func() bool { return status(t, r.host, "7/udp").Queued == 0 })
	s := status(t, r.host, "7/udp")
	lost := s.Fates["codel-drop"]
	require.Greater(t, lost, uint64(3))
	require.Zero(t, s.Fates["queue-full"])
	require.EqualValues(t, 300-lost, s.Fates["to-service"]-before.Fates["to-service"])
	got := answers(t, c, int(300-lost))
	require.True(t, slices.IsSorted(got))
	require.EqualValues(t, 299, got[len(got)-1], "the last is never dropped")
	lawful(t, r, "7/udp")
	var stands bool
	evs, _, _ := r.host.Events(0)
	for _, e := range evs {
		stands = stands || e.Type == "queue-standing" && e.Fate == "codel-drop"
	}
	require.True(t, stands)
}

// A data port that a service opens itself takes the settings that wait for it.
func TestPolicyCountsFromTheBind(t *testing.T) {
	r := newRig(t, tun.PipeOptions{}, func(c *porthole.Config) {
		s, err := porthole.ParseSettings("policy=codel codel-target=1s")
		require.NoError(t, err)
		c.Ports = map[services.Port]porthole.Settings{services.UDP(4444): s}
	})
	require.NoError(t, r.host.Open(t.Context(), services.UDP(4444), "echo"))
	s := status(t, r.host, "4444/udp").Settings
	require.Equal(t, "codel", s.Policy)
	require.Equal(t, "1s", s.CodelTarget.String())
	require.Equal(t, "100ms", s.CodelInterval.String())
	set(t, r.host, "4444/udp", "policy=tail-drop")
	require.Nil(t, status(t, r.host, "4444/udp").Settings.CodelTarget)
	require.NoError(t, r.host.Reset(services.UDP(4444)))
	require.Equal(t, "codel", status(t, r.host, "4444/udp").Settings.Policy)
}
