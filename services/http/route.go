package http

import (
	"net/http"
	"net/netip"
	"strings"
)

// methods is a set of the methods this service knows. A method outside the
// catalogue is answered 501, one that a page does not serve 405 with Allow
// (RFC 9110, 15.5.6 and 15.6.2).
type methods uint16

const (
	get methods = 1 << iota
	head
	post
	put
	patch
	del
	options
	trace
	connect
)

var methodNames = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}

// anyMethod leaves out TRACE, which would show a page's cookies to a script, and
// CONNECT, which is for proxies.
const anyMethod = get | head | post | put | patch | del | options

func methodOf(name string) methods {
	switch name { // the common ones first
	case http.MethodGet:
		return get
	case http.MethodHead:
		return head
	}
	for i, n := range methodNames {
		if n == name {
			return 1 << i
		}
	}
	return 0
}

// String is the value of Allow.
func (m methods) String() string {
	var names []string
	for i, n := range methodNames {
		if m&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, ", ")
}

// route is one endpoint: what it serves and how much body it takes.
type route struct {
	methods methods
	limit   int64 // of a request's body
	own     bool  // answers OPTIONS itself
	serve   func(w *response, r *http.Request)
}

type routes struct {
	welcome, icon, blob, sink, files, test route
}

func (s *site) makeRoutes(test http.Handler) routes {
	page := int64(s.cfg.PageLimit)
	rs := routes{
		welcome: route{methods: get | head | options, limit: page, serve: s.serveWelcome},
		icon:    route{methods: get | head | options, limit: page, serve: serveIcon},
		blob:    route{methods: get | head | options, limit: page, serve: s.serveBlob},
		sink:    route{methods: put | post | options, limit: int64(s.cfg.SinkLimit), serve: s.serveSink},
		files:   route{methods: get | head | options, limit: page, serve: s.serveFiles},
		test:    route{methods: anyMethod, limit: int64(s.cfg.TestLimit), own: true, serve: s.testPages(test)},
	}
	if s.files != nil && s.cfg.Upload {
		rs.files.methods |= put
		rs.files.limit = int64(s.cfg.UploadLimit)
	}
	return rs
}

// find returns the endpoint of a path, or nil. The host's own pages win, so that
// it can replace any of these.
func (s *site) find(path string) *route {
	for i := range s.mounts {
		if m := &s.mounts[i]; strings.HasPrefix(path, m.prefix) {
			return m.route
		}
	}
	switch {
	case strings.HasPrefix(path, "/blob/"):
		return &s.routes.blob
	case path == "/sink":
		return &s.routes.sink
	case strings.HasPrefix(path, "/test/"):
		return &s.routes.test
	case strings.HasPrefix(path, "/files/"):
		return &s.routes.files
	case path == "/":
		return &s.routes.welcome
	case path == "/favicon.ico":
		return &s.routes.icon
	}
	return nil
}

// dispatch checks what does not depend on the endpoint, then calls it.
func (s *site) dispatch(w *response, r *http.Request) {
	if len(r.RequestURI) > int(s.cfg.URILimit) {
		w.fail(http.StatusRequestURITooLong, "")
		return
	}
	m := methodOf(r.Method)
	path := r.URL.Path
	if m == 0 && path != "/test/anything" && !strings.HasPrefix(path, "/test/anything/") {
		w.fail(http.StatusNotImplemented, "this method is not known here")
		return
	}
	if status, why := misdirected(r); status != 0 {
		w.Header().Set("Connection", "close")
		w.fail(status, why)
		return
	}
	if path == "" && r.URL.Scheme != "" {
		// RFC 9110, 4.2.3: the same as "/"; of OPTIONS, as "*" (RFC 9112, 3.2.4).
		path, r.URL.Path = "/", "/"
		if m == options && !strings.Contains(r.RequestURI, "?") {
			path = "*"
		}
	}
	if path == "*" {
		w.allow(anyMethod)
		return
	}
	if doubtful(r, m) {
		w.Header().Set("Connection", "close")
		switch {
		case m == connect:
			w.fail(http.StatusBadRequest, "missing required Host header")
			return
		case r.ProtoMinor == 0:
			w.fail(http.StatusBadRequest, "Transfer-Encoding needs HTTP/1.1")
			return
		}
	}
	rt := s.find(path)
	switch {
	case m&(trace|connect) != 0:
		allow := anyMethod
		if rt != nil {
			allow = rt.methods
		}
		w.notAllowed(allow)
		return
	case rt == nil:
		s.lost(w, r, m)
		return
	case m != 0 && rt.methods&m == 0:
		w.notAllowed(rt.methods)
		return
	case m == options && !rt.own:
		w.allow(rt.methods)
		return
	}
	if settings, ok := s.wantsUpgrade(r); ok && s.upgrade(w, r, settings) {
		return
	}
	if r.ContentLength > rt.limit {
		w.fail(http.StatusRequestEntityTooLarge, "")
		return
	}
	if w.body != nil {
		// A copy of the request gets the limited body: net/http looks at the body of
		// its own one to decide what to skip, and whether 100-continue is still owed.
		w.body.limit(w.ResponseWriter, rt.limit)
		r2 := *r
		r2.Body = w.body
		r = &r2
	}
	rt.serve(w, r)
}

// misdirected finds request targets that are nothing to this server: net/http lets
// them through (RFC 9112, 3.2).
func misdirected(r *http.Request) (status int, why string) {
	switch uri := r.RequestURI; {
	case uri == "*" && r.Method != http.MethodOptions:
		return http.StatusBadRequest, "the target * is for OPTIONS"
	case r.Method == http.MethodConnect && r.ProtoMajor == 1 && !strings.Contains(uri, ":"):
		return http.StatusBadRequest, "the target of CONNECT is HOST:PORT"
	case strings.IndexByte(uri, '#') >= 0:
		return http.StatusBadRequest, "a request target has no fragment"
	case r.URL.Opaque != "":
		return http.StatusBadRequest, "a request target is a path or a URI"
	case r.URL.Scheme != "" && !strings.EqualFold(r.URL.Scheme, "http"):
		// RFC 9110, 7.4: https only over a secured connection; and this is no proxy.
		return http.StatusMisdirectedRequest, "only http is served here"
	case r.URL.Scheme != "" && r.URL.Host == "": // RFC 9110, 4.2.1
		return http.StatusBadRequest, "an http URI names a host"
	case r.URL.User != nil: // RFC 9110, 4.2.4
		return http.StatusBadRequest, "an http URI names no user"
	case !validHost(r.Host):
		return http.StatusBadRequest, "malformed Host header"
	}
	return 0, ""
}

// validHost checks the form of a host with an optional port, or of none (RFC 9110,
// 7.2; RFC 9112, 3.2: anything else gets 400). net/http looks at the characters alone.
func validHost(h string) bool {
	name, port, _ := strings.Cut(h, ":")
	if strings.HasPrefix(h, "[") {
		i := strings.IndexByte(h, ']')
		if i < 0 || i+1 < len(h) && h[i+1] != ':' {
			return false
		}
		name, port = h[1:i], strings.TrimPrefix(h[i+1:], ":")
		if a, err := netip.ParseAddr(name); err != nil || !a.Is6() {
			return false
		}
	} else if strings.IndexByte(name, ']') >= 0 || strings.IndexByte(name, '[') >= 0 || name == "" && h != "" {
		return false
	}
	for i := range len(port) {
		if port[i] < '0' || port[i] > '9' {
			return false
		}
	}
	return true
}

// doubtful reports whether where this request ends is open to doubt, so that its
// connection must not go on (RFC 9112, 6.1), or whom it is for: of CONNECT net/http
// asks no Host (3.2).
func doubtful(r *http.Request, m methods) bool {
	if r.ProtoMajor != 1 || r.ProtoMinor > 0 && len(r.TransferEncoding) == 0 && m != connect {
		return false
	}
	c, ok := r.Context().Value(connKey{}).(*conn)
	if !ok {
		return false
	}
	if m == connect {
		return r.ProtoMinor > 0 && c.heads.noHost.Load()
	}
	return c.heads.both.Load() || r.ProtoMinor == 0 && c.heads.coding.Load()
}

// lost answers for a path that is no endpoint: with the way to one that lacks
// only its slash, else 404.
func (s *site) lost(w *response, r *http.Request, m methods) {
	if m&(get|head) != 0 && s.find(r.URL.Path+"/") != nil && strings.LastIndexByte(r.URL.Path, '/') == 0 {
		to := r.URL.Path + "/"
		if r.URL.RawQuery != "" {
			to += "?" + r.URL.RawQuery
		}
		w.redirect(to)
		return
	}
	w.fail(http.StatusNotFound, "no such page; / lists what there is")
}

// redirect is permanent. to must be a path of this site.
func (w *response) redirect(to string) {
	w.Header().Set("Location", to)
	w.text(http.StatusMovedPermanently, "moved to "+to+"\n")
}

func (w *response) allow(m methods) {
	w.Header().Set("Allow", m.String())
	w.WriteHeader(http.StatusNoContent)
}

func (w *response) notAllowed(m methods) {
	w.Header().Set("Allow", m.String())
	w.fail(http.StatusMethodNotAllowed, "this page serves "+m.String())
}

func serveIcon(w *response, _ *http.Request) {
	w.Header().Set("Cache-Control", "max-age=86400")
	w.WriteHeader(http.StatusNoContent)
}
