package stack_test

import (
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/services"
)

// Discard waits and ends as Read does, opens the window, and makes no garbage.
func TestDiscard(t *testing.T) {
	each(t, func(t *testing.T, r *rig, host netip.Addr) {
		ln := listening(t, r)
		client, server := connect(t, r, ln, host)
		const size = 8 << 20 // more than both ends' buffers hold
		sent := make(chan error, 1)
		go func() {
			_, err := client.Write(make([]byte, size))
			if err == nil {
				_, err = client.Write([]byte("rest"))
			}
			if err == nil {
				err = client.CloseWrite()
			}
			sent <- err
		}()
		var d services.Discarder = server
		total := 0
		for {
			n, err := d.Discard()
			total += n
			if err == io.EOF {
				break
			}
			require.NoError(t, err)
			require.Positive(t, n)
		}
		require.NoError(t, <-sent)
		require.Equal(t, size+4, total)

		client, server = connect(t, r, ln, host)
		require.NoError(t, server.SetReadDeadline(time.Now().Add(time.Millisecond)))
		_, err := server.Discard()
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, server.SetReadDeadline(time.Time{}))
		_, err = client.Write([]byte("ab"))
		require.NoError(t, err)
		b := make([]byte, 1)
		_, err = io.ReadFull(server, b) // what was read is not discarded
		require.NoError(t, err)
		require.Equal(t, "a", string(b))
		n, err := server.Discard()
		require.NoError(t, err)
		require.Equal(t, 1, n)
		client.Abort()
		_, err = server.Discard()
		require.Error(t, err)
		require.NotErrorIs(t, err, io.EOF)
		require.NoError(t, server.Close())
		_, err = server.Discard()
		require.ErrorIs(t, err, net.ErrClosed)
	})
}
