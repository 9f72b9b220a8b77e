package flow

import (
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/demux"
)

// A listener that closes resets what is half open, and its RSTs may come after its end.
// They are no clients of the next one.
func TestGoneIsNoClient(t *testing.T) {
	rec := record{until: 4, events: []event{
		{at: 1, kind: evGone, flow: 7},
		{at: 2, kind: evSyn, flow: 8, fate: demux.ToStack},
		{at: 3, kind: evGone, flow: 8},
	}}
	require.Equal(t, []client{{syn: 2, gone: 1}}, newStory(rec).clients)
}
