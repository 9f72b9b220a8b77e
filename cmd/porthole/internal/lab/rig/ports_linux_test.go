package rig

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPorts: a client that closes first has one connection for each port and
// destination, then EADDRNOTAVAIL; one that resets, or whose server closes first, is
// not bounded by its ports; a second with tw_reuse gives the ports once more.
func TestPorts(t *testing.T) {
	r := found(t, &Ports, true, "range=16", "over=1500ms", "rate=200")
	connected, none, other, waits := column(t, r, "connected"), column(t, r, "no port"), column(t, r, "other errors"), column(t, r, "TIME-WAIT")
	for _, server := range []string{"porthole", "kernel"} {
		row := func(closes string) []any { return where(r, server, closes)[0] }
		for _, w := range []struct {
			closes string
			ports  float64
		}{{"client", 16}, {"client, two destinations", 32}} {
			require.Equal(t, w.ports, row(w.closes)[connected], row(w.closes))
			require.Equal(t, w.ports, row(w.closes)[waits], row(w.closes))
			require.Positive(t, row(w.closes)[none], row(w.closes))
		}
		for _, closes := range []string{"client, by RST", "server"} {
			require.Greater(t, row(closes)[connected], 16., row(closes))
			require.Zero(t, row(closes)[none], row(closes))
			require.Zero(t, row(closes)[waits], row(closes))
		}
		require.Greater(t, row("client, tw_reuse")[connected], 16., "a second gives them again")
		require.Positive(t, row("client, tw_reuse")[none])
		for _, row := range where(r, server) {
			require.Nil(t, row[other], row)
		}
	}
}
