package stack

import (
	"sync"
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
		wait := func(dead *deadline) {
			if p.wait(closed, dead) {
				p.pass()
			}
		}
		require.Zero(t, took(func() { wait(nil) }))
		p.set(Delay{Mean: 2 * time.Second}, false)
		require.Equal(t, 2*time.Second, took(func() { wait(nil) }))

		p.set(Delay{}, true) // take nothing
		go func() { time.Sleep(time.Minute); p.set(Delay{Mean: time.Second}, false) }()
		require.Equal(t, 61*time.Second, took(func() { wait(nil) }))

		p.set(Delay{}, true)
		var dead deadline
		dead.set(time.Now().Add(3 * time.Second))
		require.Equal(t, 3*time.Second, took(func() { wait(&dead) }))
		go func() { time.Sleep(time.Second); close(closed) }()
		require.Equal(t, time.Second, took(func() { wait(nil) }))

		sum := time.Duration(0)
		d := Delay{Mean: time.Millisecond, Exponential: true}
		for range 20000 {
			sum += d.next()
		}
		require.InEpsilon(t, float64(20*time.Second), float64(sum), 0.05)
	})
}

// TestPaceOfMany: several goroutines that read one port are one server while it is held
// back. Who waits for a turn hears of a change, a deadline and the end as who has it does.
func TestPaceOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pace
		closed := make(chan struct{})
		p.set(Delay{Mean: 100 * time.Millisecond}, false)
		taken, ended := 0, make(chan struct{}, 4)
		var mu sync.Mutex
		began := time.Now()
		for range 4 {
			go func() {
				defer func() { ended <- struct{}{} }()
				for {
					turn := p.wait(closed, nil)
					if isClosed(closed) {
						if turn {
							p.pass()
						}
						return
					}
					mu.Lock()
					taken++
					mu.Unlock()
					if turn {
						p.pass()
					}
					if p.free() {
						time.Sleep(time.Second)
					}
				}
			}()
		}
		count := func(at time.Duration) int {
			time.Sleep(time.Until(began.Add(at)))
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return taken
		}
		require.Equal(t, 10, count(time.Second+time.Millisecond))
		var dead deadline
		dead.set(time.Now().Add(time.Millisecond)) // before it can have a turn
		require.False(t, p.wait(closed, &dead))
		require.Equal(t, time.Second+2*time.Millisecond, time.Since(began))
		p.set(Delay{}, false) // no one-by-one any more
		require.Equal(t, 14, count(time.Second+3*time.Millisecond))
		p.set(Delay{}, true)
		require.Equal(t, 14, count(10*time.Second))
		close(closed)
		for range 4 {
			<-ended
		}
	})
}
