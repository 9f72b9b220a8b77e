package demux

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLogSince(t *testing.T) {
	for _, c := range []struct {
		name         string
		size, events int
		cursor       uint64
		first, last  uint64 // of what is returned; 0: nothing
		next, missed uint64
	}{
		{"empty", 4, 0, 0, 0, 0, 0, 0},
		{"from the beginning", 4, 3, 0, 1, 3, 3, 0},
		{"after the cursor", 4, 3, 2, 3, 3, 3, 0},
		{"nothing new", 4, 3, 3, 0, 0, 3, 0},
		{"exactly full", 4, 4, 0, 1, 4, 4, 0},
		{"one overwritten", 4, 5, 0, 2, 5, 5, 1},
		{"none missed at the edge", 4, 9, 5, 6, 9, 9, 0},
		{"one missed at the edge", 4, 9, 4, 6, 9, 9, 1},
		{"far behind", 4, 100, 10, 97, 100, 100, 86},
		{"a cursor of another log", 4, 3, 50, 0, 0, 50, 0},
		{"at least one is kept", 0, 3, 0, 3, 3, 3, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := NewLog(c.size)
			for i := range c.events {
				l.Add(Event{Count: uint64(i + 1)})
			}
			evs, next, missed := l.Since(nil, c.cursor)
			require.Equal(t, c.next, next)
			require.Equal(t, c.missed, missed)
			if c.first == 0 {
				require.Empty(t, evs)
				return
			}
			require.Len(t, evs, int(c.last-c.first+1))
			for i, e := range evs {
				require.Equal(t, c.first+uint64(i), e.Seq)
				require.Equal(t, e.Seq, e.Count)
				require.WithinDuration(t, time.Now(), e.At, time.Minute)
			}
		})
	}
}

// A reader that follows many writers sees each event once, in order, or is told
// how many it missed.
func TestLogFollow(t *testing.T) {
	const writers, each = 4, 2000
	l := NewLog(64)
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				l.Add(Event{Type: PortBound})
			}
		})
	}
	var seen, missed, cursor uint64
	var buf []Event
	for seen+missed < writers*each {
		evs, next, lost := l.Since(buf[:0], cursor)
		for i, e := range evs {
			require.Equal(t, cursor+lost+uint64(i)+1, e.Seq)
		}
		seen, missed, cursor, buf = seen+uint64(len(evs)), missed+lost, next, evs
	}
	wg.Wait()
	require.EqualValues(t, writers*each, seen+missed)
}

func TestFates(t *testing.T) {
	names := map[string]bool{}
	for f := Malformed; f < numFates; f++ {
		require.NotEmpty(t, f.String())
		require.NotEmpty(t, f.Doc())
		require.False(t, names[f.String()], "two fates named %s", f)
		names[f.String()] = true
		got, ok := ParseFate(f.String())
		require.True(t, ok)
		require.Equal(t, f, got)
	}
	_, ok := ParseFate("none")
	require.False(t, ok, "no packet ends without a fate")
	require.Equal(t, "unknown", numFates.String())
	for f, lost := range map[Fate]bool{ToStack: false, ToService: false, Closed: false, ToReassembly: false, QueueFull: true, Martian: true, HostStopped: true} {
		require.Equal(t, lost, f.Dropped(), f)
	}
}

func TestPortNames(t *testing.T) {
	for p, want := range map[Port]string{
		TCPPort(80): "80/tcp", UDPPort(53): "53/udp", TCPPort(65535): "65535/tcp", UDPPort(65535): "65535/udp",
		LaneClosed: "closed", LaneLink: "link", LaneICMP: "icmp", LaneHost: "host",
	} {
		require.Equal(t, want, p.String())
	}
	require.True(t, UDPPort(0).IsUDP())
	require.False(t, UDPPort(65535).IsLane())
	require.EqualValues(t, 0, LaneLink.Number())
}
