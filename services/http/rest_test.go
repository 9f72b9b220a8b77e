package http

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
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

// startResting is start with connections that can rest.
func startResting(t *testing.T, edit func(*Config)) (*web, chan struct{}) {
	rested := make(chan struct{}, 16)
	return start(t, func(env *services.Env, cfg *Config) {
		for i, ln := range env.TCP {
			env.TCP[i] = restListener{ln, rested}
		}
		if edit != nil {
			edit(cfg)
		}
	}), rested
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

// keptResting is a connection that rests.
func keptResting(t *testing.T) (*web, *kept) {
	w, rested := startResting(t, nil)
	k := newKept(t, w)
	k.say(t, getBlob)
	k.answered(t)
	rests(t, rested)
	return w, k
}

// A connection that has rested answers as before, again and again.
func TestRestedConnectionAnswers(t *testing.T) {
	w, rested := startResting(t, nil)
	k := newKept(t, w)
	for range 2 {
		k.say(t, getBlob)
		k.answered(t)
		rests(t, rested)
	}
	k.say(t, getBlob+getBlob)
	k.answered(t)
	k.answered(t)
	rests(t, rested)
	k.Close()
}

// What is not between two whole requests does not rest, and loses nothing.
func TestHalfRequestDoesNotRest(t *testing.T) {
	w, rested := startResting(t, nil)
	var late atomic.Int32 // halves that came when the connection may have rested already
	for _, half := range []string{"G", "GET", "GET /blob/3 HT"} {
		t.Run(half, func(t *testing.T) {
			t.Parallel()
			k := newKept(t, w)
			asked := time.Now()
			k.say(t, getBlob)
			k.answered(t)
			k.say(t, half)
			if time.Since(asked) >= restAfter {
				late.Add(1)
			}
			k.SetReadDeadline(time.Now().Add(restAfter + restAfter/4)) // nothing comes, and no end
			_, err := k.r.Peek(1)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			k.SetReadDeadline(time.Now().Add(patience))
			k.say(t, getBlob[len(half):])
			k.answered(t)
			k.Close()
		})
	}
	t.Cleanup(func() { require.LessOrEqual(t, len(rested), int(late.Load())) })
}

// The idle timeout ends a connection that rests, when it is due.
func TestRestEndsWithIdleTimeout(t *testing.T) {
	t.Parallel()
	const idle = 4 * restAfter // room for a machine that is late with the rest
	w, rested := startResting(t, func(cfg *Config) { cfg.IdleTimeout = idle })
	k := newKept(t, w)
	began := time.Now()
	k.say(t, getBlob)
	k.answered(t)
	rests(t, rested)
	_, err := k.r.ReadByte()
	require.ErrorIs(t, err, io.EOF)
	require.GreaterOrEqual(t, time.Since(began), idle)
}

// A connection that has rested is a new one to net/http, and yet an old client may send
// a line feed too many after its body (RFC 9112, 2.2).
func TestRestedConnectionSkipsBlankLines(t *testing.T) {
	w, rested := startResting(t, nil)
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
}

// The end of the service ends connections that rest, also while it waits for others.
func TestStopEndsRestFirst(t *testing.T) {
	w, k := keptResting(t)
	busy := newKept(t, w)
	busy.say(t, "PUT /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
	line, err := busy.r.ReadString('\n') // the handler reads
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 100 Continue\r\n", line)
	stopped := make(chan time.Time, 1)
	go func() {
		w.Stop()
		stopped <- time.Now()
	}()
	_, err = k.r.ReadByte()
	require.ErrorIs(t, err, io.EOF)
	require.Empty(t, stopped, "it ended with the grace for others")
	require.NotZero(t, <-stopped)
	busy.Close()
}

// The end of the service ends connections that rest.
func TestStopEndsRest(t *testing.T) {
	w, k := keptResting(t)
	require.NoError(t, w.Stop())
	_, err := k.r.ReadByte()
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
}

// A client that goes away while its connection rests gives its place to the next.
func TestRestGivesItsPlaceBack(t *testing.T) {
	w, rested := startResting(t, func(cfg *Config) { cfg.MaxConnections = 1 })
	for range 2 {
		k := newKept(t, w)
		k.say(t, getBlob)
		k.answered(t)
		rests(t, rested)
		k.Close()
	}
}
