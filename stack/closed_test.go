package stack

import (
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

// TestClosedFlood: every SYN to ports that nobody has is closed or finds the lane's
// queue full, and each of the closed ones is answered or counted as one too many.
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
	out, st := r.s.Out(), lane()
	require.EqualValues(t, n, st.Fates[demux.Closed]+st.Fates[demux.QueueFull])
	require.Equal(t, st.Fates[demux.Closed], out.Sent-before+out.Limited)

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
