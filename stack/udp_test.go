package stack_test

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/demux"
	"porthole/stack"
	"porthole/stack/stacktest"
	"porthole/tun"
)

func udpPair(t testing.TB, r *rig, host netip.Addr) (client, server *stack.PacketConn) {
	t.Helper()
	s, err := r.host.ListenPacket(53, stack.PacketConfig{Owner: "test"})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	c, err := r.client.DialUDP(netip.AddrPortFrom(host, 53), stack.DialConfig{Owner: "test"})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	require.NoError(t, s.SetDeadline(time.Now().Add(patience)))
	return c, s
}

func TestUDPRead(t *testing.T) {
	r := newRig(t, tun.PipeOptions{})
	c, s := udpPair(t, r, stacktest.Host4.Addr())
	write := func(b string) {
		t.Helper()
		_, err := c.Write([]byte(b))
		require.NoError(t, err)
	}
	// What is longer than the buffer is cut, and the rest is gone.
	write("0123456789")
	write("next")
	b := make([]byte, 4)
	n, from, err := s.ReadFrom(b)
	require.NoError(t, err)
	require.Equal(t, "0123", string(b[:n]))
	require.Equal(t, c.LocalAddr().String(), from.String())
	n, _, err = s.ReadFrom(b)
	require.NoError(t, err)
	require.Equal(t, "next", string(b[:n]))

	// A deadline moved while somebody waits counts at once, earlier and later.
	read := func() chan error {
		done := make(chan error, 1)
		go func() { _, _, err := s.ReadFrom(make([]byte, 4)); done <- err }()
		return done
	}
	require.NoError(t, s.SetReadDeadline(time.Now().Add(time.Hour)))
	done := read()
	require.NoError(t, s.SetReadDeadline(time.Now().Add(-time.Second)))
	require.ErrorIs(t, <-done, os.ErrDeadlineExceeded)
	require.NoError(t, s.SetReadDeadline(time.Time{}))
	done = read()
	require.NoError(t, s.SetReadDeadline(time.Now().Add(time.Millisecond)))
	require.ErrorIs(t, <-done, os.ErrDeadlineExceeded)
	require.NoError(t, s.SetReadDeadline(time.Now().Add(patience)))
	done = read()
	write("x")
	require.NoError(t, <-done)

	// Close ends every reader.
	dones := []chan error{read(), read(), read()}
	require.NoError(t, s.Close())
	for _, done := range dones {
		require.ErrorIs(t, <-done, net.ErrClosed)
	}
	require.ErrorIs(t, s.Close(), net.ErrClosed)
	require.ErrorIs(t, s.SetDeadline(time.Time{}), net.ErrClosed)
	_, err = s.WriteTo([]byte("x"), from)
	require.ErrorIs(t, err, net.ErrClosed)
	require.NoError(t, c.SetWriteDeadline(time.Now().Add(-time.Second)))
	_, err = c.Write([]byte("x"))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

// TestUDPReaders: several readers of one socket share its datagrams; none is lost,
// and none sleeps while one is queued, even when the others keep what they have.
func TestUDPReaders(t *testing.T) {
	r := newRig(t, tun.PipeOptions{})
	c, s := udpPair(t, r, stacktest.Host4.Addr())
	for range 200 {
		const readers = 4
		var wg sync.WaitGroup
		var got atomic.Int32
		all := make(chan struct{})
		for range readers {
			wg.Go(func() {
				if _, _, err := s.ReadFrom(make([]byte, 10)); err != nil {
					t.Errorf("reader: %v", err)
				}
				if got.Add(1) == readers {
					close(all)
				}
				<-all // keeps what it has until each other reader has one too
			})
		}
		for range readers {
			_, err := c.Write([]byte("x"))
			require.NoError(t, err)
		}
		wg.Wait()
	}
}

func TestUDPWriteErrors(t *testing.T) {
	a, b := tun.Pipe(tun.PipeOptions{}, tun.PipeOptions{})
	table := demux.New(demux.Options{})
	only4, err := stack.New(stack.Config{Device: a, Table: table, Addrs: []netip.Prefix{stacktest.Host4}})
	require.NoError(t, err)
	stop := run(t, only4)
	defer stop()
	defer b.Close()
	s, err := only4.ListenPacket(53, stack.PacketConfig{})
	require.NoError(t, err)
	defer s.Close()
	for _, x := range []struct {
		name string
		to   string
		size int
		want error
	}{
		{"no such family", "[fd77::2]:7", 1, syscall.ENETUNREACH},
		{"port 0", "10.77.0.2:0", 1, syscall.EINVAL},
		{"too long", "10.77.0.2:7", 65508, syscall.EMSGSIZE},
		{"longest", "10.77.0.2:7", 65507, nil},
		{"mapped", "[::ffff:10.77.0.2]:7", 1, nil},
	} {
		_, err := s.WriteToUDPAddrPort(make([]byte, x.size), netip.MustParseAddrPort(x.to))
		if x.want == nil {
			require.NoError(t, err, x.name)
			continue
		}
		require.ErrorIs(t, err, x.want, x.name)
	}
	_, err = s.Write([]byte("x"))
	require.ErrorIs(t, err, syscall.EDESTADDRREQ)
	_, err = s.WriteTo([]byte("x"), &net.IPAddr{})
	require.Error(t, err)
	_, err = only4.DialUDP(netip.MustParseAddrPort("[fd77::2]:7"), stack.DialConfig{})
	require.ErrorIs(t, err, syscall.ENETUNREACH)
	_, err = only4.ListenPacket(53, stack.PacketConfig{})
	require.ErrorContains(t, err, "53/udp: already in use")
}

// TestUDPLongest: the longest datagrams of each family pass whole, both ways.
func TestUDPLongest(t *testing.T) {
	each(t, func(t *testing.T, r *rig, host netip.Addr) {
		c, s := udpPair(t, r, host)
		size := 65507
		if host.Is6() {
			size = 65527
		}
		want := bytes.Repeat([]byte("z"), size)
		_, err := c.Write(append(want, 'z'))
		require.ErrorIs(t, err, syscall.EMSGSIZE)
		_, err = c.Write(want)
		require.NoError(t, err)
		got := make([]byte, 70000)
		n, from, err := s.ReadFrom(got)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got[:n]))
		_, err = s.WriteTo(want, from)
		require.NoError(t, err)
		n, err = c.Read(got)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got[:n]))
	})
}

// TestUDPConnected: a connected socket hears its peer alone. Strangers learn that
// nobody is there, as from a kernel's; a refusal is told once.
func TestUDPConnected(t *testing.T) {
	each(t, func(t *testing.T, r *rig, host netip.Addr) {
		peer := stacktest.Peer4.Addr()
		if host.Is6() {
			peer = stacktest.Peer6.Addr()
		}
		friend, err := r.client.ListenPacket(1000, stack.PacketConfig{})
		require.NoError(t, err)
		defer friend.Close()
		s, err := r.host.DialUDP(netip.AddrPortFrom(peer, 1000), stack.DialConfig{LocalPort: 53})
		require.NoError(t, err)
		defer s.Close()
		require.NoError(t, s.SetDeadline(time.Now().Add(patience)))
		require.Equal(t, netip.AddrPortFrom(host, 53).String(), s.LocalAddr().String())
		require.Equal(t, netip.AddrPortFrom(peer, 1000).String(), s.RemoteAddr().String())
		stranger, err := r.client.DialUDP(netip.AddrPortFrom(host, 53), stack.DialConfig{LocalPort: 1001})
		require.NoError(t, err)
		defer stranger.Close()
		require.NoError(t, stranger.SetDeadline(time.Now().Add(patience)))
		for _, size := range []int{1, 3000} { // whole, and in fragments
			_, err = stranger.Write(make([]byte, size))
			require.NoError(t, err)
			require.Eventually(t, func() bool { // link resolution may turn the order of two round
				return r.table.Port(demux.UDPPort(53)).Arrived > 0
			}, patience, time.Millisecond)
			_, err = friend.WriteToUDPAddrPort([]byte("friend"), netip.AddrPortFrom(host, 53))
			require.NoError(t, err)
			b := make([]byte, 10)
			n, err := s.Read(b)
			require.NoError(t, err)
			require.Equal(t, "friend", string(b[:n]))
			_, err = stranger.Read(b)
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
		}
		require.NoError(t, friend.Close())
		_, err = s.Write([]byte("anybody?"))
		require.NoError(t, err)
		_, err = s.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		_, err = s.Write([]byte("anybody?"))
		require.NoError(t, err, "the error was told already")
	})
}

// TestUDPEmpty: datagrams without data are charged like any: a socket that nobody
// reads holds no more than its queue says.
func TestUDPEmpty(t *testing.T) {
	r := newRig(t, tun.PipeOptions{})
	s, err := r.host.ListenPacket(53, stack.PacketConfig{Owner: "test", Limits: demux.Limits{Packets: 10000, Bytes: 8 << 10}})
	require.NoError(t, err)
	defer s.Close()
	c, err := r.client.DialUDP(netip.AddrPortFrom(stacktest.Host4.Addr(), 53), stack.DialConfig{})
	require.NoError(t, err)
	defer c.Close()
	const n = 1000
	for range n {
		_, err := c.Write(nil)
		require.NoError(t, err)
	}
	st := func() demux.PortStats { return r.table.Port(demux.UDPPort(53)) }
	require.Eventually(t, func() bool { return st().Arrived == n }, patience, time.Millisecond)
	want := 8 << 10 / demux.Overhead
	require.Equal(t, want, st().Queued)
	require.EqualValues(t, n-want, st().Fates[demux.QueueFull])
	b := make([]byte, 1)
	for range want {
		k, _, err := s.ReadFrom(b)
		require.NoError(t, err)
		require.Zero(t, k)
	}
	require.Zero(t, st().Queued)
}

// TestUDPToItself: the host's datagrams to its own address, whole and in fragments.
func TestUDPToItself(t *testing.T) {
	each(t, func(t *testing.T, r *rig, host netip.Addr) {
		s, err := r.host.ListenPacket(53, stack.PacketConfig{Owner: "test"})
		require.NoError(t, err)
		defer s.Close()
		c, err := r.host.DialUDP(netip.AddrPortFrom(host, 53), stack.DialConfig{})
		require.NoError(t, err)
		defer c.Close()
		for _, size := range []int{10, 5000} {
			_, err = c.Write(make([]byte, size))
			require.NoError(t, err)
			require.NoError(t, s.SetDeadline(time.Now().Add(patience)))
			n, from, err := s.ReadFrom(make([]byte, 6000))
			require.NoError(t, err, "%d bytes", size)
			require.Equal(t, size, n)
			require.Equal(t, c.LocalAddr().String(), from.String())
		}
	})
}
