package stack

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPaths(t *testing.T) {
	var ps paths
	ps.init()
	now := time.Unix(0, 0)
	ps.now = func() time.Time { return now }
	peer := func(n int) netip.Addr {
		return netip.AddrFrom16([16]byte{0: 0xfd, 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)})
	}

	require.Zero(t, ps.get(peer(1)))
	ps.set(peer(1), 1400)
	require.Equal(t, 1400, ps.get(peer(1)))
	ps.set(peer(1), 1300)
	ps.set(peer(1), 1350) // no growth
	require.Equal(t, 1300, ps.get(peer(1)))
	require.EqualValues(t, 1, ps.known.Load())
	now = now.Add(pathLife - 1)
	require.Equal(t, 1300, ps.get(peer(1)))
	now = now.Add(1)
	require.Zero(t, ps.get(peer(1)), "forgotten")
	require.Zero(t, ps.known.Load())
	ps.set(peer(1), 1350)
	require.Equal(t, 1350, ps.get(peer(1)))

	for n := range maxPaths + 1 { // at the bound, and one more
		ps.set(peer(n), 1280)
	}
	require.EqualValues(t, maxPaths, ps.known.Load())
	require.Equal(t, 1280, ps.get(peer(maxPaths)))
}
