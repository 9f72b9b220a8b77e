package stack_test

import (
	"io"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// Data, the end and a reset each call once who waits without a goroutine, and so does
// what is there already.
func TestWhenReadable(t *testing.T) {
	each(t, func(t *testing.T, r *rig, host netip.Addr) {
		ln := listening(t, r)
		client, server := connect(t, r, ln, host)
		ready := make(chan string, 8)
		when := func(what string) { server.WhenReadable(func() { ready <- what }) }
		read := func(want string) {
			b := make([]byte, 16)
			n, err := server.Read(b)
			require.NoError(t, err)
			require.Equal(t, want, string(b[:n]))
		}
		when("data")
		_, err := client.Write([]byte("a"))
		require.NoError(t, err)
		require.Equal(t, "data", <-ready)
		when("data before")
		require.Equal(t, "data before", <-ready)
		read("a")
		when("replaced")
		when("end")
		require.NoError(t, client.CloseWrite())
		require.Equal(t, "end", <-ready)
		_, err = server.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, server.Close())
		when("closed")
		require.Empty(t, ready)

		client, server = connect(t, r, ln, host)
		when("reset")
		client.Abort()
		require.Equal(t, "reset", <-ready)
	})
}
