package http

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/services"
)

// restListener's connections can wait as the host's can, and tell rested of it.
type restListener struct {
	net.Listener
	rested chan struct{}
}

func (l restListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &restConn{Conn: c, rested: l.rested}, nil
}

type restConn struct {
	net.Conn
	rested chan struct{}
	ahead  []byte
}

func (c *restConn) WhenReadable(f func()) {
	go func() {
		b := make([]byte, 1)
		n, _ := c.Conn.Read(b)
		c.ahead = b[:n]
		f()
	}()
	c.rested <- struct{}{}
}

func (c *restConn) Read(p []byte) (int, error) {
	if n := copy(p, c.ahead); n > 0 {
		c.ahead = c.ahead[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// canRest lets a service's connections rest.
func canRest(env *services.Env) (rested chan struct{}) {
	rested = make(chan struct{}, 16)
	for i, ln := range env.TCP {
		env.TCP[i] = restListener{ln, rested}
	}
	return rested
}

// bubbleResting is bubble with connections that can rest.
func bubbleResting(t *testing.T, edit func(*Config), body func(t *testing.T, w *web, rested <-chan struct{})) {
	t.Helper()
	var rested chan struct{}
	bubble(t, func(env *services.Env, cfg *Config) {
		rested = canRest(env)
		if edit != nil {
			edit(cfg)
		}
	}, func(t *testing.T, w *web) { body(t, w, rested) })
}

// rests waits for a connection to rest.
func rests(t *testing.T, rested <-chan struct{}) {
	t.Helper()
	select {
	case <-rested:
	case <-time.After(patience):
		t.Fatal("no connection rests")
	}
}

// kept asks and reads one answer after another on one connection.
type kept struct {
	net.Conn
	r *bufio.Reader
}

func newKept(t *testing.T, w *web) *kept {
	c := w.dial(t)
	return &kept{c, bufio.NewReader(c)}
}

const getBlob = "GET /blob/3 HTTP/1.1\r\nHost: a\r\n\r\n"

func (k *kept) say(t *testing.T, s string) {
	t.Helper()
	_, err := io.WriteString(k, s)
	require.NoError(t, err)
}

func (k *kept) answered(t *testing.T) {
	t.Helper()
	resp, err := http.ReadResponse(k.r, nil)
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Len(t, body, 3)
}

// rest has a connection answer one request, and waits until it rests.
func (k *kept) rest(t *testing.T, rested <-chan struct{}) {
	t.Helper()
	k.say(t, getBlob)
	k.answered(t)
	rests(t, rested)
}

// A connection that has rested answers as before, again and again.
func TestRestedConnectionAnswers(t *testing.T) {
	t.Parallel()
	var rested chan struct{}
	w := start(t, func(env *services.Env, _ *Config) { rested = canRest(env) })
	k := newKept(t, w)
	for range 2 {
		k.rest(t, rested)
	}
	k.say(t, getBlob+getBlob)
	k.answered(t)
	k.answered(t)
	rests(t, rested)
	k.Close()
}

// What is not between two whole requests does not rest, and loses nothing.
func TestHalfRequestDoesNotRest(t *testing.T) {
	for _, half := range []string{"G", "GET", "GET /blob/3 HT"} {
		t.Run(half, func(t *testing.T) {
			bubbleResting(t, nil, func(t *testing.T, w *web, rested <-chan struct{}) {
				k := newKept(t, w)
				k.say(t, getBlob)
				k.answered(t)
				k.say(t, half)
				k.SetReadDeadline(time.Now().Add(2 * restAfter)) // nothing comes, and no end
				_, err := k.r.Peek(1)
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				require.Empty(t, rested)
				k.SetReadDeadline(time.Now().Add(patience))
				k.say(t, getBlob[len(half):])
				k.answered(t)
				k.Close()
			})
		})
	}
}

// The idle timeout ends a connection that rests, when it is due.
func TestRestEndsWithIdleTimeout(t *testing.T) {
	const idle = 4 * restAfter
	bubbleResting(t, func(cfg *Config) { cfg.IdleTimeout = idle }, func(t *testing.T, w *web, rested <-chan struct{}) {
		k := newKept(t, w)
		began := time.Now()
		k.rest(t, rested)
		require.Equal(t, restAfter, time.Since(began))
		_, err := k.r.ReadByte()
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, idle, time.Since(began))
	})
}

// A connection that has rested is a new one to net/http, and yet an old client may send
// a line feed too many after its body (RFC 9112, 2.2).
func TestRestedConnectionSkipsBlankLines(t *testing.T) {
	bubbleResting(t, nil, func(t *testing.T, w *web, rested <-chan struct{}) {
		k := newKept(t, w)
		k.say(t, "POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
		resp, err := http.ReadResponse(k.r, nil)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, resp.StatusCode)
		rests(t, rested)
		k.say(t, "\r\n"+getBlob)
		k.answered(t)
		k.Close()
	})
}

// The end of the service ends connections that rest, also while it waits for others.
func TestStopEndsRestFirst(t *testing.T) {
	bubbleResting(t, nil, func(t *testing.T, w *web, rested <-chan struct{}) {
		k := newKept(t, w)
		k.rest(t, rested)
		busy := newKept(t, w)
		busy.say(t, "PUT /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
		line, err := busy.r.ReadString('\n') // the handler reads
		require.NoError(t, err)
		require.Equal(t, "HTTP/1.1 100 Continue\r\n", line)
		began := time.Now()
		stopped := make(chan time.Duration, 1)
		go func() {
			w.Stop()
			stopped <- time.Since(began)
		}()
		_, err = k.r.ReadByte()
		require.ErrorIs(t, err, io.EOF)
		require.Zero(t, time.Since(began), "it ended with the grace for others")
		require.GreaterOrEqual(t, <-stopped, stopGrace)
		busy.Close()
	})
}

// The end of the service ends connections that rest.
func TestStopEndsRest(t *testing.T) {
	bubbleResting(t, nil, func(t *testing.T, w *web, rested <-chan struct{}) {
		k := newKept(t, w)
		k.rest(t, rested)
		require.NoError(t, w.Stop())
		_, err := k.r.ReadByte()
		require.Error(t, err)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	})
}

// A client that goes away while its connection rests gives its place to the next.
func TestRestGivesItsPlaceBack(t *testing.T) {
	bubbleResting(t, func(cfg *Config) { cfg.MaxConnections = 1 }, func(t *testing.T, w *web, rested <-chan struct{}) {
		for range 2 {
			k := newKept(t, w)
			k.rest(t, rested)
			k.Close()
		}
	})
}
