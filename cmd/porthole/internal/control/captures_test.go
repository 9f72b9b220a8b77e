package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole"
)

func TestClientCaptures(t *testing.T) {
	c, ctx := testClient(t), t.Context()
	s, err := c.StartCapture(ctx, porthole.CaptureOptions{Ports: []string{"80/tcp"}, Fates: []string{"queue-full"}, Snaplen: 96})
	require.NoError(t, err)
	require.Equal(t, "c1", s.ID)
	require.Equal(t, porthole.CaptureOptions{Ports: []string{"80/tcp"}, Fates: []string{"queue-full"}, Snaplen: 96}, s.Options)
	r, err := c.StreamCapture(ctx, "c1")
	require.NoError(t, err)
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.Equal(t, "a file", string(b))
	s, err = c.Capture(ctx, "c1")
	require.NoError(t, err)
	require.EqualValues(t, 3, s.Written)
	s, err = c.StopCapture(ctx, "c1")
	require.NoError(t, err)
	require.Equal(t, "ended", s.State)
	all, err := c.Captures(ctx)
	require.NoError(t, err)
	require.Empty(t, all)

	for name, tt := range map[string]struct {
		call   func() error
		status int
		text   string
	}{
		"port": {func() error {
			_, err := c.StartCapture(ctx, porthole.CaptureOptions{Ports: []string{"99999/tcp"}})
			return err
		}, 400, `capture: port "99999/tcp": want a port (80/tcp) or a lane (closed, link, icmp, host-lane)`},
		"fate": {func() error {
			_, err := c.StartCapture(ctx, porthole.CaptureOptions{Fates: []string{"eaten"}})
			return err
		}, 400, "capture: fate \"eaten\": no such fate; `porthole fates --all` lists them"},
		"status": {func() error { _, err := c.Capture(ctx, "c9"); return err }, 404, "capture c9: no such capture"},
		"stop":   {func() error { _, err := c.StopCapture(ctx, "c9"); return err }, 404, "capture c9: no such capture"},
		"stream": {func() error { _, err := c.StreamCapture(ctx, "c9"); return err }, 404, "capture c9: no such capture"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tt.call()
			var no *Error
			require.True(t, errors.As(err, &no), "%v", err)
			require.Equal(t, tt.status, no.Status)
			require.EqualError(t, err, tt.text)
		})
	}
}

// endless is a host whose capture has no end before the server's.
type endless struct {
	*fakeHost
	begun chan struct{}
}

func (e endless) StreamCapture(ctx context.Context, _ string, w io.Writer) error {
	if _, err := io.WriteString(w, "begin "); err != nil {
		return err
	}
	close(e.begun)
	<-ctx.Done()
	_, err := io.WriteString(w, "end")
	return err
}

// TestServerLetsFilesEnd: a server that ends gives streams the time to write the end
// of their file.
func TestServerLetsFilesEnd(t *testing.T) {
	dir := shortDir(t)
	s, err := Listen(dir, "a")
	require.NoError(t, err)
	h := endless{new(fakeHost), make(chan struct{})}
	api := h.fakeHost.api()
	api.Host = h
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, api) }()
	c, err := Find(dir, "a")
	require.NoError(t, err)
	got := make(chan string, 1)
	go func() {
		r, err := c.StreamCapture(context.Background(), "c1")
		if err != nil {
			got <- err.Error()
			return
		}
		b, err := io.ReadAll(r)
		_ = r.Close()
		got <- fmt.Sprint(string(b), err)
	}()
	<-h.begun
	cancel()
	require.NoError(t, <-done)
	require.Equal(t, "begin end<nil>", <-got)
	_, err = os.Stat(s.Path())
	require.ErrorIs(t, err, os.ErrNotExist)
}
