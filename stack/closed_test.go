package stack

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/demux"
	"porthole/demux/packet"
)

// TestResetLimit: a burst at once, then so many a second, by the clock of the batches.
func TestResetLimit(t *testing.T) {
	r := newDoorRig(t, demux.DoorConfig{Backlog: 8, SynQueue: 8})
	now := int64(1 << 60) // later than any packet
	taken := func() (n int) {
		for r.s.resets.Take(now) {
			n++
		}
		return n
	}
	require.Equal(t, resetBurst, taken())
	now += int64(50 * time.Millisecond)
	require.Equal(t, resetsPerSecond/20, taken())
	now += int64(time.Hour)
	require.Equal(t, resetBurst, taken())
}

// TestReaderRefuses: the reader itself answers a SYN to a port that nobody has; what
// netstack would have to answer, and may wait for, it leaves to a worker, and all after it.
func TestReaderRefuses(t *testing.T) {
	l := newLent(t)
	host, peer := netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("10.77.0.2")
	syn := func(port uint16) []byte {
		b := make([]byte, 40)
		packet.PutTCP(b, netip.AddrPortFrom(peer, 5000), netip.AddrPortFrom(host, port), 64, 0, packet.TCPHeader{Flags: flagSYN, Seq: 7})
		return b
	}
	ask := make([]byte, 28)
	packet.PutUDP(ask, netip.AddrPortFrom(peer, 5000), netip.AddrPortFrom(host, 9), 64, 0, nil)
	from := func() (kind packet.Kind, port uint16) {
		require.Equal(t, 1, l.take())
		var i packet.Info
		require.Zero(t, i.Parse(l.got[0].Head, len(l.got[0].Head)))
		return i.Kind, i.SrcPort
	}
	lane := func() demux.PortStats { return l.s.table.Port(demux.LaneClosed) }

	l.bring(syn(4444), ask, syn(4445))
	require.EqualValues(t, 1, lane().Fates[demux.Closed])
	require.Equal(t, 2, lane().Queued)
	kind, port := from()
	require.Equal(t, packet.TCP, kind)
	require.EqualValues(t, 4444, port)

	var worker sync.WaitGroup
	worker.Go(func() { l.s.table.Work(l.s.inject) })
	kind, _ = from()
	require.Equal(t, packet.ICMP, kind)
	kind, port = from()
	require.Equal(t, packet.TCP, kind)
	require.EqualValues(t, 4445, port)
	l.s.table.StopWork()
	worker.Wait()
	require.EqualValues(t, 3, lane().Fates[demux.Closed])
	require.Zero(t, lane().Queued)

	if !raceEnabled {
		f := syn(4444)
		l.bring(f)
		l.take()
		require.Zero(t, testing.AllocsPerRun(1000, func() { l.bring(f); l.take() }))
	}
}

// TestClosedFlood: every SYN to ports that nobody has is closed or finds the lane's
// queue full, and each of the closed ones is answered, or counted as one too many, or as
// one that the device had no room for.
// A connection in TIME-WAIT, whose port nobody has either, is netstack's.
func TestClosedFlood(t *testing.T) {
	r := newDoorRig(t, demux.DoorConfig{Backlog: 8, SynQueue: 8})
	const n = 10000
	before := r.s.Out().Sent
	for i := range n {
		r.p.spoof(i, uint16(2000+i%500), packet.TCPHeader{Flags: flagSYN, Seq: uint32(i), Window: 65535})
	}
	lane := func() demux.PortStats { return r.s.table.Port(demux.LaneClosed) }
	require.Eventually(t, func() bool { return lane().Arrived == n && lane().Queued == 0 }, patience, time.Millisecond)
	st := lane()
	require.EqualValues(t, n, st.Fates[demux.Closed]+st.Fates[demux.QueueFull])
	require.Eventually(t, func() bool {
		out := r.s.Out()
		return st.Fates[demux.Closed] == out.Sent-before+out.Limited+out.Full
	}, patience, time.Millisecond)

	iss := r.p.open(5000)
	r.rest(t, 0, 1)
	c, err := r.ln.Accept()
	require.NoError(t, err)
	require.NoError(t, c.Close())
	r.p.wait(5000, flagFIN|flagACK, 0)
	r.p.send(5000, flagACK|flagFIN, irs+1, iss+2)
	r.p.wait(5000, flagACK, 0)
	require.NoError(t, r.ln.Close())
	require.Eventually(t, func() bool { _, ok := r.s.table.Bound(demux.TCPPort(80)); return !ok }, patience, time.Millisecond)
	r.p.send(5000, flagACK|flagFIN, irs+1, iss+2) // the last ACK was lost
	again := r.p.wait(5000, flagACK, 1)
	require.Equal(t, []uint32{iss + 2, irs + 2}, []uint32{again.seq, again.ack})
}
