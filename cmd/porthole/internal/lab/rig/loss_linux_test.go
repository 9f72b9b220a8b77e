package rig

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLoss: of datagrams arrives what the wire does not lose, of a TCP file everything,
// later and with about p/(1-p) of it sent again. It is asked for a kernel side, as by
// `run all --vs kernel`, and has none.
func TestLoss(t *testing.T) {
	r := found(t, &Loss, true, "loss=0,10", "file=100000", "timeout=1m")
	arrived, whole, again, share := column(t, r, "arrived"), column(t, r, "whole"), column(t, r, "sent again"), column(t, r, "again")
	for _, loss := range []float64{0, 10} {
		tcp := where(r, "tcp", loss)[0]
		require.Equal(t, 100., tcp[arrived], tcp)
		require.Equal(t, 5., tcp[whole], tcp)
	}
	require.Equal(t, 100., where(r, "udp", 0.)[0][arrived])
	require.InDelta(t, 90, where(r, "udp", 10.)[0][arrived], 9) // of 360 datagrams: nearly six standard deviations
	require.Greater(t, where(r, "tcp", 10.)[0][share], 2., "11 are expected, and those that only came late, on a busy machine")
	require.Greater(t, where(r, "tcp", 10.)[0][again], where(r, "tcp", 0.)[0][again])
	require.Zero(t, where(r, "udp", 10.)[0][again])
}
