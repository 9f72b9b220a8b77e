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
