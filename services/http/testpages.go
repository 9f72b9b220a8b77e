package http

import (
	"net/http"
	"net/url"
	"strings"
)

// testSlots bounds the go-httpbin requests in work: each may hold its whole body,
// and several copies of it, in memory.
const testSlots = 256

// testPages serves go-httpbin. Its own OPTIONS answer is for browsers (CORS); the
// Allow field is added to it.
func (s *site) testPages(h http.Handler) func(*response, *http.Request) {
	g := newGate(testSlots)
	return func(w *response, r *http.Request) {
		if !g.enter() {
			w.Header().Set("Retry-After", "1")
			w.fail(http.StatusServiceUnavailable, "too many requests under /test/ at a time")
			return
		}
		defer g.leave()
		if r.Method == http.MethodOptions {
			w.Header().Set("Allow", anyMethod.String())
		}
		if w.moved = s.testMoves(r.URL.Path); w.moved == nil {
			// Without this the "url" that it shows would lack /test.
			r2, u := *r, *r.URL
			u.Opaque = "//" + r.Host + r.URL.EscapedPath()
			r2.URL = &u
			r = &r2
		}
		h.ServeHTTP(w, r)
	}
}

// testMoves mends where go-httpbin sends a client: it puts its prefix before a
// target that has it or is outside of it, and leaves it out of absolute ones.
func (s *site) testMoves(path string) func(to string) string {
	switch {
	case path == "/test/redirect-to":
		return func(to string) string {
			if rest, ok := strings.CutPrefix(to, "/test/test/"); ok {
				return "/test/" + rest
			}
			rest := strings.TrimPrefix(to, "/test")
			bare, _, _ := strings.Cut(rest, "?")
			if bare != "/" && s.find(bare) != nil { // another page of ours
				return rest
			}
			return to
		}
	case strings.HasPrefix(path, "/test/absolute-redirect/"), strings.HasPrefix(path, "/test/redirect/"):
		return func(to string) string {
			u, err := url.Parse(to)
			if err != nil || u.Host == "" || strings.HasPrefix(u.Path, "/test/") {
				return to
			}
			u.Path = "/test" + u.Path
			return u.String()
		}
	case strings.HasPrefix(path, "/test/links/"): // made from the request's URL
		return func(to string) string { return to }
	}
	return nil
}
