package http

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mccutchen/go-httpbin/v2/httpbin"

	"porthole/services"
)

// site is the handler of all requests and owns what the endpoints share: the
// directory under /files/, the request gate, the connections that come back.
type site struct {
	env      *services.Env
	cfg      *Config
	requests *gate
	back     *returned // upgraded connections, and those that have rested
	files    *files    // nil when there is no directory
	metas    metaCache
	server   []string // value of the Server field, shared by all responses
	routes   routes
	mounts   []mount // of env.Pages, longest prefix first
}

type mount struct {
	prefix string
	route  *route
}

func newSite(env *services.Env, cfg *Config) (*site, error) {
	s := &site{
		env:      env,
		cfg:      cfg,
		requests: newGate(cfg.MaxRequests),
		back:     newReturned(),
		server:   slices.Clip([]string{"porthole/" + env.Host.Version}),
	}
	dir := cfg.Files
	if dir == "" && env.DataDir != "" {
		dir = filepath.Join(env.DataDir, "files")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make files directory: %w", err)
		}
	}
	switch {
	case dir != "":
		f, err := openFiles(dir, cfg, env)
		if err != nil {
			return nil, fmt.Errorf("open files directory: %w", err)
		}
		s.files = f
	case cfg.Upload:
		return nil, fmt.Errorf("upload: needs a directory: set files, or give the host a data directory")
	}
	for prefix, h := range env.Pages {
		page, ok := h.(http.Handler)
		if !ok {
			s.close()
			return nil, fmt.Errorf("page %s: %T is no http.Handler", prefix, h)
		}
		s.mounts = append(s.mounts, mount{prefix, &route{
			methods: anyMethod, limit: int64(cfg.PageLimit), own: true,
			serve: func(w *response, r *http.Request) { page.ServeHTTP(w, r) },
		}})
	}
	slices.SortFunc(s.mounts, func(a, b mount) int { return len(b.prefix) - len(a.prefix) })
	s.routes = s.makeRoutes(httpbin.New(
		httpbin.WithPrefix("/test"),
		httpbin.WithHostname(env.Host.Name),
		httpbin.WithMaxBodySize(int64(cfg.TestLimit)),
		httpbin.WithEnv(map[string]string{}),
		httpbin.WithVersion("porthole", env.Host.Version, "", "", ""),
	))
	return s, nil
}

func (s *site) close() {
	if s.files != nil {
		s.files.root.Close()
	}
}

// ServeHTTP answers one request: gate, routes, access line. A panic ends this
// request alone.
func (s *site) ServeHTTP(raw http.ResponseWriter, r *http.Request) {
	raw.Header()["Server"] = s.server
	w := &response{ResponseWriter: raw, http2: r.ProtoMajor == 2, timeout: s.cfg.WriteTimeout}
	if hasBody(r) {
		w.body = newBody(raw, r, s.cfg.BodyTimeout)
		defer w.body.finish()
	}
	if !s.requests.enter() {
		raw.Header().Set("Retry-After", "1")
		w.fail(http.StatusServiceUnavailable, "too many requests at a time")
		s.access(w, r, time.Time{})
		return
	}
	defer s.requests.leave()
	var began time.Time
	if s.env.Logged() {
		began = s.env.Now()
	}
	defer func() {
		switch p := recover(); {
		case p == nil:
			s.access(w, r, began)
		case p == http.ErrAbortHandler:
			s.access(w, r, began)
			panic(p)
		default:
			s.env.Log.Error("panic", "request", requestLine(r), "panic", p, "stack", string(debug.Stack()))
			if w.status == 0 {
				w.fail(http.StatusInternalServerError, "the handler of this page failed")
				s.access(w, r, began)
				return
			}
			// Half an answer must not look whole: end the connection or the stream.
			s.access(w, r, began)
			panic(http.ErrAbortHandler)
		}
	}()
	s.dispatch(w, r)
}

// access writes the request's line. began is zero for a request that was not
// begun, or when its line was not wanted then.
func (s *site) access(w *response, r *http.Request, began time.Time) {
	if w.upgraded || !s.env.Logged() {
		return
	}
	var took time.Duration
	if !began.IsZero() {
		took = s.env.Now().Sub(began)
	}
	status := w.status
	if status == 0 {
		status = http.StatusOK
	}
	sent := w.bytes
	if r.Method == http.MethodHead { // net/http keeps them
		sent = 0
	}
	s.env.Access(remote(r.RemoteAddr), requestLine(r), strconv.Itoa(status), took, slog.Int64("bytes", sent))
}

// refuse makes the answer to what net/http could not read as a request, and writes
// its access line.
func (s *site) refuse(from net.Addr, request, status string) []byte {
	code, _, _ := strings.Cut(status, " ")
	s.env.Access(from, request, code, 0)
	body := status + "\n"
	answer := fmt.Appendf(nil, "HTTP/1.1 %s\r\nContent-Length: %d\r\nContent-Type: text/plain; charset=utf-8\r\n"+
		"Server: %s\r\nX-Content-Type-Options: nosniff\r\nDate: %s\r\nConnection: close\r\n\r\n",
		status, len(body), s.server[0], s.env.Now().UTC().Format(http.TimeFormat))
	if strings.HasPrefix(request, "HEAD ") { // RFC 9110, 9.3.2: no content
		return answer
	}
	return append(answer, body...)
}

// loggedURI bounds a request in the log: the start tells which it was.
const loggedURI = 512

func requestLine(r *http.Request) string {
	uri := r.RequestURI
	if len(uri) > loggedURI {
		uri = uri[:loggedURI] + "..."
	}
	var b strings.Builder
	b.WriteString(r.Method)
	b.WriteByte(' ')
	b.WriteString(uri)
	b.WriteByte(' ')
	b.WriteString(r.Proto)
	return b.String()
}

// remote is a client's address as net/http gives it.
type remote string

func (remote) Network() string  { return "tcp" }
func (a remote) String() string { return string(a) }
