package main

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/gopacket/gopacket/pcapgo"
	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/portholetest"
)

// aFile is a capture of a host, and how many records it has.
func aFile(t *testing.T) ([]byte, porthole.CaptureStatus) {
	t.Helper()
	h := portholetest.New(t)
	s, err := h.StartCapture(porthole.CaptureOptions{Places: true})
	require.NoError(t, err)
	resp, err := h.HTTP.Get(h.URL("/blob/5000"))
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	ctx, stop := context.WithCancel(t.Context())
	stop()
	var b bytes.Buffer
	require.NoError(t, h.StreamCapture(ctx, s.ID, &b))
	s, err = h.CaptureStatus(s.ID)
	require.NoError(t, err)
	return b.Bytes(), s
}

// TestCaptureFile: what a file says of itself, however it comes; one that was cut off
// is cut to its last whole block.
func TestCaptureFile(t *testing.T) {
	b, s := aFile(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 200 {
		size := len(b)
		if n > 20 {
			size = rng.IntN(len(b))
		}
		f, err := os.Create(filepath.Join(t.TempDir(), "x.pcapng"))
		require.NoError(t, err)
		c := captureFile{f: f}
		for from := 0; from < size; {
			k, err := c.Write(b[from:min(size, from+1+rng.IntN(1000))])
			require.NoError(t, err)
			from += k
		}
		require.True(t, c.trim())
		_, err = f.Seek(0, io.SeekStart)
		require.NoError(t, err)
		got, err := io.ReadAll(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		require.EqualValues(t, len(got), c.whole)
		require.Equal(t, b[:len(got)], got)
		if size == len(b) {
			require.True(t, c.ended)
			require.Len(t, got, size)
			require.Equal(t, []uint64{s.Seen, s.Accepted, s.Missed}, []uint64{c.stats.Seen, c.stats.Accepted, c.stats.Missed})
			require.Greater(t, c.records, s.Written)
		}
		if len(got) == 0 {
			continue
		}
		r, err := pcapgo.NewNgReader(bytes.NewReader(got), pcapgo.DefaultNgReaderOptions)
		if len(got) < 500 && err != nil {
			continue // it has no interface yet
		}
		require.NoError(t, err)
		records := uint64(0)
		for {
			if _, _, err = r.ReadPacketData(); err != nil {
				break
			}
			records++
		}
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, c.records, records)
	}
}

// TestCaptureFileOfNoSense: what is no pcapng file is followed to no end.
func TestCaptureFileOfNoSense(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer func() { _ = r.Close() }()
	c := captureFile{f: w}
	_, err = c.Write(make([]byte, 100))
	require.NoError(t, err)
	_, err = c.Write([]byte("and more"))
	require.NoError(t, err)
	require.False(t, c.ended)
	require.NoError(t, w.Close())
}
