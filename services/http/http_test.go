package http

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/internal/leak"
	"porthole/services"
	"porthole/services/servicestest"
)

func TestMain(m *testing.M) { leak.Main(m) }

const patience = servicestest.Patience

// web is a running service and a client for it.
type web struct {
	*servicestest.Rig
	net  services.Net
	addr netip.AddrPort
	url  string
	http *http.Client
}

// start runs the service; edit may change what it is told.
func start(t testing.TB, edit func(*services.Env, *Config)) *web {
	t.Helper()
	return startOn(t, servicestest.Loopback{}, edit)
}

func startOn(t testing.TB, n services.Net, edit func(*services.Env, *Config)) *web {
	t.Helper()
	rig := servicestest.StartOn(t, n, Service, func(env *services.Env) {
		if edit != nil {
			edit(env, env.Config.(*Config))
		}
		require.NoError(t, env.Config.(*Config).Validate())
	})
	w := &web{Rig: rig, net: n, addr: rig.Addr[services.TCP(80)]}
	w.url = "http://" + w.addr.String()
	tr := &http.Transport{DisableCompression: true, DialContext: w.connect}
	w.http = &http.Client{Transport: tr, Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return w
}

// connect is a transport's way to the service.
func (w *web) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	return w.net.Dial(ctx, network, 0, to)
}

// do sends one request and reads the whole answer.
func (w *web) do(t testing.TB, method, path string, body io.Reader, header ...string) (*http.Response, []byte) {
	t.Helper()
	return w.doWith(t, w.http, method, path, body, header...)
}

func (w *web) doWith(t testing.TB, c *http.Client, method, path string, body io.Reader, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequest(method, w.url+path, body)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, got
}

// h2 is a client that speaks HTTP/2 by prior knowledge and nothing else.
func (w *web) h2(t testing.TB) *http.Client {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &p, DisableCompression: true, DialContext: w.connect}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

// dial opens a connection that is closed when the test ends.
func (w *web) dial(t testing.TB) net.Conn {
	t.Helper()
	c, err := w.connect(context.Background(), "tcp", w.addr.String())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return c
}

// raw sends bytes as they are and returns the whole answer until the host closes.
func (w *web) raw(t testing.TB, request string) string {
	t.Helper()
	c := w.dial(t)
	_, err := io.WriteString(c, request)
	require.NoError(t, err)
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	return string(got)
}

func statusLine(answer string) string {
	line, _, _ := strings.Cut(answer, "\r\n")
	return line
}

func TestMethodsAndPaths(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/a.txt", []byte("hello"), 0o644))
	w := start(t, func(env *services.Env, cfg *Config) {
		cfg.Files = dir
		env.Pages = map[string]any{"/porthole/": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "page "+r.URL.Path)
		})}
	})
	const ro = "GET, HEAD, OPTIONS"
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/", 200, ""},
		{"HEAD", "/", 200, ""},
		{"OPTIONS", "/", 204, ro},
		{"POST", "/", 405, ro},
		{"DELETE", "/", 405, ro},
		{"TRACE", "/", 405, ro},
		{"FOO", "/", 501, ""},
		{"get", "/", 501, ""},
		{"PROPFIND", "/files/", 501, ""},
		{"GET", "/favicon.ico", 204, ""},
		{"HEAD", "/favicon.ico", 204, ""},
		{"GET", "/nothing", 404, ""},
		{"POST", "/nothing", 404, ""},
		{"FOO", "/nothing", 501, ""},
		{"GET", "/blob/5", 200, ""},
		{"HEAD", "/blob/5", 200, ""},
		{"PUT", "/blob/5", 405, ro},
		{"OPTIONS", "/blob/5", 204, ro},
		{"GET", "/blob/", 400, ""},
		{"GET", "/blob/x", 400, ""},
		{"GET", "/blob/-1", 400, ""},
		{"GET", "/blob/+1", 400, ""},
		{"GET", "/blob/1%20KiB", 400, ""},
		{"GET", "/blob/1/2", 400, ""},
		{"GET", "/blob/9GiB", 404, ""},
		{"GET", "/blob/99999999999999999999999", 400, ""},
		{"GET", "/blob", 301, ""},
		{"GET", "/sink", 405, "POST, PUT, OPTIONS"},
		{"HEAD", "/sink", 405, "POST, PUT, OPTIONS"},
		{"OPTIONS", "/sink", 204, "POST, PUT, OPTIONS"},
		{"PUT", "/sink", 200, ""},
		{"POST", "/sink", 200, ""},
		{"GET", "/files", 301, ""},
		{"GET", "/files/", 200, ""},
		{"HEAD", "/files/", 200, ""},
		{"GET", "/files/a.txt", 200, ""},
		{"HEAD", "/files/a.txt", 200, ""},
		{"GET", "/files/b.txt", 404, ""},
		{"PUT", "/files/a.txt", 405, ro},
		{"DELETE", "/files/a.txt", 405, ro},
		{"GET", "/test", 301, ""},
		{"GET", "/test/", 200, ""},
		{"GET", "/test/get", 200, ""},
		{"HEAD", "/test/get", 200, ""},
		{"POST", "/test/get", 405, "GET, HEAD"},
		{"OPTIONS", "/test/get", 200, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"},
		{"PATCH", "/test/patch", 200, ""},
		{"DELETE", "/test/delete", 200, ""},
		{"FOO", "/test/anything", 200, ""},
		{"TRACE", "/test/anything", 405, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"},
		{"GET", "/test/status/418", 418, ""},
		{"GET", "/test/nothing", 404, ""},
		{"GET", "/porthole", 301, ""},
		{"GET", "/porthole/x", 200, ""},
		{"POST", "/porthole/x", 200, ""},
		{"FOO", "/porthole/x", 501, ""},
		{"TRACE", "/porthole/x", 405, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			resp, body := w.do(t, c.method, c.path, nil)
			require.Equal(t, c.status, resp.StatusCode, "%s", body)
			require.Equal(t, c.allow, resp.Header.Get("Allow"))
			require.Equal(t, "porthole/test", resp.Header.Get("Server"))
			_, err := http.ParseTime(resp.Header.Get("Date"))
			require.NoError(t, err)
			if c.method == "HEAD" {
				require.Empty(t, body)
			}
		})
	}
}

// HEAD must say what GET would (RFC 9110, 9.3.2).
func TestHeadIsGetWithoutBody(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/a.txt", []byte("hello"), 0o644))
	w := start(t, func(_ *services.Env, cfg *Config) { cfg.Files = dir })
	for _, path := range []string{"/", "/blob/100000", "/files/", "/files/a.txt", "/nothing"} {
		g, body := w.do(t, "GET", path, nil)
		h, none := w.do(t, "HEAD", path, nil)
		g.Header.Del("Date")
		h.Header.Del("Date")
		require.Equal(t, g.Header, h.Header, path)
		require.Equal(t, int64(len(body)), h.ContentLength, path)
		require.Empty(t, none)
	}
}

func TestExpectContinue(t *testing.T) {
	w := start(t, nil)
	c := w.dial(t)
	fmt.Fprintf(c, "PUT /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
	br := bufio.NewReader(c)
	line, err := br.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 100 Continue\r\n", line)
	_, err = br.ReadString('\n')
	require.NoError(t, err)
	io.WriteString(c, "hello")
	rest, err := io.ReadAll(br)
	require.NoError(t, err)
	require.Contains(t, string(rest), `{"bytes":5,"sha256":"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"}`)
}

func TestPipelining(t *testing.T) {
	w := start(t, nil)
	got := w.raw(t, strings.Repeat("GET /blob/3 HTTP/1.1\r\nHost: a\r\n\r\n", 20)+"GET /blob/3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	require.Equal(t, 21, strings.Count(got, "HTTP/1.1 200 OK\r\n"))
}

func TestChunkedTooLong(t *testing.T) {
	t.Parallel()
	w := start(t, func(_ *services.Env, cfg *Config) { cfg.SinkLimit = 10 })
	for _, c := range []struct {
		path string
		n    int
		want int
	}{
		{"/sink", 10, 200},
		{"/sink", 11, 413},
		{"/sink", 1 << 20, 413},
		{"/test/post", 1 << 20, 200},
		{"/test/post", 1<<20 + 1, 413},
		{"/test/upload", 1<<20 + 1, 413},
	} {
		for name, client := range map[string]*http.Client{"http1": w.http, "http2": w.h2(t)} {
			t.Run(fmt.Sprint(name, c.path, c.n), func(t *testing.T) {
				// A reader of unknown length goes out chunked.
				body := struct{ io.Reader }{bytes.NewReader(make([]byte, c.n))}
				resp, _ := w.doWith(t, client, "POST", c.path, body)
				require.Equal(t, c.want, resp.StatusCode)
			})
		}
	}
}

func TestPanicEndsOneRequest(t *testing.T) {
	var log servicestest.Log
	w := start(t, func(env *services.Env, _ *Config) {
		env.Log = slog.New(slog.NewTextHandler(&log, nil))
		env.Pages = map[string]any{
			"/early": http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("early") }),
			"/late": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "100")
				w.Write([]byte("half"))
				w.(http.Flusher).Flush()
				panic("late")
			}),
		}
	})
	resp, _ := w.do(t, "GET", "/early", nil)
	require.Equal(t, 500, resp.StatusCode)
	resp, err := w.http.Get(w.url + "/late")
	require.NoError(t, err)
	_, err = io.ReadAll(resp.Body)
	resp.Body.Close()
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	resp, _ = w.do(t, "GET", "/blob/1", nil)
	require.Equal(t, 200, resp.StatusCode)
	require.NoError(t, w.Stop())
	require.Contains(t, log.String(), "panic=early")
	require.Contains(t, log.String(), "panic=late")
	require.Contains(t, log.String(), `request="GET /early HTTP/1.1" result=500`)
}

// Blank lines are skipped however they are cut into segments.
func TestBlankLinesInPieces(t *testing.T) {
	for step := 1; step < 8; step++ {
		c := &conn{Conn: &readConn{r: bytes.NewReader([]byte("\r\n\nGET\r\n"))}}
		var got []byte
		p := make([]byte, step)
		for {
			n, err := c.Read(p)
			got = append(got, p[:n]...)
			if err != nil {
				break
			}
		}
		require.Equal(t, "GET\r\n", string(got))
	}
}

func TestAccessLines(t *testing.T) {
	t.Parallel()
	var log servicestest.Log
	w := start(t, func(env *services.Env, _ *Config) {
		env.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	w.do(t, "GET", "/blob/128?a=b", nil)
	w.do(t, "PUT", "/sink", strings.NewReader("abc"))
	w.do(t, "GET", "/nothing", nil)
	w.doWith(t, w.h2(t), "GET", "/blob/7", nil)
	w.do(t, "HEAD", "/", nil)
	require.NoError(t, w.Stop())
	for _, want := range []string{
		`msg=access client=127.0.0.1:`,
		`request="GET /blob/128?a=b HTTP/1.1" result=200 took=`,
		`bytes=128`,
		`request="PUT /sink HTTP/1.1" result=200`,
		`request="GET /nothing HTTP/1.1" result=404`,
		`request="GET /blob/7 HTTP/2.0" result=200`,
	} {
		require.Contains(t, log.String(), want)
	}
	require.Regexp(t, `request="HEAD / HTTP/1.1" result=200 took=\S+ bytes=0\n`, log.String())
	require.Equal(t, 5, strings.Count(log.String(), "msg=access"))
}

func TestProbe(t *testing.T) {
	w := start(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, Service.Probe(ctx, w.Env, services.TCP(w.addr.Port())))

	wrong := httpTestServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, strings.Repeat("x", probeSize))
	}))
	require.ErrorContains(t, Service.Probe(ctx, w.Env, services.TCP(wrong)), "wrong bytes")
	require.NoError(t, w.Stop())
	require.Error(t, Service.Probe(ctx, w.Env, services.TCP(w.addr.Port())))
}

// httpTestServer serves h on a loopback port until the test ends.
func httpTestServer(t *testing.T, h http.Handler) uint16 {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() { srv.Serve(ln); close(done) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return ln.Addr().(*net.TCPAddr).AddrPort().Port()
}

func TestConfigErrorsNameTheKey(t *testing.T) {
	file := t.TempDir() + "/file"
	require.NoError(t, os.WriteFile(file, nil, 0o644))
	for key, edit := range map[string]func(*Config){
		"files":           func(c *Config) { c.Files = file },
		"upload-limit":    func(c *Config) { c.UploadLimit = 0 },
		"blob-limit":      func(c *Config) { c.BlobLimit = -1 },
		"test-limit":      func(c *Config) { c.TestLimit = services.GiB },
		"header-limit":    func(c *Config) { c.HeaderLimit = services.KiB },
		"uri-limit":       func(c *Config) { c.URILimit = 128 * services.KiB },
		"max-connections": func(c *Config) { c.MaxConnections = 0 },
		"max-streams":     func(c *Config) { c.MaxStreams = -1 },
		"body-timeout":    func(c *Config) { c.BodyTimeout = 0 },
		"write-timeout":   func(c *Config) { c.WriteTimeout = 100 * time.Hour },
	} {
		c := Default()
		require.NoError(t, c.Validate())
		edit(&c)
		var ce *services.ConfigError
		require.ErrorAs(t, c.Validate(), &ce, key)
		require.Equal(t, key, ce.Key)
	}
}
