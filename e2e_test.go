package porthole_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/internal/leak"
	"porthole/stack/stacktest"
	"porthole/tun"
)

func TestMain(m *testing.M) { leak.Main(m) }

// rig is a whole host with its client, in memory.
type rig struct {
	host   *porthole.Host
	client *stacktest.Client
	http   *http.Client
}

func newRig(t testing.TB, o tun.PipeOptions, edit func(*porthole.Config)) *rig {
	t.Helper()
	cfg := porthole.DefaultConfig()
	if edit != nil {
		edit(&cfg)
	}
	p := o
	if o.HW != nil {
		p.HW = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	}
	a, b := tun.Pipe(o, p)
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	h, err := porthole.New(cfg, a, log)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	r := &rig{host: h, client: stacktest.New(t, b)}
	tr := &http.Transport{DialContext: r.client.DialContext}
	r.http = &http.Client{Transport: tr, Timeout: time.Minute}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		cancel()
		require.NoError(t, <-done)
		require.True(t, h.Health().LedgerOK, "%+v", h.Health())
	})
	<-h.Ready()
	return r
}

func TestEveryServiceAnswers(t *testing.T) {
	for name, o := range map[string]tun.PipeOptions{
		"plain": {}, "gso": {GSO: true}, "ethernet": {HW: net.HardwareAddr{2, 0, 0, 0, 0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, o, nil)
			for _, p := range r.host.Ports() {
				if p.State == "connected" || p.State == "closing" {
					continue // the self-test's own ends
				}
				require.Equal(t, "answering", p.State, "%v %s: %s", p.Port, p.Service, p.Error)
			}
			for _, host := range []netip.Addr{stacktest.Host4.Addr(), stacktest.Host6.Addr()} {
				resp, err := r.http.Get("http://" + netip.AddrPortFrom(host, 80).String() + "/")
				require.NoError(t, err)
				_, err = io.Copy(io.Discard, resp.Body)
				require.NoError(t, err)
				resp.Body.Close()
				require.Equal(t, 200, resp.StatusCode)
			}
		})
	}
}
