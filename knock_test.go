package porthole_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/services"
	"porthole/stack/stacktest"
	"porthole/tun"
)

// TestKnocks: whoever scans the host stands in its ledger, its log, the port's own
// ledger, and in why; opening the port forgets none of it.
func TestKnocks(t *testing.T) {
	r := newRig(t, tun.PipeOptions{}, nil)
	require.Equal(t, &porthole.Knocks{Most: []porthole.Knock{}}, r.host.Ledger().Knocks)
	require.Equal(t, &porthole.StackCounters{}, r.host.Ledger().Stack, "nor has netstack lost anything")
	_, ok := r.host.PortLedger("4444/tcp")
	require.False(t, ok)
	for _, port := range []string{"4444", "4445", "4444"} {
		_, err := r.client.DialContext(t.Context(), "tcp", "10.77.0.1:"+port)
		require.ErrorContains(t, err, "refused")
	}
	want := &porthole.Knocks{Ports: 2, Packets: 3, Most: []porthole.Knock{{Port: services.TCP(4444), Packets: 2}, {Port: services.TCP(4445), Packets: 1}}}
	require.Equal(t, want, r.host.Ledger().Knocks)
	l, ok := r.host.PortLedger("closed")
	require.True(t, ok)
	require.Equal(t, want, l.Knocks)
	require.EqualValues(t, 3, l.Fates["closed"])
	l, ok = r.host.PortLedger("4444/tcp")
	require.True(t, ok)
	require.EqualValues(t, 2, l.Knocked)
	require.Zero(t, l.Arrived)
	require.True(t, l.LawOK)
	why, err := r.host.Why("4444/tcp")
	require.NoError(t, err)
	require.Contains(t, why.Text, "nobody has the port, and 2 packets came for it")

	events, _, _ := r.host.Events(0)
	var said []string
	for _, e := range events {
		if s := e.String(); strings.HasPrefix(s, "knocked") {
			said = append(said, s)
		}
	}
	require.Equal(t, []string{"knocked 4444/tcp " + stacktest.Peer4.Addr().String()}, said, "one of a scan")

	require.NoError(t, r.host.Open(t.Context(), services.TCP(4444), "echo"))
	require.EqualValues(t, 2, status(t, r.host, "4444/tcp").Knocked)
	require.Equal(t, want, r.host.Ledger().Knocks)
}
