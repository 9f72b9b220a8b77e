package rig

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSYNFlood: without cookies a small SYN queue lets nobody in and one that holds the
// whole flood everybody; with cookies everybody gets in at any size, and those whom a
// cookie answered without window scaling.
func TestSYNFlood(t *testing.T) {
	// Who was refused gives up before the first half-open connections do, after 7 s; the
	// others may take as long.
	r := found(t, &SYNFlood, false, "syn-queue=8,4096", "clients=12", "rate=200", "timeout=5s")
	flood, connected, scaled := column(t, r, "flood"), column(t, r, "connected"), column(t, r, "window scale")
	most, refused, cookies := column(t, r, "most"), column(t, r, "refused"), column(t, r, "cookies sent")
	row := func(mode string, size float64) []any { return where(r, mode, size)[0] }
	require.Less(t, row("never", 8)[connected], 35.)
	require.Equal(t, 9., row("never", 8)[most], "the size and one more")
	require.Greater(t, row("never", 8)[refused], row("never", 8)[flood].(float64)/2)
	require.Equal(t, 100., row("never", 4096)[connected])
	require.Zero(t, row("never", 4096)[refused])
	require.Zero(t, row("never", 8)[cookies])
	for _, size := range []float64{8, 4096} {
		require.Equal(t, 100., row("auto", size)[connected])
		require.Equal(t, 100., row("always", size)[connected])
		require.Zero(t, row("always", size)[most])
	}
	require.Greater(t, row("auto", 8)[cookies], row("auto", 8)[flood].(float64)/2)
	require.Zero(t, row("auto", 4096)[cookies])
	require.Less(t, row("auto", 8)[scaled], 50.)
	require.Equal(t, 100., row("auto", 4096)[scaled])
}
