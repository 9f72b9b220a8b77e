package stack

import (
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/demux"
)

// TestCookieWithData: clients whose bare ACK of a cookie was lost are answered for as
// long as they come, each when its first data does.
func TestCookieWithData(t *testing.T) {
	require.True(t, chargeField.known, "netstack keeps a listener's charge elsewhere: see charge.go")
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
		most = max(most, r.ln.charge().Load())
	}
	require.Positive(t, most, "netstack no longer charges the listener for what it hands over: charge.go can go")
}
