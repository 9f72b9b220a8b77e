package http

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/services"
	"porthole/services/servicestest"
)

// After a request whose end is open to doubt, nothing on its connection may be
// taken for another one (RFC 9112, 6.1).
func TestDoubtfulRequestEndsConnection(t *testing.T) {
	w := start(t, nil)
	const (
		smuggled = "GET /blob/7 HTTP/1.1\r\nHost: a\r\n\r\n"
		chunks   = "3\r\nabc\r\n0\r\n\r\n"
	)
	for _, c := range []struct{ name, in, want string }{
		{"length and coding", "PUT /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + smuggled,
			"HTTP/1.1 200 OK"},
		{"coding and length, odd case", "PUT /sink HTTP/1.1\r\nHost: a\r\ntransfer-ENCODING:chunked\r\ncontent-length:\t3\r\n\r\n" + chunks + smuggled,
			"HTTP/1.1 200 OK"},
		{"on a page without body", "GET /blob/1 HTTP/1.1\nHost: a\nContent-Length: 3\nTransfer-Encoding: chunked\n\n" + chunks + smuggled,
			"HTTP/1.1 200 OK"},
		{"coding in 1.0", "PUT /sink HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + smuggled,
			"HTTP/1.0 400 Bad Request"},
		{"coding in 1.0, no length", "GET /blob/1 HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + smuggled,
			"HTTP/1.0 400 Bad Request"},
		{"as the second", "PUT /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcPUT /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + smuggled,
			"HTTP/1.1 200 OK"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := w.raw(t, c.in) // to the end of the connection
			require.Equal(t, c.want, statusLine(got))
			require.Contains(t, got, "Connection: close\r\n")
			require.NotContains(t, got, "Content-Length: 7\r\n")
		})
	}
}

// What only looks like it in a body ends nothing.
func TestDoubtIsNotInBodies(t *testing.T) {
	w := start(t, nil)
	const text = "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
	got := w.raw(t, fmt.Sprintf("PUT /sink HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(text), text)+
		"PUT /sink HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"+
		"GET /blob/7 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	require.Equal(t, 3, strings.Count(got, "HTTP/1.1 200 OK\r\n"))
}

// Every answer tells the time and its length, and has its access line, also the
// ones that net/http gives before any handler (RFC 9110, 6.6.1).
func TestBareErrorsAreWhole(t *testing.T) {
	t.Parallel()
	var log servicestest.Log
	w := start(t, func(env *services.Env, _ *Config) {
		env.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	for _, c := range []struct {
		in, request string
		status      int
	}{
		{"GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1", 400},
		{"GET /a b HTTP/1.1\r\n\r\n", "GET /a b HTTP/1.1", 400},
		{"GET /" + strings.Repeat("x", 100<<10), "GET /" + strings.Repeat("x", lineKept-5), 414},
		{"GET /b HTTP/1.1\r\nX: " + strings.Repeat("x", 100<<10), "GET /b HTTP/1.1", 431},
		{"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "POST /c HTTP/1.1", 501},
		{"GET / HTTP/7.7\r\nHost: a\r\n\r\n", "GET / HTTP/7.7", 505},
		{"GET /d HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", "GET /d HTTP/1.1", 417},
		{"GET /e HTTP/1.0\r\nExpect: tea\r\n\r\n", "GET /e HTTP/1.0", 417},
	} {
		resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(w.raw(t, c.in))), nil)
		require.NoError(t, err, c.request)
		require.Equal(t, c.status, resp.StatusCode, c.request)
		_, err = http.ParseTime(resp.Header.Get("Date"))
		require.NoError(t, err, c.request)
		require.Contains(t, resp.Header.Get("Server"), "porthole/")
		require.True(t, resp.Close)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, resp.ContentLength, int64(len(body)))
		require.Contains(t, string(body), fmt.Sprint(c.status, " "))
	}
	got := w.raw(t, "HEAD /f HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n")
	require.Equal(t, "HTTP/1.1 417 Expectation Failed", statusLine(got))
	require.True(t, strings.HasSuffix(got, "\r\n\r\n"), "content after an answer to HEAD: %q", got)
	require.NoError(t, w.Stop())
	for _, want := range []string{`request="GET /a b HTTP/1.1"`, "result=414", "result=431", "result=501", "result=505", `request="GET /d HTTP/1.1" result=417`, `request="GET /e HTTP/1.0" result=417`} {
		require.Contains(t, log.String(), want)
	}
}

// go-httpbin lives under /test/: wherever it sends a client must be there too.
func TestRedirectsUnderTest(t *testing.T) {
	w := start(t, nil)
	for _, c := range []struct{ path, want string }{
		{"/test/redirect/2", "/test/relative-redirect/1"},
		{"/test/relative-redirect/1", "/test/get"},
		{"/test/absolute-redirect/2", w.url + "/test/absolute-redirect/1"},
		{"/test/absolute-redirect/1", w.url + "/test/get"},
		{"/test/redirect/2?absolute=true", w.url + "/test/absolute-redirect/1"},
		{"/test/redirect-to?url=/get", "/test/get"},
		{"/test/redirect-to?url=/test/get", "/test/get"},
		{"/test/redirect-to?url=/blob/5%3Fa=b", "/blob/5?a=b"},
		{"/test/redirect-to?url=/sink", "/sink"},
		{"/test/redirect-to?url=/", "/test/"},
		{"/test/redirect-to?url=http://a.example/get", "http://a.example/get"},
		{"/test/cookies/set?a=b", "/test/cookies"},
		{"/test/links/3", "/test/links/3/0"},
		{"/test/status/302", "/test/redirect/1"},
	} {
		resp, _ := w.do(t, "GET", c.path, nil)
		require.Equal(t, c.want, resp.Header.Get("Location"), c.path)
	}
	_, body := w.do(t, "GET", "/test/get?a=1", nil)
	require.Contains(t, string(body), `"url": "`+w.url+`/test/get?a=1"`)
	_, body = w.do(t, "POST", "/test/anything/a%2Fb", strings.NewReader("x"))
	require.Contains(t, string(body), `"url": "`+w.url+`/test/anything/a%2Fb"`)
}

// A request line that comes alone is waited for, unless it can be none.
func TestRequestLineAlone(t *testing.T) {
	for _, c := range []struct {
		line string
		want bool
	}{
		{"GET / HTTP/1.1\r\n", false},
		{"GET /" + strings.Repeat("x", 2*lineKept) + " HTTP/1.1\r\n", false},
		{"GET /" + strings.Repeat("x", lineKept-len("GET / HT")) + " HTTP/1.1\r\n", false},
		{"G / HTTP/1.1\n", false}, // 12 letters, and good
		{"GET /\r\n", true},
		{"X\n", true},
		{"\r\n", false},
		{"\r\nX\n", false}, // the blank line was skipped before, or this is not the first
		{"GET /", false},
	} {
		var h heads
		h.see([]byte(c.line))
		require.Equal(t, c.want, h.hopeless(), "%q", c.line)
	}
}

// However a connection is cut into reads, the heads say the same.
func FuzzHeads(f *testing.F) {
	f.Add([]byte("PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), uint8(1))
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), uint8(3))
	f.Add([]byte("\r\nA\nContent-Length:99999999999999999999\nTransfer-Encoding:x\n\n"), uint8(7))
	f.Fuzz(func(t *testing.T, in []byte, step uint8) {
		var whole, cut heads
		whole.see(in)
		for rest := in; len(rest) > 0; {
			n := min(int(step)+1, len(rest))
			cut.see(rest[:n])
			rest = rest[n:]
		}
		require.Equal(t, whole.both.Load(), cut.both.Load())
		require.Equal(t, whole.coding.Load(), cut.coding.Load())
		require.Equal(t, whole.off, cut.off)
		require.Equal(t, whole.body, cut.body)
		require.Equal(t, whole.text(), cut.text())
	})
}
