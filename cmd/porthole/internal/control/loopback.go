package control

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// Loopback is the API on a TCP port of this machine, for browsers and for
// Prometheus. Every user of the machine, and every page that a browser on it shows,
// can connect to such a port. So each request needs the token, which stands in a
// file that only the host's user can read; it must name the port's own address as
// its Host (a foreign name that was made to lead here would be DNS rebinding); and
// what a page of another origin sends is refused.
type Loopback struct {
	ln    net.Listener
	token string
	file  string
	hosts []string // what Host may say
}

// LoopbackAddr checks an address for ListenLoopback: 127.0.0.1:PORT, [::1]:PORT or
// localhost:PORT.
func LoopbackAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is no ADDRESS:PORT, such as 127.0.0.1:9077", addr)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n > 65535 {
		return fmt.Errorf("%q: the port must be 0 to 65535", addr)
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback() || ip.Zone() != "") {
		return fmt.Errorf("%q is not on loopback; want 127.0.0.1, [::1] or localhost", addr)
	}
	return nil
}

// ListenLoopback also serves the API on addr, from Serve on. The token stands in
// NAME.token beside the socket, mode 0600; it is a new one each time.
func (s *Server) ListenLoopback(addr string) (*Loopback, error) {
	if err := LoopbackAddr(addr); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("control address: %w", err)
	}
	l := &Loopback{ln: ln, token: rand.Text(), file: strings.TrimSuffix(s.path, ".sock") + ".token"}
	at := ln.Addr().(*net.TCPAddr).AddrPort()
	port := strconv.Itoa(int(at.Port()))
	l.hosts = []string{net.JoinHostPort(at.Addr().Unmap().String(), port), "localhost:" + port}
	_ = os.Remove(l.file)
	f, err := os.OpenFile(l.file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		_, err = f.WriteString(l.token + "\n")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("control token: %w", err), ln.Close())
	}
	s.loop = l
	return l, nil
}

// URL is where the API is.
func (l *Loopback) URL() string { return "http://" + l.hosts[0] + "/" }

// TokenFile is the file that holds the token.
func (l *Loopback) TokenFile() string { return l.file }

func (l *Loopback) close() {
	_ = l.ln.Close()
	_ = os.Remove(l.file)
}

// guard lets through what comes from the user's own programs and pages.
func (l *Loopback) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ours := func(host string) bool {
			for _, h := range l.hosts {
				if strings.EqualFold(h, host) {
					return true
				}
			}
			return false
		}
		if !ours(r.Host) {
			fail(w, http.StatusMisdirectedRequest, fmt.Sprintf("host %q is not this one; use %s", r.Host, l.URL()))
			return
		}
		for _, o := range r.Header.Values("Origin") {
			u, err := url.Parse(o)
			if err != nil || u.Scheme != "http" || !ours(u.Host) {
				fail(w, http.StatusForbidden, fmt.Sprintf("origin %q may not ask here", o))
				return
			}
		}
		switch r.Header.Get("Sec-Fetch-Site") {
		case "", "same-origin", "none":
		default:
			fail(w, http.StatusForbidden, "a page of another site may not ask here")
			return
		}
		given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok || subtle.ConstantTimeCompare([]byte(given), []byte(l.token)) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			fail(w, http.StatusUnauthorized, "want Authorization: Bearer TOKEN; the token stands in "+l.file)
			return
		}
		next.ServeHTTP(w, r)
	})
}
