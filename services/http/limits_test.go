package http

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"porthole/services"
	"porthole/services/servicestest"
)

// A client that never finishes its header loses the connection after
// header-timeout, whether it sends nothing, a byte now and then, or HTTP/2's preface.
func TestSlowHeaderEnds(t *testing.T) {
	const timeout = time.Second
	edit := func(_ *services.Env, cfg *Config) { cfg.HeaderTimeout = timeout }
	for _, sent := range []string{"", "G", "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n", "PRI * HTTP/2.0\r\n\r\n"} {
		t.Run(fmt.Sprintf("%.12q", sent), func(t *testing.T) {
			bubble(t, edit, func(t *testing.T, w *web) {
				c := w.dial(t)
				io.WriteString(c, sent)
				_, err := io.ReadAll(c) // ends when the host closes
				require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
			})
		})
	}
	t.Run("drip", func(t *testing.T) {
		bubble(t, edit, func(t *testing.T, w *web) {
			c := w.dial(t)
			tick := time.NewTicker(timeout / 16)
			defer tick.Stop()
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n")
			for i := range 17 {
				<-tick.C
				if _, err := fmt.Fprintf(c, "X-%d: y\r\n", i); err != nil {
					return // the host has hung up
				}
			}
			t.Fatal("the header goes on")
		})
	})
}

func TestIdleConnectionEnds(t *testing.T) {
	w := start(t, func(_ *services.Env, cfg *Config) { cfg.IdleTimeout = 100 * time.Millisecond })
	c := w.dial(t)
	io.WriteString(c, "GET /blob/1 HTTP/1.1\r\nHost: a\r\n\r\n")
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 200 OK", statusLine(string(got)))
}

// bubble runs a test about time with a clock of its own and the service in memory: no
// machine is too slow for it.
func bubble(t *testing.T, edit func(*services.Env, *Config), body func(t *testing.T, w *web)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { body(t, startOn(t, servicestest.NewMemory(), edit)) })
}

// A body that stops, or comes a byte at a time, ends with 408; endpoints that do
// not read bodies end it as well.
func TestSlowBodyEnds(t *testing.T) {
	const timeout = 10 * time.Second
	dir := t.TempDir()
	edit := func(_ *services.Env, cfg *Config) {
		cfg.BodyTimeout = timeout
		cfg.Files, cfg.Upload = dir, true
	}
	for _, c := range []struct {
		name, head string
		drip       bool
		want       string
	}{
		{"stops", "PUT /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc", false, "HTTP/1.1 408 Request Timeout"},
		{"chunked stops", "PUT /sink HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", false, "HTTP/1.1 408 Request Timeout"},
		{"drips", "PUT /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n", true, "HTTP/1.1 408 Request Timeout"},
		{"upload", "PUT /files/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc", false, "HTTP/1.1 408 Request Timeout"},
		{"go-httpbin", "POST /test/post HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc", false, "HTTP/1.1 408 Request Timeout"},
		{"unread", "GET /blob/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc", false, "HTTP/1.1 200 OK"},
		{"no such page", "POST /nope HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc", false, "HTTP/1.1 404 Not Found"},
		{"not served", "POST /blob/1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", false, "HTTP/1.1 405 Method Not Allowed"},
		{"unknown method", "TEA /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n", false, "HTTP/1.1 501 Not Implemented"},
		{"options", "OPTIONS * HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n", false, "HTTP/1.1 204 No Content"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, edit, func(t *testing.T, w *web) {
				conn := w.dial(t)
				began := time.Now()
				io.WriteString(conn, c.head)
				stop := make(chan struct{})
				var wg sync.WaitGroup
				if c.drip {
					wg.Go(func() {
						tick := time.NewTicker(timeout / 40)
						defer tick.Stop()
						for {
							select {
							case <-stop:
								return
							case <-tick.C:
								conn.Write([]byte("x"))
							}
						}
					})
				}
				line, err := bufio.NewReader(conn).ReadString('\n')
				took := time.Since(began)
				close(stop)
				conn.Close() // frees a drop that nobody takes any more
				wg.Wait()
				require.NoError(t, err)
				require.Equal(t, c.want, strings.TrimSpace(line))
				require.Equal(t, timeout, took)
			})
		})
	}
}

// A client that waits for 100-continue and gets another answer sends no body: its
// connection ends soon, and not when the body would have had to be there.
func TestUnmetExpectationEnds(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "x"), nil, 0o644))
	edit := func(_ *services.Env, cfg *Config) { cfg.Files, cfg.Upload = dir, true }
	for _, c := range []struct{ name, head, want string }{
		{"refused", "PUT /blob/1 HTTP/1.1\r\nExpect: 100-continue\r\n", "HTTP/1.1 405 Method Not Allowed"},
		{"precondition", "PUT /files/x HTTP/1.1\r\nIf-None-Match: *\r\nExpect: 100-continue\r\n", "HTTP/1.1 412 Precondition Failed"},
		{"too long", "PUT /test/put HTTP/1.1\r\nX-A: b\r\nExpect: 100-continue\r\n", "HTTP/1.1 413 Request Entity Too Large"},
		{"unread", "GET /blob/1 HTTP/1.1\r\nExpect: 100-continue\r\n", "HTTP/1.1 200 OK"},
		{"unknown", "PUT /sink HTTP/1.1\r\nExpect: tea\r\n", "HTTP/1.1 417 Expectation Failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, edit, func(t *testing.T, w *web) {
				length := 100
				if c.name == "too long" {
					length = 100 << 20
				}
				began := time.Now()
				got := w.raw(t, fmt.Sprintf("%sHost: a\r\nContent-Length: %d\r\n\r\n", c.head, length))
				require.Equal(t, c.want, statusLine(got))
				require.Contains(t, got, "\r\nConnection: close\r\n")
				require.Less(t, time.Since(began), time.Second)
			})
		})
	}
}

// Part of a head that stops is answered 408, wherever in it the client stopped, and
// has its line in the log; a connection that says nothing is not.
func TestLateHeadIsAnswered(t *testing.T) {
	const head = "GET /blob/1 HTTP/1.1\r\nHost: a\r\n"
	for name, c := range map[string]struct{ sent, want string }{
		"nothing":      {"", ""},
		"a letter":     {"G", "HTTP/1.1 408 Request Timeout"},
		"half a line":  {head[:9], "HTTP/1.1 408 Request Timeout"},
		"a line":       {head[:22], "HTTP/1.1 408 Request Timeout"},
		"half a field": {head[:28], "HTTP/1.1 408 Request Timeout"},
		"no end":       {head, "HTTP/1.1 408 Request Timeout"},
		"second":       {head + "\r\n" + head, "HTTP/1.1 200 OK"},
		"idle":         {head + "\r\n", "HTTP/1.1 200 OK"},
		"idle, a byte": {head + "\r\nG", "HTTP/1.1 200 OK"},
	} {
		t.Run(name, func(t *testing.T) {
			var log servicestest.Log
			edit := func(env *services.Env, cfg *Config) {
				env.Log = slog.New(slog.NewTextHandler(&log, nil))
				cfg.HeaderTimeout, cfg.IdleTimeout = 2*time.Second, 5*time.Second
			}
			bubble(t, edit, func(t *testing.T, w *web) {
				got := w.raw(t, c.sent)
				require.Equal(t, c.want, statusLine(got))
				late := 0
				if strings.HasSuffix(c.want, "Timeout") || name == "second" || name == "idle, a byte" {
					late = 1
				}
				require.Equal(t, late, strings.Count(got, " 408 Request Timeout\r\n"), got)
				require.Equal(t, late, strings.Count(log.String(), "result=408"), log.String())
				require.NotContains(t, got, "400 Bad")
			})
		})
	}
}

func TestSlowBodyEndsHTTP2(t *testing.T) {
	w := start(t, func(_ *services.Env, cfg *Config) { cfg.BodyTimeout = 150 * time.Millisecond })
	pr, pw := io.Pipe()
	defer pw.Close()
	go pw.Write([]byte("abc"))
	resp, _ := w.doWith(t, w.h2(t), "PUT", "/sink", pr)
	require.Equal(t, 408, resp.StatusCode)
}

// A long upload whose pieces keep coming may take many times the body timeout.
func TestSteadyBodyGoesOn(t *testing.T) {
	const timeout = time.Second
	edit := func(_ *services.Env, cfg *Config) { cfg.BodyTimeout = timeout }
	for name, client := range map[string]func(*testing.T, *web) *http.Client{
		"http1": func(_ *testing.T, w *web) *http.Client { return w.http },
		"http2": func(t *testing.T, w *web) *http.Client { return w.h2(t) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, edit, func(t *testing.T, w *web) {
				tick := time.NewTicker(timeout / 2)
				defer tick.Stop()
				body := &ticking{tick: tick.C, piece: make([]byte, bodyPace), left: 40}
				resp, got := w.doWith(t, client(t, w), "PUT", "/sink", body)
				require.Equal(t, 200, resp.StatusCode, "%s", got)
				require.Contains(t, string(got), fmt.Sprintf(`{"bytes":%d,`, 40*bodyPace))
			})
		})
	}
}

// ticking is a body that gives one piece at each tick.
type ticking struct {
	tick  <-chan time.Time
	piece []byte
	left  int
}

func (b *ticking) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	<-b.tick
	b.left--
	return copy(p, b.piece), nil
}

// A handler that takes longer than the body timeout keeps its context, whether it has
// read the body, and asked for more, or left that to net/http; and one that answers for
// that long before it reads on, as it may in HTTP/2, still gets the rest.
func TestBodyDeadlineSparesResponse(t *testing.T) {
	const timeout = time.Second
	http1 := func(_ *testing.T, w *web) *http.Client { return w.http }
	http2 := func(t *testing.T, w *web) *http.Client { return w.h2(t) }
	for _, x := range []struct {
		name   string
		client func(*testing.T, *web) *http.Client
		pause  time.Duration // in the body
		begin  func(http.ResponseWriter, *http.Request)
		rest   int // bytes left to read
	}{
		{"read", http1, 0, func(_ http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			<-time.After(timeout / 4)
			r.Body.Read(make([]byte, 1))
		}, 0},
		{"unread", http1, 0, func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 20<<10)) }, 0},
		{"read on", http2, 5 * timeout, func(w http.ResponseWriter, r *http.Request) {
			io.ReadFull(r.Body, make([]byte, bodyPace))
			w.Write(make([]byte, 20<<10))
		}, bodyPace},
	} {
		t.Run(x.name, func(t *testing.T) {
			var left error
			var rest []byte
			bubble(t, func(env *services.Env, cfg *Config) {
				cfg.BodyTimeout = timeout
				env.Pages = map[string]any{"/slow": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					x.begin(w, r)
					<-time.After(9 * timeout / 2)
					left = r.Context().Err()
					rest, _ = io.ReadAll(r.Body)
				})}
			}, func(t *testing.T, w *web) {
				half := strings.NewReader(strings.Repeat("x", bodyPace))
				later := &ticking{tick: time.After(x.pause), piece: make([]byte, bodyPace), left: 1}
				resp, _ := w.doWith(t, x.client(t, w), "POST", "/slow", io.MultiReader(half, later))
				require.Equal(t, 200, resp.StatusCode)
			})
			require.NoError(t, left)
			require.Len(t, rest, x.rest)
		})
	}
}

// A client that takes nothing of its response is given up, in HTTP/1 by the
// connection's write deadline, in HTTP/2 by the stream's.
func TestStalledReaderEnds(t *testing.T) {
	const timeout = time.Second
	var done chan string
	bubble(t, func(env *services.Env, cfg *Config) {
		done = make(chan string, 2)
		cfg.WriteTimeout = timeout
		env.Pages = map[string]any{"/endless": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					done <- r.Proto
					return
				}
			}
		})}
	}, func(t *testing.T, w *web) {
		c := w.dial(t)
		io.WriteString(c, "GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
		require.Equal(t, "HTTP/1.1", await(t, done))

		resp, err := w.h2(t).Get(w.url + "/endless")
		require.NoError(t, err)
		defer resp.Body.Close() // its window is never opened: nothing is read
		require.Equal(t, "HTTP/2.0", await(t, done))
	})
}

// A client that takes a little all the time may take as long as it likes.
func TestSlowReaderGoesOn(t *testing.T) {
	const timeout = time.Second
	bubble(t, func(_ *services.Env, cfg *Config) { cfg.WriteTimeout = timeout }, func(t *testing.T, w *web) {
		c := w.dial(t)
		const size, steps = 16 << 20, 100
		fmt.Fprintf(c, "GET /blob/%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", size)
		// A piece that the host writes at once is taken in four steps, and takes longer
		// than the timeout.
		tick := time.NewTicker(2 * timeout / 5)
		defer tick.Stop()
		br := bufio.NewReaderSize(c, writePace)
		resp, err := http.ReadResponse(br, nil)
		require.NoError(t, err)
		var got int64
		for range steps { // then the rest at once
			n, err := io.CopyN(io.Discard, resp.Body, writePace)
			require.NoError(t, err)
			got += n
			<-tick.C
		}
		n, err := io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		require.Equal(t, int64(size), got+n)
	})
}

func await[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("did not happen")
		panic("unreachable")
	}
}

// At the limit a further connection waits unaccepted, and is served when one ends.
func TestConnectionLimit(t *testing.T) {
	w := start(t, func(_ *services.Env, cfg *Config) { cfg.MaxConnections = 2 })
	first, second := w.dial(t), w.dial(t)
	for _, c := range []net.Conn{first, second} {
		io.WriteString(c, "GET /blob/1 HTTP/1.1\r\nHost: a\r\n\r\n")
		_, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
	}
	third := w.dial(t)
	io.WriteString(third, "GET /blob/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	require.NoError(t, third.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
	_, err := third.Read(make([]byte, 1))
	var ne net.Error
	require.ErrorAs(t, err, &ne)
	require.True(t, ne.Timeout(), "served beyond the limit")
	first.Close()
	require.NoError(t, third.SetReadDeadline(time.Now().Add(patience)))
	got, err := io.ReadAll(third)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 200 OK", statusLine(string(got)))
}

func TestRequestLimit(t *testing.T) {
	inside := make(chan struct{})
	leave := make(chan struct{})
	w := start(t, func(env *services.Env, cfg *Config) {
		cfg.MaxRequests = 1
		env.Pages = map[string]any{"/wait": http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			inside <- struct{}{}
			<-leave
		})}
	})
	var g errgroup.Group
	g.Go(func() error {
		resp, err := http.Get(w.url + "/wait")
		if err == nil {
			resp.Body.Close()
		}
		return err
	})
	await(t, inside)
	resp, _ := w.do(t, "GET", "/blob/1", nil)
	require.Equal(t, 503, resp.StatusCode)
	require.Equal(t, "1", resp.Header.Get("Retry-After"))
	close(leave)
	require.NoError(t, g.Wait())
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	resp, _ = w.do(t, "GET", "/blob/1", nil)
	require.Equal(t, 200, resp.StatusCode)
}

func TestSink64MiB(t *testing.T) {
	w := start(t, nil)
	const size = 64 << 20
	sum := sha256.New()
	_, err := writePattern(sum, 0, size)
	require.NoError(t, err)
	want := fmt.Sprintf(`{"bytes":%d,"sha256":"%s"}`+"\n", size, hex.EncodeToString(sum.Sum(nil)))
	for name, client := range map[string]*http.Client{"http1": w.http, "http2": w.h2(t)} {
		t.Run(name, func(t *testing.T) {
			resp, got := w.doWith(t, client, "PUT", "/sink", io.LimitReader(&blob{size: 1 << 40}, size))
			require.Equal(t, 200, resp.StatusCode)
			require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
			require.Equal(t, want, string(got))
		})
	}
}

func TestParallel(t *testing.T) {
	w := start(t, nil)
	want := expect(0, 100000)
	for name, client := range map[string]*http.Client{"http1": w.http, "http2": w.h2(t)} {
		t.Run(name, func(t *testing.T) {
			var g errgroup.Group
			for range 200 {
				g.Go(func() error {
					resp, err := client.Get(w.url + "/blob/100000")
					if err != nil {
						return err
					}
					defer resp.Body.Close()
					got, err := io.ReadAll(resp.Body)
					if err == nil && !bytes.Equal(want, got) {
						err = fmt.Errorf("wrong bytes")
					}
					return err
				})
			}
			require.NoError(t, g.Wait())
		})
	}
}

// The end of the service in the middle of everything: a download that nobody
// reads, an upload that nobody finishes, a request that waits, a WebSocket, an
// HTTP/2 stream. Serve returns nil, and goleak sees what is left.
func TestStopInTheMiddle(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	open := func(request, wantLine string) net.Conn {
		c := w.dial(t)
		io.WriteString(c, request)
		if wantLine != "" {
			line, err := bufio.NewReaderSize(c, 16).ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, wantLine, strings.TrimSpace(line))
		}
		return c
	}
	open("GET /blob/8GiB HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK")
	open("PUT /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n", "HTTP/1.1 100 Continue")
	open("GET /test/delay/10 HTTP/1.1\r\nHost: a\r\n\r\n", "")
	open("GET /test/websocket/echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", "HTTP/1.1 101 Switching Protocols")
	resp, err := w.h2(t).Get(w.url + "/blob/8GiB")
	require.NoError(t, err)
	defer resp.Body.Close()

	require.NoError(t, w.Stop()) // an error, if it had to leave some
	_, err = net.Dial("tcp", w.addr.String())
	require.Error(t, err)
}

// A listener that breaks ends the service with an error, and nothing is left.
func TestBrokenListener(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	cfg := Default()
	env := quietSite(t).env
	env.TCP = []net.Listener{ln}
	env.Config = &cfg
	ended := make(chan error, 1)
	go func() { ended <- serve(context.Background(), env) }()
	ln.Close()
	require.ErrorContains(t, await(t, ended), "accept")
}

func TestSeveralPorts(t *testing.T) {
	var second string
	w := start(t, func(env *services.Env, _ *Config) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		env.TCP = append(env.TCP, ln)
		second = ln.Addr().String()
	})
	resp, _ := w.do(t, "GET", "/blob/1", nil)
	require.Equal(t, 200, resp.StatusCode)
	w.url = "http://" + second
	resp, _ = w.do(t, "GET", "/blob/1", nil)
	require.Equal(t, 200, resp.StatusCode)
}
