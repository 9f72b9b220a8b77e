package stack

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/demux"
	"porthole/tun"
)

// pairOn is a host on one device and a client on another, both running until stop, which
// waits for them, or the end of the test.
func pairOn(t *testing.T, host, client tun.Device) (s, c *Stack, stop func()) {
	s, err := New(Config{Device: host, Table: demux.New(demux.Options{}), Addrs: []netip.Prefix{hostPrefix}})
	require.NoError(t, err)
	c, err = New(Config{Device: client, Table: demux.New(demux.Options{}), Addrs: []netip.Prefix{netip.MustParsePrefix("10.77.0.2/24")}})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var stacks sync.WaitGroup
	stacks.Go(func() { s.Run(ctx) })
	stacks.Go(func() { c.Run(ctx) })
	stop = sync.OnceFunc(func() {
		cancel()
		stacks.Wait()
	})
	t.Cleanup(stop)
	return s, c, stop
}

// listenOn80 listens until the test ends.
func listenOn80(t *testing.T, s *Stack, door *demux.DoorConfig) *Listener {
	ln, err := s.Listen(80, ListenConfig{Owner: "test", Door: door})
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// connected are both ends of a connection, which close with the test.
func connected(t *testing.T, c *Stack, ln *Listener) (client, server net.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, err := c.DialTCP(ctx, netip.AddrPortFrom(hostAddr, 80), DialConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	server, err = ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { server.Close() })
	return client, server
}
