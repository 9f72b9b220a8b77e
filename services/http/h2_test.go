package http

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"porthole/services"
	"porthole/services/servicestest"
)

func TestPriorKnowledge(t *testing.T) {
	w := start(t, nil)
	c := w.h2(t)
	resp, body := w.doWith(t, c, "GET", "/blob/100000", nil)
	require.Equal(t, 2, resp.ProtoMajor)
	require.True(t, bytes.Equal(expect(0, 100000), body))
	resp, body = w.doWith(t, c, "GET", "/blob/8GiB", nil, "Range", "bytes=5000000000-5000000009")
	require.Equal(t, 206, resp.StatusCode)
	require.Equal(t, expect(5000000000, 10), body)
	resp, _ = w.doWith(t, c, "GET", "/test/get", nil)
	require.Equal(t, 200, resp.StatusCode)
	resp, _ = w.doWith(t, c, "FOO", "/", nil)
	require.Equal(t, 501, resp.StatusCode)
	resp, _ = w.doWith(t, c, "GET", "/blob/1", nil, "X", strings.Repeat("x", 60<<10))
	require.Equal(t, 200, resp.StatusCode)
}

// A well-behaved client does not send a header beyond the limit that the server
// told it; one that does gets 431.
func TestHeaderTooLargeHTTP2(t *testing.T) {
	var log servicestest.Log
	w := start(t, func(env *services.Env, _ *Config) { env.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	got := map[string]int{}
	ask := func(value int) (status string) {
		c := w.dial(t)
		sendPreface(c)
		r, err := http.NewRequest("GET", "http://a/blob/1", nil)
		require.NoError(t, err)
		for i := range 4 {
			r.Header.Set(fmt.Sprint("X-", i), strings.Repeat("x", value))
		}
		_, err = c.Write(firstRequest(r))
		require.NoError(t, err)
		status, _ = newStreams(t, c).read(1)
		got[status]++
		return status
	}
	require.Equal(t, "431", ask(17<<10))
	// Whichever side of the limit, a request has one line.
	last := sort.Search(17<<10, func(n int) bool { return ask(n) == "431" }) - 1
	require.Greater(t, last, 14<<10)
	require.NoError(t, w.Stop())
	for status, n := range got {
		require.Equal(t, n, strings.Count(log.String(), `request="GET /blob/1 HTTP/2.0" result=`+status), status)
	}
}

func TestH2COff(t *testing.T) {
	w := start(t, func(_ *services.Env, cfg *Config) { cfg.H2C = false })
	require.Equal(t, "HTTP/1.1 501 Not Implemented", statusLine(w.raw(t, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")))
	got := w.raw(t, upgradeRequest("GET", "/blob/1", "Connection: close"))
	require.Equal(t, "HTTP/1.1 200 OK", statusLine(got))
}

func upgradeRequest(method, path string, more ...string) string {
	settings := binary.BigEndian.AppendUint16(nil, 4) // INITIAL_WINDOW_SIZE
	settings = binary.BigEndian.AppendUint32(settings, 1<<20)
	lines := append([]string{
		method + " " + path + " HTTP/1.1", "Host: porthole.test",
		"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c",
		"HTTP2-Settings: " + base64.RawURLEncoding.EncodeToString(settings),
		"User-Agent: test", "Accept: */*",
	}, more...)
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// upgradeTo2 gets a connection upgraded; what it returns reads the HTTP/2 side.
func upgradeTo2(t *testing.T, w *web, request string, preface func(net.Conn)) (*streams, net.Conn) {
	c := w.dial(t)
	_, err := io.WriteString(c, request)
	require.NoError(t, err)
	br := bufio.NewReader(c)
	for want := range strings.SplitSeq("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", "\n") {
		if want == "" {
			continue
		}
		line, err := br.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, want+"\n", line)
	}
	if preface != nil {
		preface(c)
	}
	return newStreams(t, br), c
}

// streams reads answers frame by frame.
type streams struct {
	t      *testing.T
	r      io.Reader
	fr     *http2.Framer
	dec    *hpack.Decoder
	status string
}

func newStreams(t *testing.T, r io.Reader) *streams {
	s := &streams{t: t, r: r, fr: http2.NewFramer(io.Discard, r)}
	s.dec = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if f.Name == ":status" {
			s.status = f.Value
		}
	})
	return s
}

// read returns the status and body of a stream, the next one to be answered.
func (s *streams) read(stream uint32) (status string, body []byte) {
	t := s.t
	for {
		f, err := s.fr.ReadFrame()
		require.NoError(t, err)
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			t.Fatalf("goaway %v %s", f.ErrCode, f.DebugData())
		case *http2.RSTStreamFrame:
			t.Fatalf("reset %v", f.ErrCode)
		case *http2.HeadersFrame:
			require.Equal(t, stream, f.StreamID)
			_, err := s.dec.Write(f.HeaderBlockFragment())
			require.NoError(t, err)
			if f.StreamEnded() {
				return s.status, body
			}
		case *http2.DataFrame:
			require.Equal(t, stream, f.StreamID)
			body = append(body, f.Data()...)
			if f.StreamEnded() {
				return s.status, body
			}
		}
	}
}

func sendPreface(fr io.Writer) {
	io.WriteString(fr, http2.ClientPreface)
	http2.NewFramer(fr, nil).WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
}

func TestUpgrade(t *testing.T) {
	long := "X-Long: " + strings.Repeat("x", 40000) // needs CONTINUATION
	for _, c := range []struct {
		name, request, status string
		size                  int
	}{
		{"get", upgradeRequest("GET", "/blob/50000"), "200", 50000},
		{"head", upgradeRequest("HEAD", "/blob/50000"), "200", 0},
		{"long header", upgradeRequest("GET", "/blob/10", long), "200", 10},
		{"absolute form", upgradeRequest("GET", "http://porthole.test/blob/10?x=y"), "200", 10},
	} {
		for _, whole := range []bool{true, false} {
			t.Run(fmt.Sprint(c.name, whole), func(t *testing.T) {
				w := start(t, nil)
				fr, conn := upgradeTo2(t, w, c.request, func(conn net.Conn) {
					if whole {
						sendPreface(conn)
						return
					}
					var b bytes.Buffer // byte by byte: every split is legal
					sendPreface(&b)
					for _, x := range b.Bytes() {
						conn.Write([]byte{x})
					}
				})
				status, body := fr.read(1)
				require.Equal(t, c.status, status)
				require.True(t, bytes.Equal(expect(0, int64(c.size)), body))

				// The connection goes on as any other.
				var block bytes.Buffer
				enc := hpack.NewEncoder(&block)
				for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "a"}, {":path", "/blob/20"}} {
					enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
				}
				require.NoError(t, http2.NewFramer(conn, nil).WriteHeaders(http2.HeadersFrameParam{
					StreamID: 3, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true,
				}))
				_, body = fr.read(3)
				require.Equal(t, expect(0, 20), body)
			})
		}
	}
}

// The settings that the request brought count, those of the client's SETTINGS frame
// after them (RFC 7540, 3.2.1); and a malformed request is one, however the connection
// came to HTTP/2.
func TestUpgradeSettings(t *testing.T) {
	for _, c := range []struct {
		name  string
		frame []http2.Setting
		want  int
	}{
		{"the request's", nil, 1 << 10},
		{"another one", []http2.Setting{{ID: http2.SettingHeaderTableSize, Val: 4096}}, 1 << 10},
		{"overruled", []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 7}}, 7},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := start(t, nil)
			request := strings.Replace(upgradeRequest("GET", "/blob/9000"), "AAQAEAAA", "AAQAAAQA", 1) // 1 KiB
			s, conn := upgradeTo2(t, w, request, func(conn net.Conn) {
				io.WriteString(conn, http2.ClientPreface)
				http2.NewFramer(conn, nil).WriteSettings(c.frame...)
			})
			k := newTalk(readWriter{s.r, conn})
			k.await(t, dataOf(1, c.want)) // net/http fills the window at once
			require.NoError(t, k.get(3, k.fields("connection", "close")))
			k.await(t, resetOf(3, http2.ErrCodeProtocol))
		})
	}
	w := start(t, nil)
	request := strings.Replace(upgradeRequest("GET", "/blob/1"), "AAQAEAAA", "AAIAAAAC", 1) // ENABLE_PUSH=2
	s, conn := upgradeTo2(t, w, request, func(conn net.Conn) { sendPreface(conn) })
	k := newTalk(readWriter{s.r, conn})
	k.await(t, func(f http2.Frame) bool {
		away, ok := f.(*http2.GoAwayFrame)
		return ok && away.ErrCode == http2.ErrCodeProtocol
	})
}

// readWriter is a connection of which more was read than was wanted.
type readWriter struct {
	io.Reader
	io.Writer
}

// What may not be upgraded is answered in HTTP/1.1, as RFC 9110, 7.8 allows.
func TestNoUpgrade(t *testing.T) {
	w := start(t, nil)
	for name, request := range map[string]string{
		"body":            upgradeRequest("PUT", "/sink", "Content-Length: 1", "Connection: close") + "x",
		"no settings":     "GET /blob/1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n",
		"broken settings": "GET /blob/1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n\r\n",
		"not named":       "GET /blob/1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n",
		"another":         "GET /blob/1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: h3c\r\n\r\n",
		"http/1.0":        "GET /blob/1 HTTP/1.0\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, statusLine(w.raw(t, request)), " 200 OK")
		})
	}
}

// A client that is upgraded and then silent, or talks nonsense, ends.
func TestUpgradeThenNothing(t *testing.T) {
	for name, say := range map[string]string{
		"nothing":      "",
		"preface":      http2.ClientPreface,
		"not settings": http2.ClientPreface + "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678",
		"http/1":       "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, w *web) {
				_, c := upgradeTo2(t, w, upgradeRequest("GET", "/blob/1"), func(c net.Conn) {
					require.NoError(t, c.SetDeadline(time.Now().Add(time.Hour)))
					io.WriteString(c, say)
				})
				_, err := io.Copy(io.Discard, c)
				require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "still open")
			})
		})
	}
}

// The WebSocket of go-httpbin works through our response writer.
func TestWebSocketEcho(t *testing.T) {
	w := start(t, nil)
	c := w.dial(t)
	fmt.Fprintf(c, "GET /test/websocket/echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	require.Equal(t, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", resp.Header.Get("Sec-Websocket-Accept"))
	// One masked text frame with the mask 0, then a close frame.
	c.Write([]byte{0x81, 0x82, 0, 0, 0, 0, 'h', 'i'})
	got := make([]byte, 4)
	_, err = io.ReadFull(br, got)
	require.NoError(t, err)
	require.Equal(t, []byte{0x81, 2, 'h', 'i'}, got)
}

func FuzzUpgraded(f *testing.F) {
	var b bytes.Buffer
	sendPreface(&b)
	f.Add(b.Bytes(), uint8(1))
	f.Add([]byte(http2.ClientPreface), uint8(7))
	f.Add([]byte{}, uint8(3))
	b.Write(firstRequest(&http.Request{Method: "GET", URL: &url.URL{Path: "/a"}}))
	f.Add(b.Bytes(), uint8(2))
	// Whatever the client says and however it is cut: the preface and SETTINGS come
	// through, once with what the request brought, and then what any connection says.
	f.Fuzz(func(t *testing.T, in []byte, step uint8) {
		readAll := func(c io.Reader) (got []byte) {
			p := make([]byte, int(step)+1)
			for {
				n, err := c.Read(p)
				got = append(got, p[:n]...)
				if err != nil {
					return got
				}
			}
		}
		settings, request := []byte{0, 4, 0, 0, 0, 9}, []byte("REQUEST")
		got := readAll(newUpgraded(&readConn{r: bytes.NewReader(in)}, nil, settings, request, 1<<16, func(string) {}))
		rest, ok := bytes.CutPrefix(in, []byte(clientPreface))
		if !ok {
			require.True(t, strings.HasPrefix(clientPreface, string(got)))
			return
		}
		want := []byte(clientPreface)
		h, err := http2.ReadFrameHeader(bytes.NewReader(rest))
		if err == nil && h.Type == http2.FrameSettings && h.Flags&http2.FlagSettingsAck == 0 && h.StreamID == 0 &&
			h.Length <= maxSettings && h.Length%settingSize == 0 && len(rest) >= frameHeader+int(h.Length) {
			head, own := rest[:frameHeader], rest[frameHeader:frameHeader+h.Length]
			all := append(append([]byte{}, settings...), own...)
			all = all[:lastSettings(all)]
			want = append(want, byte(len(all)>>16), byte(len(all)>>8), byte(len(all)))
			want = append(append(append(want, head[3:]...), all...), request...)
			want = append(want, readAll(newFrames(bytes.NewReader(rest[frameHeader+h.Length:]), 1<<16, func(string) {}))...)
		}
		require.Equal(t, want, got)
	})
}

// readConn is a connection of which only reading works.
type readConn struct {
	net.Conn
	r io.Reader
}

func (c *readConn) Read(p []byte) (int, error) { return c.r.Read(p) }
