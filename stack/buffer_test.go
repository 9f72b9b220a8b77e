package stack

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/demux"
)

// TestFirstWindow: a receive buffer that is set while a port listens bounds the first
// window of its next connections, with cookies and without, and a client that sends as
// much as it may fills it: the window is closed then, and nothing was refused. auto
// gives them the usual one again.
func TestFirstWindow(t *testing.T) {
	require.True(t, buffersKnown, "netstack keeps the buffer of coming connections elsewhere")
	const usual = 20 * 1460 // ten segments, twice
	for _, cookies := range []demux.Cookies{demux.CookiesNever, demux.CookiesAlways} {
		t.Run(fmt.Sprint(cookies), func(t *testing.T) {
			r := newDoorRig(t, demux.DoorConfig{Backlog: 64, SynQueue: 64, Cookies: cookies})
			for i, c := range []struct{ size, most int }{
				{0, usual}, {16 << 10, 8 << 10}, {4 << 10, 2 << 10}, {32 << 10, 16 << 10}, {256 << 10, usual}, {0, usual},
			} {
				port := uint16(5000 + i)
				require.True(t, r.s.SetReceiveBuffer(80, c.size))
				r.p.syn(port)
				synAck := r.p.wait(port, flagSYN|flagACK, 0)
				require.LessOrEqual(t, int(synAck.window), c.most, "%d", c.size)
				require.Greater(t, int(synAck.window), c.most-128, "%d: a scaled window can say it, and no smaller one", c.size)
				r.p.send(port, flagACK, irs+1, synAck.seq+1)
				r.rest(t, 0, 1)
				conn, err := r.ln.Accept()
				require.NoError(t, err)
				if c.size > 0 && c.most < usual {
					sent := 0
					for sent < int(synAck.window) {
						n := min(1024, int(synAck.window)-sent)
						r.p.send(port, flagACK, irs+1+uint32(sent), synAck.seq+1, make([]byte, n)...)
						sent += n
					}
					last := r.p.waitFor(port, "an ACK of all", 0, func(s seg) bool { return s.ack == irs+1+uint32(sent) })
					require.Zero(t, last.window, "%d", c.size)
				}
				require.NoError(t, conn.Close())
			}
		})
	}
}
