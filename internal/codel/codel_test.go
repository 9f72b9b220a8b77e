package codel_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"porthole/internal/codel"
	"porthole/internal/codel/codeltest"
)

// Packets of any size that come and go at any pace are dropped as the RFC's pseudocode
// drops them.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const full = 8
		target, interval := rapid.Int64Range(1, 8).Draw(t, "target"), rapid.Int64Range(1, 40).Draw(t, "interval")
		l := codel.Law{Target: time.Duration(target), Interval: time.Duration(interval)}
		m := codeltest.Model{Target: target, Interval: interval, MaxPacket: full}
		type packet struct {
			at   int64
			size int
		}
		var queue []packet
		bytes, now := 0, int64(0)
		busy := rapid.IntRange(0, 3).Draw(t, "busy") // how much more comes than goes
		for range rapid.IntRange(1, 400).Draw(t, "steps") {
			now += rapid.Int64Range(0, 6).Draw(t, "ns")
			if rapid.IntRange(0, 29).Draw(t, "pause") == 0 { // about when an old cycle is forgotten
				now += rapid.Int64Range(0, 18*interval).Draw(t, "long")
			}
			for range rapid.IntRange(0, 1+busy).Draw(t, "arrive") {
				p := packet{now, rapid.IntRange(1, full).Draw(t, "size")}
				queue, bytes = append(queue, p), bytes+p.size
			}
			want := m.Deque(now, len(queue), func(i int) (int64, int) { return queue[i].at, queue[i].size })
			got := 0
			for len(queue) > 0 {
				p := queue[0]
				queue, bytes = queue[1:], bytes-p.size
				if l.Judge(now, p.at, bytes <= full) == codel.Pass {
					break
				}
				got++
			}
			if got != want {
				t.Fatalf("at %d: %d dropped, want %d", now, got, want)
			}
		}
	})
}

// Begin is said once of a queue that stands for as long as it does, though its wait is
// below the target for moments, and again after 16 intervals without.
func TestBegin(t *testing.T) {
	l := codel.Law{Target: 5, Interval: 100}
	judge := func(now int64, wait int64) codel.Verdict { return l.Judge(now, now-wait, false) }
	stands := func(now int64) codel.Verdict { // a drop an interval after the wait came above the target
		require.Equal(t, codel.Pass, judge(now-100, 5))
		v := judge(now, 5)
		require.Equal(t, codel.Pass, judge(now, 5), "one that comes after the first")
		require.Equal(t, codel.Pass, judge(now+1, 4), "below the target")
		return v
	}
	require.Equal(t, codel.Begin, stands(1000)) // the next one would have been at 1100
	require.Equal(t, codel.Drop, stands(1100+1599))
	require.Equal(t, codel.Begin, stands(2799+1600))
}

// What is left decides, not the wait: the last packet always passes.
func TestShort(t *testing.T) {
	l := codel.Law{Target: 5, Interval: 100}
	for now := int64(1); now < 100_000; now += 50 {
		require.Equal(t, codel.Pass, l.Judge(now, now-1000, true))
	}
}
