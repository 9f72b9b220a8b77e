package rig

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestWindow: no window is faster than window/RTT and none faster than the wire; a
// large one is faster than a small one.
func TestWindow(t *testing.T) {
	r := found(t, &Window, false, "buffer=16384,1048576", "rate=20", "over=2s")
	require.Len(t, r.Rows, 2)
	window, rate, rtt := 1, column(t, r, "throughput"), column(t, r, "smallest RTT")
	for _, row := range r.Rows {
		require.Positive(t, row[rate], row)
		require.LessOrEqual(t, row[rate], 30., "no faster than the wire, but for what had waited in a busy machine")
		require.LessOrEqual(t, row[rate], 1.5*row[window].(float64)*8/40e-3/1e6, "no faster than its window")
		require.GreaterOrEqual(t, row[rtt], 40.)
	}
	small, large := r.Rows[0], r.Rows[1]
	require.Less(t, small[window], large[window])
	require.Less(t, 2*small[rate].(float64), large[rate].(float64))
}
