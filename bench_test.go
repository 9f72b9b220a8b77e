package porthole_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jlaffaye/ftp"
	"github.com/stretchr/testify/require"

	"porthole/services"
	"porthole/stack/stacktest"
	"porthole/tun"
)

// Whole-host benchmarks over tun.Pipe: the client is a second stack in the same
// process, so a figure is of both ends, and an allocation may be the client's.
// `make bench` is the one with a kernel, and with something to compare to.

func benchRig(b *testing.B) *rig { return newRig(b, tun.PipeOptions{GSO: true}, nil) }

func at(port uint16) string { return netip.AddrPortFrom(stacktest.Host4.Addr(), port).String() }

// perSecond adds a rate to the line.
func perSecond(b *testing.B, unit string) {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), unit+"/s")
}

// rawHTTP asks for the same small blob over a connection of its own, without an
// http.Client, whose allocations would be most of the line.
type rawHTTP struct {
	c   net.Conn
	req []byte
	buf [4096]byte
	len int // of a whole answer; known after the first
}

func newRawHTTP(b testing.TB, r *rig) *rawHTTP {
	c, err := r.client.DialContext(context.Background(), "tcp", at(80))
	require.NoError(b, err)
	h := &rawHTTP{c: c, req: []byte("GET /blob/128 HTTP/1.1\r\nHost: porthole.test\r\n\r\n")}
	_, err = c.Write(h.req)
	require.NoError(b, err)
	for {
		n, err := c.Read(h.buf[h.len:])
		require.NoError(b, err)
		h.len += n
		if end := bytes.Index(h.buf[:h.len], []byte("\r\n\r\n")); end >= 0 && h.len == end+4+128 {
			return h
		}
	}
}

func (h *rawHTTP) ask() error {
	if _, err := h.c.Write(h.req); err != nil {
		return err
	}
	_, err := io.ReadFull(h.c, h.buf[:h.len])
	return err
}

// BenchmarkHTTP keeps connections alive; each worker has its own.
func BenchmarkHTTP(b *testing.B) {
	for _, conns := range []int{1, 32} {
		b.Run(fmt.Sprintf("connections=%d", conns), func(b *testing.B) {
			r := benchRig(b)
			hs := make([]*rawHTTP, conns)
			for i := range hs {
				hs[i] = newRawHTTP(b, r)
				defer hs[i].c.Close()
			}
			b.ReportAllocs()
			b.ResetTimer()
			share(b, conns, func(worker int) error { return hs[worker].ask() })
			perSecond(b, "requests")
		})
	}
}

// share does b.N things on a number of goroutines.
func share(b *testing.B, workers int, do func(worker int) error) {
	var next atomic.Int64
	errs := make(chan error, workers)
	for w := range workers {
		go func() {
			for next.Add(1) <= int64(b.N) {
				if err := do(w); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range workers {
		if err := <-errs; err != nil {
			b.Error(err)
		}
	}
}

// BenchmarkHTTPClose asks with net/http's own client, a connection each.
func BenchmarkHTTPClose(b *testing.B) {
	r := benchRig(b)
	tr := &http.Transport{DialContext: r.client.DialContext, DisableKeepAlives: true}
	c := &http.Client{Transport: tr, Timeout: time.Minute}
	b.ReportAllocs()
	b.ResetTimer()
	share(b, 16, func(int) error {
		resp, err := c.Get("http://" + at(80) + "/blob/128")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	})
	perSecond(b, "requests")
}

// BenchmarkConnects connects to echo, sends a byte back and forth, and resets.
func BenchmarkConnects(b *testing.B) {
	r := benchRig(b)
	to := netip.AddrPortFrom(stacktest.Host4.Addr(), 7)
	b.ReportAllocs()
	b.ResetTimer()
	share(b, 16, func(int) error { return echoOnce(r, to) })
	perSecond(b, "connects")
}

// BenchmarkDNS asks for one address again and again: 1 socket is the round trip.
func BenchmarkDNS(b *testing.B) {
	query := []byte("\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04http\x08porthole\x04test\x00\x00\x01\x00\x01")
	for _, sockets := range []int{1, 16} {
		b.Run(fmt.Sprintf("sockets=%d", sockets), func(b *testing.B) {
			r := benchRig(b)
			cs := make([]net.Conn, sockets)
			bufs := make([][512]byte, sockets)
			for i := range cs {
				var err error
				cs[i], err = r.client.DialContext(context.Background(), "udp", at(53))
				require.NoError(b, err)
				defer cs[i].Close()
			}
			b.ReportAllocs()
			b.ResetTimer()
			share(b, sockets, func(w int) error {
				if _, err := cs[w].Write(query); err != nil {
					return err
				}
				n, err := cs[w].Read(bufs[w][:])
				if err == nil && (n < 12 || bufs[w][7] != 1) {
					err = fmt.Errorf("unexpected reply % x", bufs[w][:n])
				}
				return err
			})
			perSecond(b, "queries")
		})
	}
}

// BenchmarkFTP fetches a small file on one control connection, a data connection each.
func BenchmarkFTP(b *testing.B) {
	r := benchRig(b)
	c, err := ftp.Dial(at(21), ftp.DialWithDialFunc(func(network, address string) (net.Conn, error) {
		return r.client.DialContext(context.Background(), network, address)
	}))
	require.NoError(b, err)
	defer c.Quit()
	require.NoError(b, c.Login("anonymous", "bench"))
	names, err := c.NameList("")
	require.NoError(b, err)
	name := ""
	for _, n := range names {
		if size, err := c.FileSize(n); err == nil && size < 64<<10 {
			name = n
		}
	}
	require.NotEmpty(b, name, "no small file in %v", names)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		f, err := c.Retr(name)
		require.NoError(b, err)
		_, err = io.Copy(io.Discard, f)
		require.NoError(b, err)
		require.NoError(b, f.Close())
	}
	perSecond(b, "files")
}

// BenchmarkBulk moves one endless stream each way; an operation is a MiB.
func BenchmarkBulk(b *testing.B) {
	b.Run("down", func(b *testing.B) {
		r := benchRig(b)
		c, err := r.client.DialContext(context.Background(), "tcp", at(80))
		require.NoError(b, err)
		defer c.Close()
		// Pipelined: one answer ends after 8 GiB, which a long benchmark passes.
		_, err = io.WriteString(c, strings.Repeat("GET /blob/8GiB HTTP/1.1\r\nHost: porthole.test\r\n\r\n", 64))
		require.NoError(b, err)
		bulk(b, c.Read)
	})
	b.Run("up", func(b *testing.B) {
		r := benchRig(b)
		c, err := r.client.DialContext(context.Background(), "tcp", at(9))
		require.NoError(b, err)
		defer c.Close()
		bulk(b, c.Write)
	})
}

func bulk(b *testing.B, move func([]byte) (int, error)) {
	buf := make([]byte, 256<<10)
	b.SetBytes(int64(services.MiB))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		for left := int(services.MiB); left > 0; {
			n, err := move(buf[:min(left, len(buf))])
			if err != nil {
				b.Fatal(err)
			}
			left -= n
		}
	}
}
