package rig

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBufferbloat: under tail drop a larger queue is a longer wait, for no more than
// the wire's rate; under CoDel the same large queue is a much shorter one.
func TestBufferbloat(t *testing.T) {
	r := found(t, &Bufferbloat, false, "queue=8,100", "rate=2")
	median, upload, most, answered := column(t, r, "median"), column(t, r, "upload"), column(t, r, "waiting at most"), column(t, r, "answered")
	for _, row := range r.Rows {
		require.LessOrEqual(t, row[upload], 4., "the wire's rate, and what had waited for a lost segment")
		require.LessOrEqual(t, row[most], row[1], "a queue is no longer than its limit")
		require.GreaterOrEqual(t, row[median], 20., "nothing is faster than the wire")
		require.Positive(t, row[answered], row)
	}
	small, large := where(r, "tail-drop", 8.)[0], where(r, "tail-drop", 100.)[0]
	codel := where(r, "codel", 100.)[0]
	if large[most].(float64) < 95 {
		t.Skip("this machine could not fill the queue")
	}
	require.Greater(t, large[median].(float64), 2*small[median].(float64), r.Rows)
	require.Less(t, 1.5*codel[median].(float64), large[median].(float64), r.Rows)
}
