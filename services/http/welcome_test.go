package http

import (
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/services"
)

func TestWelcome(t *testing.T) {
	ports := []services.PortInfo{
		{Port: services.TCP(80), Service: "http", About: "web <b>&"},
		{Port: services.TCP(21), Service: "ftp", About: "files"},
		{Port: services.UDP(5353), Service: "dns", About: "names"},
		{Port: services.UDP(7), Service: "echo", About: "RFC 862"},
	}
	w := start(t, func(env *services.Env, cfg *Config) {
		env.Host.Addr4 = netip.MustParsePrefix("10.77.0.1/24")
		env.Host.Addr6 = netip.MustParsePrefix("fd77::1/64")
		env.Ports = func() []services.PortInfo { return ports }
		env.Pages = map[string]any{"/porthole/": http.NotFoundHandler()}
	})
	said := []string{
		"10.77.0.1/24", "fd77::1/64", "80/tcp", "5353/udp",
		"curl -T FILE http://10.77.0.1/sink",
		"dig @10.77.0.1 -p 5353 http.porthole.test",
		"ftp://10.77.0.1", "nc -u -w 1 10.77.0.1 7", "ping -c 3 10.77.0.1",
		"/porthole/", "/test/", "/blob/1MiB",
	}
	resp, body := w.do(t, "GET", "/", nil)
	require.Equal(t, "text/html; charset=utf-8", resp.Header.Get("Content-Type"))
	require.Equal(t, "Accept", resp.Header.Get("Vary"))
	page := string(body)
	for _, s := range said {
		require.Contains(t, page, s)
	}
	require.Contains(t, page, "web &lt;b&gt;&amp;")
	// Nothing is fetched from elsewhere, and nothing runs.
	require.NotRegexp(t, regexp.MustCompile(`(?i)<script|<img|src=|@import|url\(|<link[^>]+https?:`), page)
	require.Contains(t, resp.Header.Get("Content-Security-Policy"), "default-src 'none'")
	for _, s := range []string{`lang="en"`, "<title>", "<h1>", "<main>", "<caption>", `scope="col"`, "prefers-color-scheme: dark", "viewport"} {
		require.Contains(t, page, s)
	}
	resp, body = w.do(t, "GET", "/", nil, "Accept", "text/plain")
	require.Equal(t, "text/plain; charset=utf-8", resp.Header.Get("Content-Type"))
	for _, s := range said {
		require.Contains(t, string(body), s)
	}
}

func TestWelcomePortTableIsBounded(t *testing.T) {
	w := start(t, func(env *services.Env, _ *Config) {
		env.Ports = func() (ps []services.PortInfo) {
			for i := range 1000 {
				ps = append(ps, services.PortInfo{Port: services.TCP(uint16(i + 1)), Service: "http"})
			}
			return ps
		}
	})
	_, body := w.do(t, "GET", "/", nil)
	require.Equal(t, portRows, strings.Count(string(body), "/tcp</code>"))
	require.Contains(t, string(body), "and 800 more")
}

func TestPrefersText(t *testing.T) {
	for _, c := range []struct {
		in   []string
		want bool
	}{
		{nil, false},
		{[]string{"*/*"}, false},
		{[]string{"text/plain"}, true},
		{[]string{"Text/Plain"}, true},
		{[]string{"text/html"}, false},
		{[]string{"text/html,application/xhtml+xml,*/*;q=0.8"}, false},
		{[]string{"text/plain, text/html"}, false},
		{[]string{"text/plain, text/html;q=0.9"}, true},
		{[]string{"text/plain;q=0.5, */*"}, false},
		{[]string{"text/plain", "*/*;q=0.1"}, true},
		{[]string{"text/*"}, false},
		{[]string{"text/html;q=0, */*"}, true},
		{[]string{"text/plain;q=x"}, false},
		{[]string{"text/plain;q=0"}, false},
	} {
		require.Equal(t, c.want, prefersText(http.Header{"Accept": c.in}), fmt.Sprint(c.in))
	}
}
