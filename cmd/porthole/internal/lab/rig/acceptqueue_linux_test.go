package rig

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAcceptQueue: the smaller the backlog, the fewer connect, at once or at all, and
// nobody is refused who has room, at the host as at the kernel; the size that `why`
// names is near what the arrivals and the service make necessary. The service takes one
// connection a second, so that a machine on which clients come late serves few of them
// meanwhile.
func TestAcceptQueue(t *testing.T) {
	r := found(t, &AcceptQueue, true, "backlog=1,16,256", "clients=40", "within=200ms", "hold=1s")
	refused, first, never := column(t, r, "refused"), column(t, r, "1st SYN"), column(t, r, "never")
	connected := func(row []any) (n float64) {
		for _, tries := range row[first : first+4] {
			n += tries.(float64)
		}
		return n
	}
	for _, server := range []string{"porthole", "kernel"} {
		rows := where(r, server)
		require.Len(t, rows, 3)
		small, middle, large := rows[0], rows[1], rows[2]
		// What a half-open connection sends again counts anew: no number of segments is
		// more than another.
		require.Positive(t, small[refused], server)
		require.Positive(t, middle[refused], server)
		require.Zero(t, large[refused], server)
		require.Greater(t, small[never], middle[never], server)
		// To a client a half-open connection is one, too: as many again as may wait.
		const served = 5 // while they came
		require.LessOrEqual(t, small[first], 2*(1+1.)+served, server)
		require.LessOrEqual(t, middle[first], 2*(16+1.)+served, server)
		require.Equal(t, 40., connected(large), server)
		require.Zero(t, large[never], server)
	}
	enough := column(t, r, "enough")
	for _, row := range where(r, "porthole", 1.) {
		require.InDelta(t, 36, row[enough], 4) // 40 clients, some of them served meanwhile
	}
	require.Nil(t, where(r, "porthole", 256.)[0][enough])
}
