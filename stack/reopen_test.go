package stack

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"porthole/demux"
	"porthole/demux/packet"
	"porthole/tun"
)

// TestReopen: a SYN in TIME-WAIT whose sequence number is lower than what came before is
// answered when its timestamp is newer, and ignored otherwise.
func TestReopen(t *testing.T) {
	require.True(t, timeWaitField.known && receiverFields.known, "netstack keeps these elsewhere: see reopen.go")
	r := newDoorRig(t, demux.DoorConfig{Backlog: 4, SynQueue: 4})
	const port = 5000
	send := func(flags uint8, seq, ack, stamp uint32) {
		t.Helper()
		o := []byte{1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0} // NOP, NOP, timestamps
		binary.BigEndian.PutUint32(o[4:], stamp)
		var b [80]byte
		n := packet.PutTCP(b[:], netip.AddrPortFrom(netip.MustParseAddr("10.77.0.2"), port), netip.AddrPortFrom(hostAddr, 80),
			64, 1, packet.TCPHeader{Seq: seq, Ack: ack, Flags: flags, Window: 65535, Options: o}, nil)
		_, err := r.p.dev.Write(0, []tun.Out{{Pieces: [][]byte{b[:n]}}}, true)
		require.NoError(t, err)
	}
	send(flagSYN, irs, 0, 100)
	iss := r.p.wait(port, flagSYN|flagACK, 0).seq
	send(flagACK, irs+1, iss+1, 101)
	c, err := r.ln.Accept()
	require.NoError(t, err)
	require.NoError(t, c.Close())
	r.p.wait(port, flagFIN|flagACK, 0)
	send(flagFIN|flagACK, irs+1, iss+2, 102)
	k := demux.FlowKey{Remote: netip.MustParseAddrPort("10.77.0.2:5000"), Local: hostAddr}
	waits := func() bool {
		_, state := r.s.endpoint(r.ln, k)
		return state == tcp.StateTimeWait
	}
	require.Eventually(t, waits, patience, time.Millisecond)

	send(flagSYN, irs-1000, 0, 102) // not newer
	r.fate(t, demux.ToStack, 4)
	require.True(t, waits())
	require.Eventually(t, func() bool {
		send(flagSYN, irs-1000, 0, 103)
		r.p.mu.Lock()
		defer r.p.mu.Unlock()
		for _, s := range r.p.got[port] {
			if s.flags == flagSYN|flagACK && s.ack == irs-1000+1 {
				return true
			}
		}
		return false
	}, patience, 10*time.Millisecond)
}
