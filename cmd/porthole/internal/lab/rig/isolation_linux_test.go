package rig

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestIsolation: with a queue each, a flood of one service loses no request to the
// other; in a queue that both share, it loses most and makes the rest wait.
func TestIsolation(t *testing.T) {
	// Requests come each 10 ms, places become free each 7: the two shall not keep step.
	r := found(t, &Isolation, true, "load=0,5", "over=1s", "work=7ms", "queue=32", "rate=100")
	answered, median, load := column(t, r, "answered"), column(t, r, "median"), column(t, r, "load")
	for _, server := range []string{"porthole", "kernel"} {
		own, shared := where(r, server, "one each"), where(r, server, "one for both")
		require.Len(t, own, 2)
		require.Len(t, shared, 2)
		require.GreaterOrEqual(t, shared[0][answered], 90.)
		if shared[1][load].(float64) < 2 {
			t.Skip("this machine could not offer the load")
		}
		require.Greater(t, own[1][answered].(float64), shared[1][answered].(float64)+15, r.Rows)
		if waited := shared[1][median]; waited != nil { // else nobody was answered
			require.Greater(t, waited, 3*own[1][median].(float64), r.Rows)
		}
	}
}
