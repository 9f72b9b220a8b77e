package stack

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"porthole/demux"
)

// TestCookieWithData: clients whose bare ACK of a cookie was lost are answered for as
// long as they come, each when its first data does.
func TestCookieWithData(t *testing.T) {
	require.True(t, chargeField.known && queueFields.known, "netstack keeps a listener's charge or queue elsewhere: see charge.go")
	r := newDoorRig(t, demux.DoorConfig{Backlog: 4, SynQueue: 4, Cookies: demux.CookiesAlways})
	most := int32(0)
	for port := range uint16(6000) {
		port += 5000
		iss := r.p.half(port)
		r.p.send(port, flagACK, irs+1, iss+1, []byte("request")...)
		r.p.waitFor(port, "ACK of the data", 0, func(s seg) bool { return s.ack == irs+1+uint32(len("request")) })
		c, err := r.ln.Accept()
		require.NoError(t, err)
		c.(*Conn).Abort()
		most = max(most, chargeField.of(r.ln.ep.(*tcp.Endpoint)).Load())
	}
	require.Positive(t, most, "netstack no longer charges the listener for what it hands over: charge.go can go")
}

// TestChargeOfWhatWaits: what strangers have put into a listener's queue stays charged, or
// nothing would bound it, and is given back when netstack comes to it. What waits no longer
// is not.
func TestChargeOfWhatWaits(t *testing.T) {
	r := newDoorRig(t, demux.DoorConfig{Backlog: 4, SynQueue: 4})
	ep := r.ln.ep.(*tcp.Endpoint)
	charge := func() int32 { return chargeField.of(ep).Load() }
	ep.LockUser()
	unlock := sync.OnceFunc(ep.UnlockUser)
	defer unlock() // before the stack ends, which waits for it
	for _, forged := range []string{"forged", "forged, and longer than the first one was"} {
		before := charge()
		r.p.send(5000, flagACK, irs+1, 12345, []byte(forged)...)
		require.Eventually(t, func() bool { return charge() > before }, patience, time.Millisecond)
		wait := charge()
		r.ln.discharge()
		require.Equal(t, wait, charge())
		chargeField.of(ep).Add(100_000) // as what netstack hands over leaves it
		r.ln.discharge()
		require.Equal(t, wait, charge())
	}
	unlock()
	r.p.wait(5000, flagRST, 1)
	require.Eventually(t, func() bool { return charge() == 0 }, patience, time.Millisecond)
}

// TestCrowdedListener: what strangers can put into a listener's queue is bounded without
// data, too, and nobody's connection is the worse for it.
func TestCrowdedListener(t *testing.T) {
	const strangers = 5000
	r := newDoorRig(t, demux.DoorConfig{})
	iss := r.p.open(4999)
	c, err := r.ln.Accept()
	require.NoError(t, err)
	defer c.Close()
	ep := r.ln.ep.(*tcp.Endpoint)
	ep.LockUser()
	unlock := sync.OnceFunc(ep.UnlockUser)
	defer unlock()
	port := func() demux.PortStats { return r.s.table.Port(demux.TCPPort(80)) }
	settled := func() bool { return port().Queued == 0 }
	require.Eventually(t, settled, patience, time.Millisecond)
	before := port()
	for i := range uint16(strangers) {
		r.p.send(5000+i, flagACK, irs+1, 12345)
		if i%100 == 99 { // less than the port's queue holds
			require.Eventually(t, settled, patience, time.Millisecond)
		}
	}
	r.p.send(4999, flagACK, irs+1, iss+1, []byte("data")...)
	r.p.waitFor(4999, "ACK of the data", 0, func(s seg) bool { return s.ack == irs+1+4 })
	charge, now := chargeField.of(ep).Load(), port()
	require.LessOrEqual(t, charge, int32(crowd+1<<16))
	lost := now.Fates[demux.NoBuffer]
	require.Positive(t, lost)
	require.EqualValues(t, strangers+1, lost+now.Fates[demux.ToStack]-before.Fates[demux.ToStack])
	unlock()
	require.Eventually(t, func() bool { return chargeField.of(ep).Load() == 0 }, patience, time.Millisecond)
	r.p.send(4998, flagACK, irs+1, 12345)
	r.p.wait(4998, flagRST, 0)
}
