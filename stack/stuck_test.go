package stack

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"porthole/demux"
	"porthole/demux/packet"
	"porthole/tun"
)

// deaf is a device that loses data segments until the first that comes again, the tail
// loss probe, and that one; probe is called with the connection's lock held.
type deaf struct {
	tun.Device
	mu    sync.Mutex
	seen  map[uint32]bool // nil: it loses nothing
	probe func()
}

func (d *deaf) Write(q int, frames []tun.Out, wait bool) (int, error) {
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

func (d *deaf) loses(pieces [][]byte) bool {
	var b []byte
	for _, p := range pieces {
		b = append(b, p...)
	}
	i, problem := packet.Parse(b, len(b))
	if problem != packet.None || i.Kind != packet.TCP || i.PayloadLen() == 0 {
		return false
	}
	seq, _, _, _ := i.TCP(b)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.seen == nil {
		return false
	}
	if d.seen[seq] {
		d.seen = nil
		d.probe()
	} else {
		d.seen[seq] = true
	}
	return true
}

// TestLostTimer: netstack counts nothing as on its way when it has sent a tail loss
// probe, as it does when SACK called lost what is not acknowledged. It starts no timer
// then, and yet all of it comes.
func TestLostTimer(t *testing.T) {
	require.True(t, senderFields.known, "netstack has its fields elsewhere: see stuck.go")
	a, b := tun.Pipe(tun.PipeOptions{}, tun.PipeOptions{})
	dev := &deaf{Device: a}
	s, c, _ := pairOn(t, dev, b)
	conn, peer := connected(t, c, listenOn80(t, s, nil))
	talk := func(size int) {
		_, err := peer.Write(make([]byte, size))
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
		_, err = io.ReadFull(conn, make([]byte, size))
		require.NoError(t, err)
	}
	talk(1000) // the round trip is known

	key := demux.FlowKey{Remote: peer.RemoteAddr().(*net.TCPAddr).AddrPort(), Local: hostAddr}
	ep, ok := s.find(80, key).(*tcp.Endpoint)
	require.True(t, ok)
	probed := false
	dev.mu.Lock()
	dev.seen = map[uint32]bool{}
	dev.probe = func() {
		snd := *(*unsafe.Pointer)(unsafe.Add(unsafe.Pointer(ep), senderFields.snd))
		(*tcp.TCPSenderState)(unsafe.Add(snd, senderFields.state)).Outstanding = 0
		probed = true
	}
	dev.mu.Unlock()
	talk(4000)
	dev.mu.Lock()
	require.True(t, probed)
	dev.mu.Unlock()
}
