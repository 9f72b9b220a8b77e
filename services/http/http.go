// Package http is the virtual host's web server: a welcome page that says what
// the host is, deterministic downloads and a sink for uploads to measure and
// check transfers with, static files, and the go-httpbin endpoints to test
// clients against.
//
// A request passes, in this order: the connection limit and write deadlines
// (conn.go), a look at what net/http would not tell (head.go), net/http's parser
// with its header limits, the request gate, access line and panic guard (site.go),
// the route table with methods and body limits (route.go), and one endpoint:
// welcome.go, blob.go, sink.go, files.go, upload.go or go-httpbin (testpages.go).
// HTTP/2 without TLS comes in by prior knowledge, or by the older Upgrade
// (upgrade.go); what net/http's HTTP/2 server takes too strictly or too lightly is
// put right on the way to it (frames.go).
//
// Left out, on purpose: TLS, compression of our own, authentication, caching of
// what is served, and HTTP/3.
package http

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"

	"porthole/services"
)

// Service answers HTTP on its TCP ports.
var Service = services.Service{
	Name:   "http",
	About:  "HTTP/1.1 and h2c (RFC 9110, 9112, 9113): welcome page, /blob, /sink, /files, /test; no TLS",
	Ports:  []services.Port{services.TCP(80)},
	Config: func() any { c := Default(); return &c },
	Serve:  serve,
	Probe:  probe,
}

// probeSize is small enough for one segment and long enough to notice a wrong byte.
const probeSize = 32

// probe downloads a small blob and compares every byte, so that a good answer
// proves parser, routing and body. It leaves no connection behind.
func probe(ctx context.Context, env *services.Env, port services.Port) error {
	tr := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return env.Net.Dial(ctx, "tcp", 0, env.Host.AddrPort(port.Number))
		},
	}
	defer tr.CloseIdleConnections()
	url := fmt.Sprintf("http://%s/blob/%d", env.Host.AddrPort(port.Number), probeSize)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "porthole-probe/"+env.Host.Version)
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("get /blob: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("get /blob: status %s", resp.Status)
	}
	got, err := io.ReadAll(io.LimitReader(resp.Body, probeSize+1))
	if err != nil {
		return fmt.Errorf("get /blob: %w", err)
	}
	if !bytes.Equal(got, pattern()[:probeSize]) {
		return fmt.Errorf("get /blob: wrong bytes %x", got)
	}
	return nil
}
