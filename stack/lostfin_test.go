package stack

import (
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/demux"
)

// TestLostFIN: a client that is through with sending gets the whole answer and an orderly
// end, also when its FIN was lost or came before its data, and its ACKs count the FIN.
func TestLostFIN(t *testing.T) {
	require.True(t, receiverFields.known, "netstack keeps what was received elsewhere: see lostfin.go")
	const request = "request"
	end := irs + 1 + uint32(len(request)) // the FIN's number
	for _, tt := range []struct {
		name  string
		sends func(p *peer, iss uint32)
	}{
		{"lost", func(p *peer, iss uint32) {
			p.send(5000, flagACK, irs+1, iss+1, []byte(request)...)
		}},
		{"behind what completes the handshake", func(p *peer, iss uint32) {
			p.send(5000, flagACK, irs+1, iss+1, []byte(request)...)
			p.send(5000, flagACK|flagFIN, end, iss+1)
		}},
		{"before the data", func(p *peer, iss uint32) {
			p.send(5000, flagACK, irs+1, iss+1)
			p.send(5000, flagACK|flagFIN, end, iss+1)
			p.send(5000, flagACK, irs+1, iss+1, []byte(request)...)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newDoorRig(t, demux.DoorConfig{Backlog: 4, SynQueue: 4})
			iss := r.p.half(5000)
			tt.sends(r.p, iss)
			c, err := r.ln.Accept()
			require.NoError(t, err)
			require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
			_, err = io.ReadFull(c, make([]byte, len(request)))
			require.NoError(t, err)
			answer := make([]byte, 3000)
			_, err = c.Write(answer)
			require.NoError(t, err)
			require.NoError(t, c.Close())
			last := iss + 1 + uint32(len(answer))
			for at := iss + 1; at < last; at += 1000 {
				r.p.send(5000, flagACK, end+1, at)
			}
			fin := r.p.waitFor(5000, "FIN or RST", 0, func(s seg) bool { return s.flags&(flagFIN|flagRST) != 0 })
			require.Zero(t, fin.flags&flagRST, "RST")
			r.p.send(5000, flagACK, end+1, last+1)       // its ACK
			r.p.send(5000, flagACK|flagFIN, end, last+1) // the client's own, again
			ended := r.p.waitFor(5000, "ACK of the FIN, or RST", 0, func(s seg) bool {
				return s.flags&flagRST != 0 || s.flags&flagACK != 0 && s.ack == end+1
			})
			require.Zero(t, ended.flags&flagRST, "RST")
		})
	}
}
