package rig

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAcceptQueue: the smaller the backlog, the more is refused and the fewer connect
// at once, at the host as at the kernel; the size that `why` names is near what the
// arrivals and the service make necessary.
func TestAcceptQueue(t *testing.T) {
	r := found(t, &AcceptQueue, true, "backlog=1,16,256", "clients=40", "within=200ms")
	refused, first, never := column(t, r, "refused"), column(t, r, "1st SYN"), column(t, r, "never")
	for _, server := range []string{"porthole", "kernel"} {
		rows := where(r, server)
		require.Len(t, rows, 3)
		small, middle, large := rows[0], rows[1], rows[2]
		require.Greater(t, small[refused], middle[refused], server)
		require.Greater(t, middle[refused], large[refused], server)
		require.Zero(t, large[refused], server)
		require.Less(t, small[first], middle[first], server)
		require.Less(t, middle[first], large[first], server)
		require.Equal(t, 40., large[first], server)
		require.Zero(t, large[never], server)
	}
	enough := column(t, r, "enough")
	for _, row := range where(r, "porthole", 1.) {
		require.InDelta(t, 35, row[enough], 5) // 40 clients, some 4 of them served meanwhile
	}
	require.Nil(t, where(r, "porthole", 256.)[0][enough])
}
