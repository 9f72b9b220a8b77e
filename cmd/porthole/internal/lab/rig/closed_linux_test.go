package rig

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestClosed: RST and ICMP say closed, silence costs the timeout, and the kernel's
// limit for each peer makes most closed UDP ports silent.
func TestClosed(t *testing.T) {
	r := found(t, &Closed, true, "ports=30", "timeout=2s", "steady=300ms", "rate=2000")
	open, closed, silent := column(t, r, "open"), column(t, r, "closed"), column(t, r, "no answer")
	median, took := column(t, r, "median"), column(t, r, "all of them")
	for _, server := range []string{"porthole", "kernel"} {
		for _, want := range []struct {
			proto, is string
			column    int
		}{
			{"tcp", "open", open}, {"tcp", "closed", closed}, {"tcp", "full", silent}, {"udp", "answering", open}, {"udp", "silent", silent},
		} {
			rows := where(r, server, want.proto, want.is)
			require.Len(t, rows, 1)
			require.Equal(t, 30., rows[0][want.column], rows[0])
		}
		require.Greater(t, where(r, server, "tcp", "full")[0][median], where(r, server, "tcp", "closed")[0][median])
	}
	host, kernel := where(r, "porthole", "udp", "closed")[0], where(r, "kernel", "udp", "closed")[0]
	require.Equal(t, 30., host[closed], "fewer than its bucket holds")
	require.LessOrEqual(t, kernel[closed], 6+1+kernel[took].(float64)/1000, "a bucket of 6, and one a second")
	require.Positive(t, kernel[silent])
}
