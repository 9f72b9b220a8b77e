package control

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/services"
)

func testClient(t *testing.T) *Client {
	t.Helper()
	dir := shortDir(t)
	serve(t, dir, "a")
	c, err := Find(dir, "")
	require.NoError(t, err)
	return c
}

func TestClientChanges(t *testing.T) {
	c, ctx := testClient(t), t.Context()
	s, err := porthole.ParseSettings("queue=64 service-delay=exp(10ms)")
	require.NoError(t, err)
	now, err := c.Set(ctx, services.TCP(80), s)
	require.NoError(t, err)
	require.Equal(t, s, now.Settings)
	now, err = c.Port(ctx, services.TCP(80))
	require.NoError(t, err)
	require.Equal(t, s, now.Settings)
	now, err = c.Reset(ctx, services.TCP(80))
	require.NoError(t, err)
	require.True(t, now.Settings.IsZero())
	_, err = c.Open(ctx, services.TCP(80), "http")
	require.NoError(t, err)
	require.NoError(t, c.Close(ctx, services.TCP(80)))
	l, err := c.Fates(ctx, "")
	require.NoError(t, err)
	require.Equal(t, "host", l.Of)
	l, err = c.Fates(ctx, "80/tcp")
	require.NoError(t, err)
	require.Equal(t, "80/tcp", l.Of)
	text, err := c.Config(ctx)
	require.NoError(t, err)
	require.Contains(t, text, "\nservices:\n")
	changes, err := c.Reload(ctx, "", nil)
	require.NoError(t, err)
	require.Empty(t, changes)
	changes, err = c.Reload(ctx, "x.yaml", []byte("name: y"))
	require.NoError(t, err)
	require.Equal(t, []string{"x.yaml: name: y"}, changes)
	p, err := c.Events(ctx, 5)
	require.NoError(t, err)
	require.EqualValues(t, 6, p.Next)
	require.Equal(t, os.Getpid(), c.PID())
}

func TestClientErrors(t *testing.T) {
	c, ctx := testClient(t), t.Context()
	bad := -1
	for _, tt := range []struct {
		name   string
		err    func() error
		status int
		want   string
	}{
		{"value", func() error { _, err := c.Set(ctx, services.TCP(80), porthole.Settings{Queue: &bad}); return err }, 400, `set 80/tcp: queue: "-1" is not 1 to 32768 packets`},
		{"port", func() error { _, err := c.Set(ctx, services.TCP(81), porthole.Settings{}); return err }, 404, "set 81/tcp: nobody has the port"},
		{"in use", func() error { _, err := c.Open(ctx, services.TCP(80), "echo"); return err }, 409, "open 80/tcp: already in use by http"},
		{"close", func() error { return c.Close(ctx, services.TCP(81)) }, 404, "close: nobody has the port"},
		{"lane", func() error { _, err := c.Fates(ctx, "x"); return err }, 404, "x: no port that somebody has or had, and no lane (closed, link, icmp, host-lane)"},
		{"reload", func() error { _, err := c.Reload(ctx, "bad.yaml", []byte("x")); return err }, 422, "bad.yaml:1:2: wrong; bad.yaml:3:4: wrong, too"},
		{"too long", func() error { _, err := c.Reload(ctx, "x", make([]byte, limitBody+1)); return err }, 413, "the configuration is longer than 1048576 bytes"},
		{"unknown key", func() error { return c.call(ctx, "PATCH", "/v1/ports/80/tcp", map[string]int{"quue": 1}, nil) }, 400, `body: unknown field "quue"`},
		{"not an object", func() error { return c.call(ctx, "PATCH", "/v1/ports/80/tcp", "x", nil) }, 400, "body: cannot unmarshal string into Go value of type porthole.fields"},
	} {
		err := tt.err()
		var e *Error
		require.True(t, errors.As(err, &e), "%s: %v", tt.name, err)
		require.Equal(t, tt.status, e.Status, tt.name)
		require.EqualError(t, err, tt.want)
	}
}

func TestFollow(t *testing.T) {
	c := testClient(t)
	enough := errors.New("enough")
	var missed, last uint64
	err := c.Follow(t.Context(), 0, func(p EventPage) error {
		missed += p.Missed
		for _, e := range p.Events {
			require.True(t, last == 0 || e.Seq == last+1, "%d after %d", e.Seq, last)
			last = e.Seq
		}
		if last >= 10 {
			return enough
		}
		return nil
	})
	require.ErrorIs(t, err, enough)
	require.EqualValues(t, 7, missed)
	ctx, cancel := context.WithCancel(t.Context())
	err = c.Follow(ctx, 0, func(EventPage) error { cancel(); return nil })
	require.ErrorIs(t, err, context.Canceled)
}

// TestFollowEndsWithTheHost: a stream does not keep a host from ending.
func TestFollowEndsWithTheHost(t *testing.T) {
	dir := shortDir(t)
	_, stop := serve(t, dir, "a")
	c, err := Find(dir, "")
	require.NoError(t, err)
	began := make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() {
		done <- c.Follow(context.Background(), 0, func(EventPage) error {
			select {
			case began <- struct{}{}:
			default:
			}
			return nil
		})
	}()
	<-began
	stop()
	require.Error(t, <-done)
}

func TestLastEventID(t *testing.T) {
	dir := shortDir(t)
	s, _ := serve(t, dir, "a")
	conn, err := net.Dial("unix", s.Path())
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = io.WriteString(conn, "GET /v1/events?cursor=3 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nLast-Event-ID: 41\r\n\r\n")
	require.NoError(t, err)
	lines := bufio.NewScanner(conn)
	for lines.Scan() && lines.Text() != "id: 42" {
		require.NotContains(t, lines.Text(), "id: 4,")
	}
	require.Equal(t, "id: 42", lines.Text())
}

func loopback(t *testing.T) (*Loopback, string) {
	t.Helper()
	dir := shortDir(t)
	s, err := Listen(dir, "a")
	require.NoError(t, err)
	l, err := s.ListenLoopback("127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, new(fakeHost).api()) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		require.NoFileExists(t, l.TokenFile())
	})
	fi, err := os.Stat(l.TokenFile())
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), fi.Mode())
	b, err := os.ReadFile(l.TokenFile())
	require.NoError(t, err)
	return l, strings.TrimSpace(string(b))
}

// TestLoopbackGuards: no token, a foreign Host (DNS rebinding), a foreign page.
func TestLoopbackGuards(t *testing.T) {
	l, token := loopback(t)
	own := l.hosts[0]
	_, port, err := net.SplitHostPort(own)
	require.NoError(t, err)
	for _, tt := range []struct {
		name   string
		edit   func(*http.Request)
		status int
	}{
		{"good", func(*http.Request) {}, 200},
		{"localhost", func(r *http.Request) { r.Host = "localhost:" + port }, 200},
		{"own page", func(r *http.Request) {
			r.Header.Set("Origin", "http://"+own)
			r.Header.Set("Sec-Fetch-Site", "same-origin")
		}, 200},
		{"no token", func(r *http.Request) { r.Header.Del("Authorization") }, 401},
		{"wrong token", func(r *http.Request) { r.Header.Set("Authorization", "Bearer x"+token) }, 401},
		{"basic", func(r *http.Request) { r.Header.Set("Authorization", "Basic "+token) }, 401},
		{"rebound name", func(r *http.Request) { r.Host = "evil.example:" + port }, 421},
		{"other port", func(r *http.Request) { r.Host = "127.0.0.1:1" }, 421},
		{"foreign page", func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }, 403},
		{"sandboxed page", func(r *http.Request) { r.Header.Set("Origin", "null") }, 403},
		{"https page", func(r *http.Request) { r.Header.Set("Origin", "https://"+own) }, 403},
		{"cross-site", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403},
		{"same-site", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") }, 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, path := range []string{"v1/health", "metrics"} {
				r, err := http.NewRequestWithContext(t.Context(), "GET", l.URL()+path, nil)
				require.NoError(t, err)
				r.Header.Set("Authorization", "Bearer "+token)
				tt.edit(r)
				tr := &http.Transport{DisableKeepAlives: true}
				resp, err := (&http.Client{Transport: tr, Timeout: time.Minute}).Do(r)
				require.NoError(t, err)
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				require.Equal(t, tt.status, resp.StatusCode)
			}
		})
	}
}

func TestLoopbackAddr(t *testing.T) {
	for addr, want := range map[string]string{
		"127.0.0.1:9077": "", "[::1]:0": "", "localhost:1": "", "127.9.9.9:1": "",
		"0.0.0.0:80":     `"0.0.0.0:80" is not on loopback; want 127.0.0.1, [::1] or localhost`,
		":80":            `":80" is not on loopback; want 127.0.0.1, [::1] or localhost`,
		"10.0.0.1:80":    `"10.0.0.1:80" is not on loopback; want 127.0.0.1, [::1] or localhost`,
		"127.0.0.1":      `"127.0.0.1" is no ADDRESS:PORT, such as 127.0.0.1:9077`,
		"127.0.0.1:x":    `"127.0.0.1:x": the port must be 0 to 65535`,
		"example.test:1": `"example.test:1" is not on loopback; want 127.0.0.1, [::1] or localhost`,
	} {
		if err := LoopbackAddr(addr); want == "" {
			require.NoError(t, err)
		} else {
			require.EqualError(t, err, want)
		}
	}
}
