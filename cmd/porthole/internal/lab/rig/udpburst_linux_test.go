package rig

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestUDPBurst: a queue of porthole keeps what its limits say, to the datagram; the
// kernel keeps more in more bytes, and charges a datagram more than its payload.
func TestUDPBurst(t *testing.T) {
	r := found(t, &UDPBurst, true, "datagrams=400", "queue=1,16,100", "bytes=8192,65536", "payloads=0,1400")
	kept, lost, sent, theory, charged := column(t, r, "kept"), column(t, r, "lost"), column(t, r, "sent"), column(t, r, "theory"), column(t, r, "charged")
	for _, row := range r.Rows {
		require.Equal(t, row[sent], row[kept].(float64)+row[lost].(float64), row)
	}
	for i, n := range []float64{1, 16, 100} {
		require.Equal(t, n, where(r, "porthole", "packets")[i][kept])
	}
	for _, row := range where(r, "porthole", "bytes") {
		require.Equal(t, row[theory], row[kept], row)
	}
	kernel := where(r, "kernel", "bytes")
	require.Len(t, kernel, 4)
	for _, row := range kernel {
		require.Nil(t, row[theory], "of porthole's rules")
	}
	require.InDelta(t, 8, kernel[1][kept].(float64)/kernel[0][kept].(float64), 1.5) // eight times the bytes
	require.Greater(t, kernel[2][charged], 500.)                                    // an empty datagram is not free
	require.Greater(t, kernel[3][charged], 1400.)
	require.Less(t, kernel[3][kept], kernel[2][kept])
	require.True(t, r.OK(), r.Checks)
}
