package porthole_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/impair"
	"porthole/stack/stacktest"
	"porthole/tun"
)

// ruledRig is a host whose link is under rules from the start.
func ruledRig(t testing.TB, o tun.PipeOptions, in, out string) *rig {
	t.Helper()
	a, b := tun.Pipe(o, o)
	rules := tun.ImpairOptions{ShowDropped: true}
	var err error
	rules.In, err = impair.Parse(in)
	require.NoError(t, err)
	rules.Out, err = impair.Parse(out)
	require.NoError(t, err)
	h, err := porthole.New(porthole.DefaultConfig(), tun.Impair(a, rules), nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	r := &rig{host: h, client: stacktest.New(t, b)}
	tr := &http.Transport{DialContext: r.client.DialContext, DisableKeepAlives: true}
	r.http = &http.Client{Transport: tr, Timeout: time.Minute}
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		require.True(t, h.Health().LedgerOK, "%+v", h.Health())
	})
	<-h.Ready()
	return r
}

// TestDownloadOverBadLink: a mebibyte comes whole over a link that loses, delays,
// reorders, copies and corrupts both ways, and every packet is accounted for.
func TestDownloadOverBadLink(t *testing.T) {
	for name, o := range map[string]tun.PipeOptions{"plain": {}, "gso": {GSO: true}} {
		t.Run(name, func(t *testing.T) {
			const rules = "loss:1%,delay:1ms±0.5ms,reorder:5%,duplicate:2%,corrupt:1%,seed:7"
			r := ruledRig(t, o, rules, rules)
			resp, err := r.http.Get("http://10.77.0.1/blob/1048576")
			require.NoError(t, err)
			defer resp.Body.Close()
			sum := sha256.New()
			n, err := io.Copy(sum, resp.Body)
			require.NoError(t, err)
			require.EqualValues(t, 1<<20, n)
			require.Equal(t, blobHash(t, 1<<20), hex.EncodeToString(sum.Sum(nil)))

			l := r.host.Ledger()
			require.True(t, l.LawOK, l.Broken)
			require.NotZero(t, l.Kinds["duplicated"])
			require.NotZero(t, l.Fates["bad-checksum"])
			require.NotZero(t, l.Fates["fault-injected"])
			p, ok := r.host.PortLedger("80/tcp")
			require.True(t, ok)
			require.NotZero(t, p.Fates["fault-injected"], "it is known for which port it was")
		})
	}
}

// blobHash is the hash of what a perfect link brings.
func blobHash(t *testing.T, n int) string {
	t.Helper()
	r := newRig(t, tun.PipeOptions{}, nil)
	resp, err := r.http.Get("http://10.77.0.1/blob/1048576")
	require.NoError(t, err)
	defer resp.Body.Close()
	sum := sha256.New()
	got, err := io.Copy(sum, resp.Body)
	require.NoError(t, err)
	require.EqualValues(t, n, got)
	return hex.EncodeToString(sum.Sum(nil))
}
