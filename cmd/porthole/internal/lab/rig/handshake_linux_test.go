package rig

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestHandshake: the moments come in their order; connect takes two delays of the wire
// and the answer four and the service's work, and never less.
func TestHandshake(t *testing.T) {
	r := found(t, &Handshake, false, "delay=0s,150ms", "work=200ms", "connections=5")
	require.Len(t, r.Rows, 2)
	for _, row := range r.Rows {
		for i, name := range stepNames {
			if i == connectReturns || i == ackArrives {
				continue // without a delay either may be the first
			}
			require.GreaterOrEqual(t, row[column(t, r, name)], row[1], name)
		}
		sum := 0.
		for _, name := range []string{"wire", "queue", "door, stack", "accept", "service"} {
			sum += row[column(t, r, name)].(float64)
		}
		require.InDelta(t, 100, sum, 0.1)
	}
	near, far := r.Rows[0], r.Rows[1]
	for name, delays := range map[string]float64{
		"SYN arrives": 1, "connect returns": 2, "ACK arrives": 3, "answer arrives": 4,
	} {
		i := column(t, r, name)
		require.GreaterOrEqual(t, far[i].(float64), delays*150, name)
		require.Less(t, near[i], far[i], name)
	}
	require.GreaterOrEqual(t, far[column(t, r, "accepted")].(float64)-far[column(t, r, "ACK arrives")].(float64), 199.)
	require.Greater(t, near[column(t, r, "accept")].(float64), near[column(t, r, "wire")].(float64), "without a delay the accept queue is most of it")
	require.Greater(t, far[column(t, r, "wire")].(float64), far[column(t, r, "accept")].(float64))
}
