package http

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/services"
	"porthole/services/servicestest"
)

// at is the documented formula, one byte at a time.
func at(i int64) byte {
	j := uint64(i % 65521)
	return byte(j * j * j * 2654435761 >> 24)
}

func expect(from, n int64) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = at(from + int64(i))
	}
	return b
}

func TestBlobBytes(t *testing.T) {
	w := start(t, nil)
	for size, n := range map[string]int64{
		"0": 0, "1": 1, "128": 128, "4096": 4096, "65520": 65520, "65521": 65521, "65522": 65522,
		"64KiB": 65536, "131057": 131057, "1MiB": 1 << 20, "1048576": 1 << 20, "007": 7, "10B": 10,
	} {
		resp, body := w.do(t, "GET", "/blob/"+size, nil)
		require.Equal(t, 200, resp.StatusCode, size)
		require.Equal(t, n, resp.ContentLength, size)
		require.True(t, bytes.Equal(expect(0, n), body), size)
		require.Equal(t, "bytes", resp.Header.Get("Accept-Ranges"))
	}
}

// The checksum in the documentation's Python gives this for 1 MiB.
func TestBlobDocumentedSum(t *testing.T) {
	sum := sha256.Sum256(expect(0, 1<<20))
	w := start(t, nil)
	_, body := w.do(t, "GET", "/blob/1MiB", nil)
	got := sha256.Sum256(body)
	require.Equal(t, hex.EncodeToString(sum[:]), hex.EncodeToString(got[:]))
	require.Equal(t, documentedSum, hex.EncodeToString(got[:]))
}

// Eight bytes anywhere tell their offset within the period, so no shift goes unseen.
func TestPatternHasNoTwins(t *testing.T) {
	seen := map[[8]byte]int{}
	p := pattern()
	for i := range period {
		k := [8]byte(p[i : i+8])
		if j, ok := seen[k]; ok {
			t.Fatalf("offsets %d and %d look alike", j, i)
		}
		seen[k] = i
	}
}

func TestBlobRanges(t *testing.T) {
	w := start(t, nil)
	const size = 200000
	type part struct{ from, n int64 }
	for _, c := range []struct {
		in     string
		status int
		parts  []part
	}{
		{"bytes=0-0", 206, []part{{0, 1}}},
		{"bytes=0-", 206, []part{{0, size}}},
		{"bytes=65520-65530", 206, []part{{65520, 11}}},
		{"bytes=199999-", 206, []part{{199999, 1}}},
		{"bytes=199999-300000", 206, []part{{199999, 1}}},
		{"bytes=5-99999999999999999999999", 206, []part{{5, size - 5}}},
		{"bytes=-1", 206, []part{{199999, 1}}},
		{"bytes=-70000", 206, []part{{130000, 70000}}},
		{"bytes=-999999", 206, []part{{0, size}}},
		{"BYTES=1-2", 206, []part{{1, 2}}},
		{"bytes= 1-2 , 4-5", 206, []part{{1, 2}, {4, 2}}},
		{"bytes=0-9,100-109,65516-65525", 206, []part{{0, 10}, {100, 10}, {65516, 10}}},
		{"bytes=100-109,0-9", 206, []part{{100, 10}, {0, 10}}},
		{"bytes=0-9,500000-", 206, []part{{0, 10}}},
		{"bytes=,0-9,,", 206, []part{{0, 10}}},
		{"bytes=0-,0-", 200, []part{{0, size}}}, // more than the whole
		{"bytes=200000-", 416, nil},
		{"bytes=200000-200001,-0", 416, nil},
		{"bytes=-0", 416, nil},
		{"bytes=99999999999999999999999-", 416, nil},
		{"bytes=5-4", 200, []part{{0, size}}},
		{"bytes=a-b", 200, []part{{0, size}}},
		{"bytes=1", 200, []part{{0, size}}},
		{"bytes=+1-2", 200, []part{{0, size}}},
		{"bytes=-", 200, []part{{0, size}}},
		{"bytes=--1", 200, []part{{0, size}}},
		{"bytes=", 200, []part{{0, size}}},
		{"items=0-5", 200, []part{{0, size}}},
		{"bytes=" + strings.Repeat("0-0,", 101), 416, nil},
	} {
		t.Run(c.in, func(t *testing.T) {
			resp, body := w.do(t, "GET", "/blob/200000", nil, "Range", c.in)
			require.Equal(t, c.status, resp.StatusCode)
			switch {
			case c.status == 416:
				require.Equal(t, "bytes */200000", resp.Header.Get("Content-Range"))
				return
			case c.status == 200:
				require.Empty(t, resp.Header.Get("Content-Range"))
				require.True(t, bytes.Equal(expect(0, size), body))
			case len(c.parts) == 1:
				p := c.parts[0]
				require.Equal(t, fmt.Sprintf("bytes %d-%d/200000", p.from, p.from+p.n-1), resp.Header.Get("Content-Range"))
				require.True(t, bytes.Equal(expect(p.from, p.n), body))
			default:
				typ, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
				require.NoError(t, err)
				require.Equal(t, "multipart/byteranges", typ)
				mr := multipart.NewReader(bytes.NewReader(body), params["boundary"])
				for _, p := range c.parts {
					got, err := mr.NextPart()
					require.NoError(t, err)
					require.Equal(t, fmt.Sprintf("bytes %d-%d/200000", p.from, p.from+p.n-1), got.Header.Get("Content-Range"))
					require.Equal(t, "application/octet-stream", got.Header.Get("Content-Type"))
					b, err := io.ReadAll(got)
					require.NoError(t, err)
					require.Equal(t, expect(p.from, p.n), b)
				}
				_, err = mr.NextPart()
				require.ErrorIs(t, err, io.EOF)
			}
			require.Equal(t, int64(len(body)), resp.ContentLength)
			resp, _ = w.do(t, "HEAD", "/blob/200000", nil, "Range", c.in)
			require.Equal(t, 200, resp.StatusCode, "HEAD has no ranges (RFC 9110, 14.2)")
		})
	}
}

func TestBlobConditions(t *testing.T) {
	w := start(t, nil)
	resp, _ := w.do(t, "GET", "/blob/1000", nil)
	tag := resp.Header.Get("Etag")
	require.NotEmpty(t, tag)
	for _, c := range []struct {
		name   string
		header []string
		want   int
	}{
		{"same", []string{"If-None-Match", tag}, 304},
		{"any", []string{"If-None-Match", "*"}, 304},
		{"other", []string{"If-None-Match", `"x"`}, 200},
		{"match", []string{"If-Match", tag}, 200},
		{"no match", []string{"If-Match", `"x"`}, 412},
		{"range if same", []string{"Range", "bytes=0-9", "If-Range", tag}, 206},
		{"range if other", []string{"Range", "bytes=0-9", "If-Range", `"x"`}, 200},
		{"range if weak", []string{"Range", "bytes=0-9", "If-Range", "W/" + tag}, 200},
		{"condition before range", []string{"Range", "bytes=5000-", "If-Match", `"x"`}, 412},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, _ := w.do(t, "GET", "/blob/1000", nil, c.header...)
			require.Equal(t, c.want, resp.StatusCode)
		})
	}
	other, _ := w.do(t, "GET", "/blob/1001", nil)
	require.NotEqual(t, tag, other.Header.Get("Etag"))
}

// Offsets beyond 4 GiB: the head, the end, and a range across the 32-bit border.
func TestBlob8GiB(t *testing.T) {
	w := start(t, nil)
	const size = 8 << 30
	resp, _ := w.do(t, "HEAD", "/blob/8GiB", nil)
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, int64(size), resp.ContentLength)
	for _, from := range []int64{size - 100000, 1<<32 - 50000, 5 << 30} {
		resp, body := w.do(t, "GET", "/blob/8589934592", nil, "Range", fmt.Sprintf("bytes=%d-%d", from, from+99999))
		require.Equal(t, 206, resp.StatusCode)
		require.True(t, bytes.Equal(expect(from, 100000), body), from)
	}
}

// What is left of a blob when its reader goes away must not be generated.
func TestBlobReaderLeaves(t *testing.T) {
	var log servicestest.Log
	w := start(t, func(env *services.Env, _ *Config) {
		env.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	resp, err := w.http.Get(w.url + "/blob/8GiB")
	require.NoError(t, err)
	_, err = io.CopyN(io.Discard, resp.Body, 1<<20)
	require.NoError(t, err)
	resp.Body.Close()
	require.Eventually(t, func() bool {
		return strings.Contains(log.String(), "GET /blob/8GiB")
	}, patience, time.Millisecond, "the handler is still writing")
}

// The cheap path: net/http's own work aside, a small blob costs no allocation
// but the response itself.
func TestSmallBlobAllocates(t *testing.T) {
	st := quietSite(t)
	r := httptest.NewRequest("GET", "/blob/128", nil)
	w := &discard{h: http.Header{}}
	n := testing.AllocsPerRun(1000, func() {
		clear(w.h)
		st.ServeHTTP(w, r)
	})
	require.LessOrEqual(t, n, 1.0)
}

func BenchmarkSmallBlob(b *testing.B) {
	st := quietSite(b)
	r := httptest.NewRequest("GET", "/blob/128", nil)
	w := &discard{h: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.h)
		st.ServeHTTP(w, r)
	}
}

func BenchmarkBlob(b *testing.B) {
	w := start(b, nil)
	b.SetBytes(64 << 20)
	b.ReportAllocs()
	for b.Loop() {
		resp, err := w.http.Get(w.url + "/blob/64MiB")
		if err != nil {
			b.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

// discard is a ResponseWriter that costs nothing.
type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"", "0", "128", "64MiB", "8GiB", "-1", "+1", "1 KiB", "9223372036854775807", "9223372036854775808", "1e3", "0x10", "5KiBKiB", "B", "8589934592GiB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, ok := parseSize(s)
		if !ok {
			require.Zero(t, n)
			return
		}
		require.GreaterOrEqual(t, n, int64(0))
		again, ok := parseSize(fmt.Sprint(n))
		require.True(t, ok)
		require.Equal(t, n, again)
	})
}

func FuzzRange(f *testing.F) {
	for _, s := range []string{"", "bytes=0-0", "bytes=-5", "bytes=5-", "bytes=0-1,3-4,-1", "bytes=9-1", "items=1-2", "bytes=0-99999999999999999999", "bytes=,,", "bytes=-0"} {
		f.Add(s, int64(10))
	}
	f.Add("bytes=0-", int64(0))
	f.Fuzz(func(t *testing.T, value string, size int64) {
		if size < 0 {
			size = ^size
		}
		ivs, verdict := parseRange(value, size)
		require.Equal(t, verdict == rangeFine, len(ivs) > 0)
		require.LessOrEqual(t, len(ivs), rangeLimit)
		for _, iv := range ivs {
			require.GreaterOrEqual(t, iv.start, int64(0))
			require.Positive(t, iv.length)
			require.LessOrEqual(t, iv.length, size-iv.start)
		}
		if size > 1<<16 || strings.ContainsAny(value, "\r\n") {
			return
		}
		// The whole answer: the right status, and as many bytes as it promised.
		rec := httptest.NewRecorder()
		r := httptest.NewRequest("GET", fmt.Sprint("/blob/", size), nil)
		r.Header["Range"] = []string{value}
		quietSite(t).ServeHTTP(rec, r)
		require.Contains(t, []int{200, 206, 416}, rec.Code)
		if rec.Code != 416 {
			require.Equal(t, fmt.Sprint(rec.Body.Len()), rec.Header().Get("Content-Length"))
		}
		if rec.Code == 206 && len(ivs) == 1 {
			require.Equal(t, expect(ivs[0].start, ivs[0].length), rec.Body.Bytes())
		}
	})
}

const documentedSum = "10ba711acaeef2da56e563482efc52b685870d1804b60c2f9228826d1312c228"

// quietSite is the handler alone, with logging off.
func quietSite(t testing.TB) *site {
	cfg := Default()
	st, err := newSite(&services.Env{
		Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Host: services.Host{Name: "porthole", Version: "test"},
	}, &cfg)
	require.NoError(t, err)
	t.Cleanup(st.close)
	return st
}
