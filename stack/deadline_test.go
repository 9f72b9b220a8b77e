package stack

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestDeadline moves a deadline while somebody waits for it: it passes when the last
// set says, to the nanosecond, and one timer serves for all of them.
func TestDeadline(t *testing.T) {
	type set struct {
		at, to time.Duration // when, and to when; to 0: never
	}
	for _, tt := range []struct {
		name   string
		sets   []set
		passes time.Duration // 0: never
	}{
		{"once", []set{{0, 5}}, 5},
		{"later", []set{{0, 5}, {2, 9}}, 9},
		{"later and later", []set{{0, 5}, {2, 9}, {6, 20}, {19, 30}}, 30},
		{"earlier", []set{{0, 50}, {2, 9}}, 9},
		{"earlier, then later", []set{{0, 50}, {2, 9}, {3, 60}}, 60},
		{"never", []set{{0, 5}, {4, 0}}, 0},
		{"never, then soon", []set{{0, 5}, {4, 0}, {10, 12}}, 12},
		{"never, then after the first", []set{{0, 50}, {4, 0}, {10, 80}}, 80},
		{"long ago", []set{{3, -1}}, 3},
		{"in the past of the first", []set{{0, 50}, {9, 1}}, 9},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var d deadline
				began := time.Now()
				passed := make(chan time.Duration, 1)
				waited := d.wait()
				go func() {
					select {
					case <-waited:
						passed <- time.Since(began)
					case <-time.After(time.Hour):
						passed <- 0
					}
				}()
				for _, s := range tt.sets {
					time.Sleep(time.Until(began.Add(s.at * time.Second)))
					require.False(t, d.passed())
					to := time.Time{}
					if s.to != 0 {
						to = began.Add(s.to * time.Second)
					}
					d.set(to)
				}
				require.Equal(t, tt.passes*time.Second, <-passed)
				require.Equal(t, tt.passes != 0, d.passed())
				d.set(time.Now().Add(time.Minute))
				require.False(t, d.passed())
				d.drop()
				time.Sleep(time.Hour)
				require.False(t, d.passed())
			})
		})
	}
}

// TestDeadlineCost: what HTTP does for each request touches no timer and allocates
// nothing.
func TestDeadlineCost(t *testing.T) {
	var d deadline
	defer d.drop()
	d.set(time.Now().Add(time.Minute))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		d.set(time.Now().Add(2 * time.Minute))
		d.set(time.Time{})
		d.set(time.Now().Add(2 * time.Minute))
	}))
}

func BenchmarkDeadline(b *testing.B) {
	var d deadline
	defer d.drop()
	b.ReportAllocs()
	for b.Loop() {
		d.set(time.Now().Add(time.Minute))
		d.set(time.Time{})
	}
}
