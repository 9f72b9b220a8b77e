package stack

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseDelay(t *testing.T) {
	for _, c := range []struct {
		in, want string
		ok       bool
	}{
		{"2s", "2s", true}, {"0", "0", true}, {"fixed(1ms)", "1ms", true}, {"exp(10ms)", "exp(10ms)", true},
		{"", "", false}, {"fast", "", false}, {"exp(", "", false}, {"exp(1s", "", false}, {"-1s", "", false},
		{"2h", "", false}, {"normal(1ms)", "", false}, {"10", "", false},
	} {
		d, err := ParseDelay(c.in)
		require.Equal(t, c.ok, err == nil, c.in)
		if c.ok {
			require.Equal(t, c.want, d.String())
		}
	}
}

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pace
		closed := make(chan struct{})
		took := func(f func()) time.Duration {
			began := time.Now()
			f()
			return time.Since(began)
		}
		require.Zero(t, took(func() { p.wait(closed, nil) }))
		p.set(Delay{Mean: 2 * time.Second}, false)
		require.Equal(t, 2*time.Second, took(func() { p.wait(closed, nil) }))

		p.set(Delay{}, true) // take nothing
		go func() { time.Sleep(time.Minute); p.set(Delay{Mean: time.Second}, false) }()
		require.Equal(t, 61*time.Second, took(func() { p.wait(closed, nil) }))

		p.set(Delay{}, true)
		var dead deadline
		dead.set(time.Now().Add(3 * time.Second))
		require.Equal(t, 3*time.Second, took(func() { p.wait(closed, &dead) }))
		go func() { time.Sleep(time.Second); close(closed) }()
		require.Equal(t, time.Second, took(func() { p.wait(closed, nil) }))

		sum := time.Duration(0)
		d := Delay{Mean: time.Millisecond, Exponential: true}
		for range 20000 {
			sum += d.next()
		}
		require.InEpsilon(t, float64(20*time.Second), float64(sum), 0.05)
	})
}
