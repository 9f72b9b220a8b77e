package demux

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Each wait is counted below its bound, and what is longer than all of them last.
func TestWaits(t *testing.T) {
	r := newRig(Options{})
	r.t.Waited(dnsPort, 5) // of a port that nobody ever had
	require.NoError(t, r.t.Bind(dnsPort, Config{Socket: true}))
	require.Zero(t, r.t.Port(dnsPort).Waits)
	var want [WaitBuckets]uint64
	sum := time.Duration(0)
	for i := range WaitBuckets - 1 {
		for _, ns := range []time.Duration{WaitBound(i) - 1, WaitBound(i)} {
			r.t.Waited(dnsPort, int64(ns))
			sum += ns
		}
		want[i]++
		want[i+1]++
	}
	r.t.Waited(dnsPort, -1)
	want[0]++
	s := r.t.Port(dnsPort).Waits
	require.Equal(t, Waits{want, sum}, s)
	require.EqualValues(t, 2*WaitBuckets-1, s.Count())
	require.Equal(t, 8192*time.Nanosecond, WaitBound(0))
	require.Equal(t, 34*time.Second, WaitBound(WaitBuckets-2).Truncate(time.Second))
}
