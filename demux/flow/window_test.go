package flow

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/demux"
	"porthole/demux/packet"
)

// TestWindow: a flow knows what the host offered last, scaled where both sides said so;
// a port how often and how long its connections' windows were closed, whatever became
// of them.
func TestWindow(t *testing.T) {
	tab := New(Options{Start: zero, Flows: 2})
	scale7 := []byte{3, 3, 7, 1}
	now := int64(1)
	open := func(port uint16, opts ...byte) *wire {
		w := &wire{t, tab, now, Key{packet.TCP, netip.AddrPortFrom(hostAddr, 80), netip.AddrPortFrom(peerAddr, port)}, 1000, 9000}
		to := Decision{Fate: demux.ToStack}
		w.tap(In, w.segment(In, packet.SYN, 0, 0, 0, opts...), to)
		w.tap(Out, w.window(Out, packet.SYN|packet.ACK, 0, 1, 0, 29200, scale7...), Decision{})
		w.in(packet.ACK, 1, 1, 0)
		return w
	}
	window := func(w *wire) int {
		n, ok := tab.Window(w.k)
		require.True(t, ok)
		return n
	}
	ack := func(w *wire, at int64, window uint16) {
		w.now = at
		w.tap(Out, w.window(Out, packet.ACK, 1, 1, 0, window), Decision{})
	}
	zeros := func(at int64) ZeroWindows { return tab.ZeroWindows(at)[80] }

	a := open(5000, scale7...)
	require.Equal(t, 29200, window(a), "a SYN's is not scaled")
	ack(a, 10, 300)
	require.Equal(t, 300<<7, window(a))
	ack(a, 20, 0)
	require.Equal(t, 0, window(a))
	require.Equal(t, ZeroWindows{1, 1, 80}, zeros(100))
	ack(a, 120, 1)
	require.Equal(t, 1<<7, window(a))
	require.Equal(t, ZeroWindows{1, 0, 100}, zeros(500))
	f := tab.Flows(500, Filter{})[0]
	require.Equal(t, &Receive{Window: 1 << 7}, f.Receive)

	b := open(5001) // which does not scale
	ack(b, 1000, 300)
	require.Equal(t, 300, window(b))
	ack(a, 1000, 0)
	ack(b, 1000, 0)
	require.Equal(t, ZeroWindows{3, 2, 100 + 2*50}, zeros(1050))
	a.now = 1100
	a.in(packet.RST|packet.ACK, 1, 1, 0)
	require.Equal(t, ZeroWindows{3, 1, 200 + 150}, zeros(1150))
	require.Nil(t, tab.Flows(1150, Filter{})[0].Receive, "it is over")
	require.Equal(t, 200*time.Nanosecond, tab.Flows(9999, Filter{})[0].Out.ZeroFor)
	for n := range uint16(2) { // both records make room for others
		now = 1 << (32 + n) // seconds later
		open(6000 + n)
	}
	end := zeros(1 << 40)
	require.Equal(t, 0, end.Now)
	require.Equal(t, end, zeros(1<<41))
	require.EqualValues(t, 3, end.Count)
}
