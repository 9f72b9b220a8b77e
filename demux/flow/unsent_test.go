package flow

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/demux"
	"porthole/demux/packet"
)

// In tells a segment that acknowledges what the host never sent, and does not follow it.
func TestUnsent(t *testing.T) {
	ack := func(w *wire, flags uint8, seq, ack uint32, size int) bool {
		b := w.segment(In, flags, seq, ack, size)
		i, p := packet.Parse(b, len(b))
		require.Equal(t, packet.None, p)
		return w.t.In(w.now, b, &i, Decision{Fate: demux.ToStack})
	}
	k := Key{Proto: packet.TCP, Local: netip.AddrPortFrom(hostAddr, 80), Remote: netip.AddrPortFrom(peerAddr, 4000)}
	for _, x := range []struct{ irs, iss uint32 }{{0, 0}, {1 << 31, 1<<32 - 3}, {1<<32 - 10, 1<<31 - 5}} {
		w := &wire{TB: t, t: New(Options{Flows: 4}), k: k, irs: x.irs, iss: x.iss}
		w.handshake()
		require.False(t, ack(w, packet.ACK, 1, 1, 0))
		require.True(t, ack(w, packet.ACK, 1, 2, 0), "one byte ahead")
		require.True(t, ack(w, packet.ACK|packet.FIN, 1, 1000, 100))
		require.False(t, ack(w, packet.RST|packet.ACK, 1, 1000, 0), "RST has rules of its own")
		w = &wire{TB: t, t: New(Options{Flows: 4}), k: k, irs: x.irs, iss: x.iss}
		w.handshake()
		require.False(t, ack(w, packet.ACK, 1, 1, 100))
		w.out(packet.ACK, 1, 101, 1000)
		require.False(t, ack(w, packet.ACK, 101, 1001, 0))
		require.True(t, ack(w, packet.ACK, 101, 1002, 100))
		w.out(packet.ACK|packet.FIN, 1001, 101, 0)
		require.False(t, ack(w, packet.ACK, 101, 1002, 100), "the FIN has a number")
		require.True(t, ack(w, packet.ACK, 201, 1003, 100))
		fs := w.t.Flows(w.now, Filter{})
		require.Len(t, fs, 1)
		require.EqualValues(t, 200, fs[0].In.Bytes, "what is not taken is not counted")
	}
	// A flow whose beginning nobody saw may have sent anything.
	w := &wire{TB: t, t: New(Options{Flows: 4}), k: k}
	require.False(t, ack(w, packet.ACK, 1, 500, 10))
	w.out(packet.ACK, 1, 11, 10)
	require.False(t, ack(w, packet.ACK, 11, 500, 10))
}
