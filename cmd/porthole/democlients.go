package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/jlaffaye/ftp"
	"github.com/miekg/dns"
)

// The built-in clients. They dial addresses, not names, so that they work in
// memory too, where no resolver of the system can reach the host.

func (t *target) at(port uint16) string { return netip.AddrPortFrom(t.addr, port).String() }

// lookup asks the host for the zone's own address.
func (t *target) lookup(ctx context.Context) (string, error) {
	conn, err := t.dial(ctx, "udp", t.at(53))
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	var q dns.Msg
	q.SetQuestion(dns.Fqdn(t.zone), dns.TypeA)
	c := dns.Client{Timeout: stepLimit}
	r, _, err := c.ExchangeWithConnContext(ctx, &q, &dns.Conn{Conn: conn})
	if err != nil {
		return "", err
	}
	var lines []string
	for _, rr := range r.Answer {
		lines = append(lines, rr.String())
	}
	return strings.Join(lines, "\n"), nil
}

// get reads one resource and says how much it was, as the curl lines do.
func (t *target) get(ctx context.Context, path string) (string, error) {
	tr := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return t.dial(ctx, network, t.at(80))
	}}
	defer tr.CloseIdleConnections()
	begin := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.zone+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	n, err := io.Copy(io.Discard, resp.Body)
	return fmt.Sprintf("%d %s, %d bytes in %.3f s", resp.StatusCode, resp.Header.Get("Content-Type"), n, time.Since(begin).Seconds()), err
}

// list logs in as anonymous and lists the root.
func (t *target) list(ctx context.Context) (string, error) {
	c, err := ftp.Dial(t.at(21), ftp.DialWithDialFunc(func(network, address string) (net.Conn, error) {
		return t.dial(ctx, network, address)
	}))
	if err != nil {
		return "", err
	}
	if err := c.Login("anonymous", "demo@porthole.test"); err != nil {
		return "", err
	}
	entries, err := c.List("/")
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, "%-6s %10d  %s\n", e.Type, e.Size, e.Name)
	}
	return b.String(), c.Quit()
}
