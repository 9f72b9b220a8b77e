package limit

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLimit: a burst, then so many a second, whatever order the times come in.
func TestLimit(t *testing.T) {
	const second, perSecond, burst = 1_000_000_000, 1000, 50
	for _, late := range []int64{0, 100_000, 50_000_000, second} {
		l, n := New(perSecond, burst), 0
		for i := range int64(100_000) { // in one second, every other batch of 16 by a clock that is late
			now := second + i*second/100_000
			if i/16%2 == 1 {
				now -= late
			}
			if l.Take(now) {
				n++
			}
		}
		require.InDelta(t, burst+perSecond, n, 1, "late by %d", late)
		for range burst {
			require.True(t, l.Take(1<<60))
		}
		require.False(t, l.Take(1<<60))
	}
}
