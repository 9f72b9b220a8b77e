package control

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"
	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/portholetest"
)

// captureRig is a real host behind a socket.
func captureRig(t *testing.T) (*portholetest.Host, *Client) {
	t.Helper()
	h := portholetest.New(t)
	dir := shortDir(t)
	s, err := Listen(dir, "real")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, &API{Host: h.Host}) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
	c, err := Find(dir, "real")
	require.NoError(t, err)
	return h, c
}

func get(t *testing.T, h *portholetest.Host, path string) {
	t.Helper()
	resp, err := h.HTTP.Get(h.URL(path))
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
}

// await waits until a capture has ended.
func await(t *testing.T, c *Client, id string) porthole.CaptureStatus {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < time.Minute; {
		s, err := c.Capture(t.Context(), id)
		require.NoError(t, err)
		if s.State == "ended" {
			return s
		}
		<-tick.C
	}
	require.Fail(t, "the capture goes on")
	return porthole.CaptureStatus{}
}

// TestReaderGoesAway: then the capture ends, though nobody told it to.
func TestReaderGoesAway(t *testing.T) {
	h, c := captureRig(t)
	s, err := c.StartCapture(t.Context(), porthole.CaptureOptions{})
	require.NoError(t, err)
	r, err := c.StreamCapture(t.Context(), s.ID)
	require.NoError(t, err)
	_, err = c.StreamCapture(t.Context(), s.ID)
	var no *Error
	require.True(t, errors.As(err, &no), "%v", err)
	require.Equal(t, 409, no.Status)
	require.EqualError(t, err, "capture c1: somebody reads it already")
	get(t, h, "/blob/10")
	require.NoError(t, r.Close())
	s = await(t, c, s.ID)
	require.Contains(t, []string{"stopped", "its reader went away"}, s.Reason)
	_, err = c.StreamCapture(t.Context(), s.ID)
	require.EqualError(t, err, "capture c1: it has ended, and its packets are gone")
	all, err := c.Captures(t.Context())
	require.NoError(t, err)
	require.Equal(t, []porthole.CaptureStatus{s}, all)
}

// TestReaderIsSlow: the host does not wait for it. What it missed is in its file.
func TestReaderIsSlow(t *testing.T) {
	h, c := captureRig(t)
	s, err := c.StartCapture(t.Context(), porthole.CaptureOptions{BufferBytes: 256 << 10})
	require.NoError(t, err)
	r, err := c.StreamCapture(t.Context(), s.ID)
	require.NoError(t, err)
	for s.Missed == 0 { // the socket's buffer is full, and then the capture's
		get(t, h, "/blob/1MiB")
		s, err = c.Capture(t.Context(), s.ID)
		require.NoError(t, err)
	}
	s, err = c.StopCapture(t.Context(), s.ID)
	require.NoError(t, err)
	require.Equal(t, "ending", s.State)
	file, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	s = await(t, c, s.ID)
	f, err := pcapgo.NewNgReader(bytes.NewReader(file), pcapgo.DefaultNgReaderOptions)
	require.NoError(t, err)
	records, lost := uint64(0), uint64(0)
	for {
		_, _, o, err := f.ReadPacketDataWithOptions()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		records++
		if o.DropCount != nil {
			lost += *o.DropCount
		}
	}
	face, err := f.Interface(0)
	require.NoError(t, err)
	require.Equal(t, s.Missed, face.Statistics.PacketsDropped)
	require.Equal(t, s.Seen, face.Statistics.PacketsReceived)
	require.Equal(t, s.Written, records)
	require.LessOrEqual(t, lost, s.Missed)
	require.Greater(t, s.Missed, uint64(0))
}
