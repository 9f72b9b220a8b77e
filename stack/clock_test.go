package stack

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip"
)

func TestCoarse(t *testing.T) {
	tests := []struct{ in, want time.Duration }{
		{-1, -1}, {0, 0}, // now
		{1, minTimer}, {minTimer - 1, minTimer},
		{minTimer, minTimer}, {200 * time.Millisecond, 200 * time.Millisecond}, // the least RTO
	}
	for _, tt := range tests {
		require.Equal(t, tt.want, coarse(tt.in), "%v", tt.in)
	}
}

func TestCoarseTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := coarseClock{Clock: tcpip.NewStdClock()}
		began := time.Now()
		fired := make(chan time.Duration, 1)
		timer := c.AfterFunc(time.Millisecond, func() { fired <- time.Since(began) })
		require.Equal(t, minTimer, <-fired)
		timer.Reset(time.Millisecond)
		require.Equal(t, 2*minTimer, <-fired)
		timer.Reset(0)
		require.Equal(t, 2*minTimer, <-fired)
		timer.Reset(time.Hour)
		require.True(t, timer.Stop())
	})
}
