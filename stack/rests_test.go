package stack

import (
	"testing"

	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/buffer"

	"porthole/tun"
)

// A buffer comes again when all who had a part of it have released it, uncleared and
// whole, and never before.
func TestRests(t *testing.T) {
	require.True(t, referencesKnown, "netstack counts a buffer's references elsewhere: see rests.go")
	var r rests
	defer r.close()
	mark := func(v *buffer.View, b byte) *buffer.View {
		require.Len(t, v.AsSlice(), tun.TailSize)
		v.AsSlice()[0] = b
		return r.give(v, 20<<10)
	}
	first := mark(r.next(), 1)
	require.Len(t, first.AsSlice(), 20<<10)
	second := mark(r.next(), 2)
	part := first.Clone()
	first.Release()
	third := mark(r.next(), 3)
	require.Equal(t, []byte{1, 2, 3}, []byte{part.AsSlice()[0], second.AsSlice()[0], third.AsSlice()[0]}, "part is still somebody's")
	part.Release()
	again := r.next()
	require.EqualValues(t, 1, again.AsSlice()[0], "as it was")
	require.Len(t, again.AsSlice(), tun.TailSize)
}

// Buffers that never come back, of packets that were dropped, do not take the place of
// those that do; and no more than restsKept are held.
func TestRestsDropped(t *testing.T) {
	var r rests
	defer r.close()
	for range 2 * restsKept {
		r.give(r.next(), tun.TailSize)
	}
	require.Len(t, r.kept, restsKept)
	v := r.next()
	r.give(v, 1).Release()
	require.Same(t, v, r.next())
}

func BenchmarkRests(b *testing.B) {
	var r rests
	defer r.close()
	b.ReportAllocs()
	for range b.N {
		r.give(r.next(), 40<<10).Release()
	}
}
