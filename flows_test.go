package porthole_test

import (
	"io"
	"strings"
	"testing"

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
