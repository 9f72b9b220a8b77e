package http

import (
	"bufio"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/services"
)

// rawRequests are connections and how the first answer on each begins.
var rawRequests = []struct{ name, in, want string }{
	{"no host", "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400 Bad Request: missing required Host header"},
	{"connect without host", "CONNECT a:80 HTTP/1.1\r\n\r\n", "HTTP/1.1 400 Bad Request"},
	{"connect to a path", "CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400 Bad Request"},
	{"request line too short", "X\r\n", "HTTP/1.1 400 Bad Request"},
	{"request line too short, and an end", "X\r\n\r\n", "HTTP/1.1 400 Bad Request"},
	{"white space for a request line", "   \r\n\r\n", "HTTP/1.1 400 Bad Request"},
	{"http 0.9", "GET /\r\n", "HTTP/1.1 400 Bad Request"},
	{"http 0.9 after a blank line", "\r\nGET /\r\n", "HTTP/1.1 400 Bad Request"},
	{"asterisk for GET", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400 Bad Request"},
	{"fragment", "GET /blob/1#a HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400 Bad Request"},
	{"https", "GET https://a/blob/1 HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 421 Misdirected Request"},
	{"for a proxy", "GET ftp://a/blob/1 HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 421 Misdirected Request"},
	{"request line without end", "GET /" + strings.Repeat("x", 100<<10), "HTTP/1.1 414 Request URI Too Long"},
	{"field without end", "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 100<<10), "HTTP/1.1 431 Request Header Fields Too Large"},
	{"two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "HTTP/1.1 400 Bad Request"},
	{"http 1.0", "GET /blob/1 HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK"},
	{"http 3.0", "GET / HTTP/3.0\r\nHost: a\r\n\r\n", "HTTP/1.1 505 HTTP Version Not Supported: unsupported protocol version"},
	{"absolute form", "GET http://a/blob/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK"},
	{"absolute form without a path", "GET http://a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK"},
	{"absolute form with a query alone", "OPTIONS http://a?b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 204 No Content"},
	{"absolute asterisk", "OPTIONS http://a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 204 No Content"},
	{"absolute form without a host", "GET http:///blob/1 HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400 Bad Request"},
	{"absolute form with a user", "GET http://u:p@a/blob/1 HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400 Bad Request"},
	{"authority form for GET", "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400 Bad Request"},
	{"host with no port's port", "GET / HTTP/1.1\r\nHost: a:80x\r\n\r\n", "HTTP/1.1 400 Bad Request"},
	{"host with two ports", "GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n", "HTTP/1.1 400 Bad Request"},
	{"host that is a port", "GET / HTTP/1.1\r\nHost: :80\r\n\r\n", "HTTP/1.1 400 Bad Request"},
	{"host with half a bracket", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", "HTTP/1.1 400 Bad Request"},
	{"host with brackets for nothing", "GET / HTTP/1.1\r\nHost: [a]\r\n\r\n", "HTTP/1.1 400 Bad Request"},
	{"host IPv6", "GET /blob/1 HTTP/1.1\r\nHost: [fd77::1]\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK"},
	{"host IPv6 and port", "GET /blob/1 HTTP/1.1\r\nHost: [fd77::1]:80\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK"},
	{"host empty", "GET /blob/1 HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK"},
	{"host with an empty port", "GET /blob/1 HTTP/1.1\r\nHost: a:\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK"},
	{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 204 No Content"},
	{"connect", "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nConnection: close\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"},
	{"garbage", "\x17\x03\x01 hello, who is there\r\n\r\n", "HTTP/1.1 400 Bad Request"},
	{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("r", 300), "HTTP/1.1 400 Bad Request: TLS on a port without it"},
	{"space in field name", "GET / HTTP/1.1\r\nHost: a\r\nA b: c\r\n\r\n", "HTTP/1.1 400 Bad Request: invalid header name"},
	{"two lengths", "POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "HTTP/1.1 400 Bad Request"},
	{"unknown coding", "POST /sink HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "HTTP/1.1 501 Not Implemented"},
	{"unknown expectation", "POST /sink HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nContent-Length: 1\r\n\r\na", "HTTP/1.1 417 Expectation Failed"},
	{"early error, much behind it", "GET / HTTP/1.1 and more\r\n" + strings.Repeat("x", 100<<10), "HTTP/1.1 400 Bad Request"},
	{"refused, much behind it", "PUT /blob/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 500000\r\n\r\n" + strings.Repeat("x", 500000), "HTTP/1.1 405 Method Not Allowed"},
	{"bad chunk", "POST /sink HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n", "HTTP/1.1 400 Bad Request"},
	{"blank line first", "\r\nGET /blob/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK"},
	{"two blank lines first", "\n\r\nGET /blob/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK"},
	{"three blank lines first", "\r\n\r\n\r\nGET /blob/1 HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400 Bad Request"},
	{"traversal", "GET /files/../../etc/passwd HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 404 Not Found"},
	{"header too large", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 70<<10) + "\r\n\r\n", "HTTP/1.1 431 Request Header Fields Too Large"},
	{"header fits", "GET /blob/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: " + strings.Repeat("x", 60<<10) + "\r\n\r\n", "HTTP/1.1 200 OK"},
	{"uri too long", "GET /" + strings.Repeat("x", 9000) + " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 414 Request URI Too Long"},
	{"uri at the limit", "GET /blob/1?" + strings.Repeat("x", 8192-len("/blob/1?")) + " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK"},
	{"declared too long", "POST /test/post HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\nConnection: close\r\n\r\n", "HTTP/1.1 413 Request Entity Too Large"},
	{"expects, too long", "POST /test/post HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\nExpect: 100-continue\r\n\r\n", "HTTP/1.1 413 Request Entity Too Large"},
}

func TestRawRequests(t *testing.T) {
	w := start(t, nil)
	for _, c := range rawRequests {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, statusLine(w.raw(t, c.in)))
		})
	}
}

// The same in pieces of every octet: what is looked at on the way must not depend
// on how much of it comes at once.
func TestRawRequestsByOctets(t *testing.T) {
	ln := newPipeListener()
	start(t, func(env *services.Env, _ *Config) { env.TCP = append(env.TCP, ln) })
	for _, c := range rawRequests {
		if len(c.in) > 2000 {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			near := ln.dial()
			defer near.Close()
			require.NoError(t, near.SetDeadline(time.Now().Add(patience)))
			go func() {
				for i := range len(c.in) {
					if _, err := near.Write([]byte{c.in[i]}); err != nil {
						return // answered early
					}
				}
			}()
			got, err := bufio.NewReader(near).ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, c.want, strings.TrimSuffix(got, "\r\n"))
		})
	}
}

// pipeListener hands out connections that deliver every write by itself.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) dial() net.Conn {
	near, far := net.Pipe()
	l.conns <- far
	return near
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }
