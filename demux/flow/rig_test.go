package flow

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/demux"
	"porthole/demux/packet"
)

var (
	hostAddr  = netip.MustParseAddr("10.77.0.1")
	peerAddr  = netip.MustParseAddr("10.77.0.2")
	hostAddr6 = netip.MustParseAddr("fd77::1")
	peerAddr6 = netip.MustParseAddr("fd77::2")
)

// wire sends segments of one flow past a table; sequence numbers are relative to the
// initial ones.
type wire struct {
	testing.TB
	t        *Table
	now      int64
	k        Key
	irs, iss uint32 // of the peer, of the host
}

func (w *wire) segment(d Direction, flags uint8, seq, ack uint32, size int, opts ...byte) []byte {
	return w.window(d, flags, seq, ack, size, 65535, opts...)
}

func (w *wire) window(d Direction, flags uint8, seq, ack uint32, size int, window uint16, opts ...byte) []byte {
	from, to, s, a := w.k.Remote, w.k.Local, w.irs, w.iss
	if d == Out {
		from, to, s, a = to, from, a, s
	}
	h := packet.TCPHeader{Seq: s + seq, Flags: flags, Window: window, Options: opts}
	if flags&packet.ACK != 0 {
		h.Ack = a + ack
	}
	b := make([]byte, 128+size)
	n := packet.PutTCP(b, from, to, 64, 1, h, b[100:100+size])
	require.NotZero(w, n)
	return b[:n+size]
}

func (w *wire) tap(d Direction, b []byte, dec Decision) {
	i, p := packet.Parse(b, len(b))
	require.Equal(w, packet.None, p)
	if d == In {
		w.t.In(w.now, b, &i, dec)
	} else {
		w.t.Out(w.now, b, &i)
	}
}

func (w *wire) in(flags uint8, seq, ack uint32, size int) {
	w.tap(In, w.segment(In, flags, seq, ack, size), Decision{Fate: demux.ToStack})
}

func (w *wire) out(flags uint8, seq, ack uint32, size int) {
	w.tap(Out, w.segment(Out, flags, seq, ack, size), Decision{})
}

func (w *wire) handshake() {
	w.in(packet.SYN, 0, 0, 0)
	w.out(packet.SYN|packet.ACK, 0, 1, 0)
	w.in(packet.ACK, 1, 1, 0)
}
