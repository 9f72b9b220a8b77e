package limit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
	"pgregory.net/rapid"
)

// TestLimit: a burst, then so many a second, whatever order the times come in.
func TestLimit(t *testing.T) {
	const second, perSecond, burst = 1_000_000_000, 1000, 50
	for _, late := range []int64{0, 100_000, 50_000_000, second} {
		l, n := New(perSecond, burst), 0
		for i := range int64(100_000) { // in one second, every other batch of 16 by a clock that is late
			now := second + i*second/100_000
			if i/16%2 == 1 {
				now -= late
			}
			if l.Take(now) {
				n++
			}
		}
		require.InDelta(t, burst+perSecond, n, 1, "late by %d", late)
		for range burst {
			require.True(t, l.Take(1<<60))
		}
		require.False(t, l.Take(1<<60))
	}
}

// TestLimitIsBucket: what is refused without a look at the bucket, it would have refused.
func TestLimitIsBucket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		perSecond, burst := rapid.IntRange(1, 30000).Draw(t, "a second"), rapid.IntRange(1, 5).Draw(t, "burst")
		l, bucket := New(perSecond, burst), rate.NewLimiter(rate.Limit(perSecond), burst)
		now, latest := int64(1<<60), int64(0)
		gap := int64(time.Second) / int64(perSecond)
		for range 200 {
			now += rapid.Int64Range(-2*gap, 3*gap).Draw(t, "later by")
			latest = max(latest, now)
			require.Equal(t, bucket.AllowN(time.Unix(0, latest), 1), l.Take(now))
		}
	})
}
