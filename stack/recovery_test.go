package stack

import (
	"io"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/demux/packet"
	"porthole/tun"
)

// burst is a device that loses a whole flight: every data segment from a byte of the
// stream on, tail loss probes too, until the sender begins again with the first.
type burst struct {
	tun.Device
	from uint32

	mu    sync.Mutex
	isn   uint32
	first uint32 // segment that was lost
	lost  int
	again bool // the sender has begun to repeat
}

func (d *burst) Write(q int, frames []tun.Out, wait bool) (int, error) {
	for i := range frames {
		if d.loses(frames[i].Pieces) {
			continue
		}
		if _, err := d.Device.Write(q, frames[i:i+1], wait); err != nil {
			return i, err
		}
	}
	return len(frames), nil
}

func (d *burst) loses(pieces [][]byte) bool {
	var b []byte
	for _, p := range pieces {
		b = append(b, p...)
	}
	i, problem := packet.Parse(b, len(b))
	if problem != packet.None || i.Kind != packet.TCP {
		return false
	}
	seq, _, _, _ := i.TCP(b)
	d.mu.Lock()
	defer d.mu.Unlock()
	if i.TCPFlags&flagSYN != 0 {
		d.isn = seq
	}
	if i.PayloadLen() == 0 || d.again || seq-d.isn-1 < d.from {
		return false
	}
	if d.lost == 0 {
		d.first = seq
	} else if seq == d.first {
		d.again = true
		return false
	}
	d.lost++
	return true
}

// TestWholeFlightLost: what a full queue does to the end of a burst. The sender hears
// nothing of it, must wait for its timer, and then repeat it as fast as the path takes
// it: one timeout, not one for every two segments. How long the flight is by then is
// chance, so there are several.
func TestWholeFlightLost(t *testing.T) {
	require.True(t, recoveryField.known, "netstack has its field elsewhere: see recovery.go")
	for range 20 {
		var lost, timeouts int
		t.Run("flight", func(t *testing.T) { lost, timeouts = loseFlight(t) })
		// A sender that was stopped for 200 ms may find its timer run out, too.
		require.Less(t, timeouts, max(lost/4, 10))
		if lost > 40 {
			return
		}
	}
	t.Fatal("no flight was of more than 40 segments")
}

// loseFlight has a sender lose a flight, and counts its segments and the timeouts.
func loseFlight(t *testing.T) (lost, timeouts int) {
	a, b := tun.Pipe(tun.PipeOptions{}, tun.PipeOptions{})
	dev := &burst{Device: a, from: 2 << 20}
	s, c, _ := pairOn(t, dev, b)
	conn, peer := connected(t, c, listenOn80(t, s, nil))
	const size = 4 << 20
	go peer.Write(make([]byte, size))
	n, err := io.CopyN(io.Discard, conn, size)
	require.NoError(t, err)
	require.EqualValues(t, size, n)
	st := s.net.Stats().TCP
	t.Logf("%d segments lost in one flight, %d timeouts, %d segments sent again", dev.lost, st.Timeouts.Value(), st.Retransmits.Value())
	return dev.lost, int(st.Timeouts.Value())
}
