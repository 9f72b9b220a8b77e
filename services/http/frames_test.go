package http

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// talk is a client of HTTP/2 that says what it is told to.
type talk struct {
	*http2.Framer
	enc   *hpack.Encoder
	block bytes.Buffer
}

func newTalk(rw io.ReadWriter) *talk {
	k := &talk{Framer: http2.NewFramer(rw, rw)}
	k.AllowIllegalWrites = true
	k.enc = hpack.NewEncoder(&k.block)
	return k
}

// fields encodes a request for /blob/5 with more fields, name and value in turn.
func (k *talk) fields(more ...string) []byte {
	k.block.Reset()
	all := append([]string{":method", "GET", ":scheme", "http", ":path", "/blob/5", ":authority", "a"}, more...)
	for i := 0; i < len(all); i += 2 {
		k.enc.WriteField(hpack.HeaderField{Name: all[i], Value: all[i+1]})
	}
	return bytes.Clone(k.block.Bytes())
}

func (k *talk) get(stream uint32, block []byte) error {
	return k.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block, EndStream: true, EndHeaders: true})
}

// await reads frames up to one that want takes.
func (k *talk) await(t *testing.T, want func(http2.Frame) bool) {
	t.Helper()
	for {
		f, err := k.ReadFrame()
		require.NoError(t, err)
		if want(f) {
			return
		}
		if away, ok := f.(*http2.GoAwayFrame); ok {
			t.Fatalf("goaway %v", away.ErrCode)
		}
	}
}

func resetOf(stream uint32, code http2.ErrCode) func(http2.Frame) bool {
	return func(f http2.Frame) bool {
		r, ok := f.(*http2.RSTStreamFrame)
		return ok && r.StreamID == stream && r.ErrCode == code
	}
}

func dataOf(stream uint32, n int) func(http2.Frame) bool {
	return func(f http2.Frame) bool {
		d, ok := f.(*http2.DataFrame)
		return ok && d.StreamID == stream && len(d.Data()) == n
	}
}

// A malformed request is a stream error, and the connection goes on (RFC 9113,
// 8.1.1).
func TestMalformedRequestsAreReset(t *testing.T) {
	w := start(t, nil)
	c := w.dial(t)
	sendPreface(c)
	k := newTalk(c)
	stream := uint32(1)
	for _, c := range []struct {
		name, value string
		bad         bool
	}{
		{"connection", "keep-alive", true},
		{"keep-alive", "5", true},
		{"proxy-connection", "close", true},
		{"transfer-encoding", "chunked", true},
		{"upgrade", "h2c", true},
		{"te", "gzip", true},
		{"te", "trailers", false},
		{"x", " a", true},
		{"x", "a\t", true},
		{"x", "a b", false},
		{"x", "", false},
	} {
		for _, cut := range []int{-1, 0, 1, 5} { // -1 is one frame
			for _, padded := range []bool{false, true} {
				block := k.fields("a", "b", c.name, c.value, "d", "e")
				if cut < 0 {
					cut = len(block)
				}
				p := http2.HeadersFrameParam{StreamID: stream, BlockFragment: block[:cut], EndStream: true, EndHeaders: cut == len(block)}
				if padded {
					p.PadLength, p.Priority = 9, http2.PriorityParam{Weight: 7}
				}
				require.NoError(t, k.WriteHeaders(p))
				if !p.EndHeaders {
					require.NoError(t, k.WriteContinuation(stream, false, block[cut:len(block)-1]))
					require.NoError(t, k.WriteContinuation(stream, true, block[len(block)-1:]))
				}
				if c.bad {
					k.await(t, resetOf(stream, http2.ErrCodeProtocol))
				} else {
					k.await(t, dataOf(stream, 5))
				}
				stream += 2
				if cut == len(block) {
					cut = -1
				}
			}
		}
	}
	require.NoError(t, k.get(stream, k.fields()))
	k.await(t, dataOf(stream, 5))
}

// What SETTINGS names twice has the last value (RFC 9113, 6.5).
func TestSettingsInOrder(t *testing.T) {
	w := start(t, nil)
	c := w.dial(t)
	io.WriteString(c, http2.ClientPreface)
	k := newTalk(c)
	require.NoError(t, k.WriteSettings(
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100},
		http2.Setting{ID: http2.SettingEnablePush, Val: 0},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: 2},
		http2.Setting{ID: 0x7777, Val: 1}, http2.Setting{ID: 0x7777, Val: 2},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}))
	k.await(t, func(f http2.Frame) bool {
		s, ok := f.(*http2.SettingsFrame)
		return ok && s.IsAck()
	})
	require.NoError(t, k.get(1, k.fields()))
	k.await(t, dataOf(1, 1))
}

func TestBadFramesEndTheConnection(t *testing.T) {
	w := start(t, nil)
	for name, c := range map[string]struct {
		send func(k *talk) error
		want http2.ErrCode
	}{
		"header frame beyond the size": {func(k *talk) error {
			return k.get(1, k.fields("x", string(bytes.Repeat([]byte{1}, 20000))))
		}, http2.ErrCodeFrameSize},
		"window beyond the most, twice": {func(k *talk) error {
			return k.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
		}, http2.ErrCodeFlowControl},
		"window beyond the most": {func(k *talk) error {
			return k.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31})
		}, http2.ErrCodeFlowControl},
		"settings of odd length": {func(k *talk) error {
			return k.WriteRawFrame(http2.FrameSettings, 0, 0, make([]byte, 7))
		}, http2.ErrCodeFrameSize},
		"no such index": {func(k *talk) error { return k.get(1, []byte{0xfe}) }, http2.ErrCodeCompression},
	} {
		t.Run(name, func(t *testing.T) {
			c1 := w.dial(t)
			sendPreface(c1)
			k := newTalk(c1)
			require.NoError(t, c.send(k))
			k.await(t, func(f http2.Frame) bool {
				away, ok := f.(*http2.GoAwayFrame)
				if ok {
					require.Equal(t, c.want, away.ErrCode)
				}
				return ok
			})
		})
	}
}

// However the bytes come in pieces, the same goes on; and what is no SETTINGS with
// a parameter twice goes on whole and in order.
func FuzzFrames(f *testing.F) {
	var b bytes.Buffer
	k := newTalk(&b)
	k.WriteSettings(http2.Setting{ID: 3, Val: 1}, http2.Setting{ID: 4, Val: 9}, http2.Setting{ID: 3, Val: 2})
	k.get(1, k.fields("connection", "close"))
	k.WriteData(1, true, []byte("hello"))
	f.Add(b.Bytes(), uint8(0), uint8(200))
	b.Reset()
	k.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: k.fields("te", "x"), PadLength: 3})
	k.WriteContinuation(3, true, nil)
	f.Add(b.Bytes(), uint8(3), uint8(8))
	f.Fuzz(func(t *testing.T, in []byte, piece, ask uint8) {
		pass := func(piece, ask int) []byte {
			c := newFrames(&readConn{r: &pieces{in, piece}}, 1<<16, func(string) {})
			var got []byte
			p := make([]byte, ask)
			for {
				n, err := c.Read(p)
				got = append(got, p[:n]...)
				if err != nil {
					require.LessOrEqual(t, n, ask)
					return got
				}
			}
		}
		got := pass(int(piece)+1, int(ask)+1)
		require.Equal(t, pass(1<<20, 1<<20), got)
		var rest []byte // without what was put in
		for {
			h, err := http2.ReadFrameHeader(bytes.NewReader(got))
			if err != nil || len(got) < 9+int(h.Length) {
				rest = append(rest, got...)
				break
			}
			whole := got[:9+h.Length]
			got = got[len(whole):]
			if h.Type == http2.FrameSettings {
				return
			}
			if h.Type != http2.FrameWindowUpdate {
				rest = append(rest, whole...)
			}
		}
		if !bytes.Contains(in, []byte{byte(http2.FrameWindowUpdate)}) {
			require.True(t, bytes.HasPrefix(in, rest))
		}
	})
}

// pieces reads at most n bytes at a time.
type pieces struct {
	b []byte
	n int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.n)], p.b)
	p.b = p.b[n:]
	return n, nil
}
