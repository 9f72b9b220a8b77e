package porthole_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/demux/flow"
	"porthole/services"
	"porthole/tun"
)

// tellFlows prints the flows of a port if the test fails.
func tellFlows(t *testing.T, h *porthole.Host, port services.Port) {
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for _, f := range h.Flows(&port, 0) {
			if f, ok := h.Flow(f.ID); ok {
				var b strings.Builder
				_ = f.WriteLadder(&b)
				t.Logf("%s\n%s%+v", f.Line(), b.String(), f.Receive)
			}
		}
	})
}

// TestTimelines: a request over HTTP has a flow with every station of its way.
func TestTimelines(t *testing.T) {
	for name, o := range map[string]tun.PipeOptions{"plain": {}, "gso": {GSO: true}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, o, nil)
			resp, err := r.http.Get("http://10.77.0.1:80/blob/1000000")
			require.NoError(t, err)
			n, err := io.Copy(io.Discard, resp.Body)
			require.NoError(t, err)
			require.EqualValues(t, 1000000, n)
			resp.Body.Close()
			var found *flow.Flow
			for _, f := range r.host.Flows(nil, 0) {
				if f.Local.Port() == 80 && f.Remote.Addr().String() == "10.77.0.2" {
					found = &f
				}
			}
			require.NotNil(t, found)
			require.NotZero(t, found.Handshake)
			require.NotZero(t, found.Accepted)
			require.NotZero(t, found.Read)
			require.GreaterOrEqual(t, found.Out.Bytes, uint64(1000000))
			t.Log(found.Line())
			one, ok := r.host.Flow(found.ID)
			require.True(t, ok)
			var b strings.Builder
			require.NoError(t, one.WriteLadder(&b))
			t.Log(b.String())
			require.Contains(t, b.String(), "SYN")
			w, err := r.host.Why(found.ID.String())
			require.NoError(t, err)
			t.Log(w.Text)
		})
	}
}

// TestWhyPortKnowsAllDrops: what a port dropped before its door and its record is not
// left out of what why says of it.
func TestWhyPortKnowsAllDrops(t *testing.T) {
	r := newRig(t, tun.PipeOptions{}, nil)
	dial(t, r, "tcp", 7)
	why, err := r.host.Why("7/tcp")
	require.NoError(t, err)
	require.Equal(t, flow.Nothing, why.Cause)
	require.Contains(t, why.Text, "7/tcp: its SYN queue and accept queue refused nothing in the last ")
	require.NotContains(t, why.Text, "dropped")
	set(t, r.host, "7/tcp", "impair=drop-syn:1")
	_, err = tryDial(r, "tcp", 7, 300*time.Millisecond)
	require.Error(t, err)
	why, err = r.host.Why("7/tcp")
	require.NoError(t, err)
	require.Equal(t, flow.Dropped, why.Cause)
	require.Contains(t, why.Text, " In all it has dropped 1 fault-injected, for which no size is reckoned.")
}
