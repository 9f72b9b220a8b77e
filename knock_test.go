package porthole_test

import (
	"fmt"
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
	require.NotNil(t, r.host.Ledger().Stack)
	_, ok := r.host.PortLedger("4444/tcp")
	require.False(t, ok)
	for _, port := range []string{"4444", "4445", "4444"} {
		_, err := r.client.DialContext(t.Context(), "tcp", "10.77.0.1:"+port)
		require.ErrorContains(t, err, "refused")
	}
	// A refusal is there before its fate is counted, and a client that is stopped for a
	// second asks again.
	var l porthole.Ledger
	until(t, "three fates", func() bool {
		l, ok = r.host.PortLedger("closed")
		return ok && l.Fates["closed"] >= 3
	})
	want := l.Knocks
	require.Equal(t, 2, want.Ports)
	require.Equal(t, l.Fates["closed"], want.Packets)
	require.Len(t, want.Most, 2)
	two, one := want.Most[0], want.Most[1]
	require.Equal(t, []services.Port{services.TCP(4444), services.TCP(4445)}, []services.Port{two.Port, one.Port})
	require.GreaterOrEqual(t, two.Packets, uint64(2))
	require.Equal(t, want.Packets, two.Packets+one.Packets)
	require.Equal(t, want, r.host.Ledger().Knocks)
	l, ok = r.host.PortLedger("4444/tcp")
	require.True(t, ok)
	require.Equal(t, two.Packets, l.Knocked)
	require.Zero(t, l.Arrived)
	require.True(t, l.LawOK)
	why, err := r.host.Why("4444/tcp")
	require.NoError(t, err)
	require.Contains(t, why.Text, fmt.Sprintf("nobody has the port, and %d packets came for it", two.Packets))

	events, _, _ := r.host.Events(0)
	var said []string
	for _, e := range events {
		if s := e.String(); strings.HasPrefix(s, "knocked") {
			said = append(said, s)
		}
	}
	require.Equal(t, []string{"knocked 4444/tcp " + stacktest.Peer4.Addr().String()}, said, "one of a scan")

	require.NoError(t, r.host.Open(t.Context(), services.TCP(4444), "echo"))
	require.EqualValues(t, two.Packets, status(t, r.host, "4444/tcp").Knocked)
	require.Equal(t, want, r.host.Ledger().Knocks)
}
