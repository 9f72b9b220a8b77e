package stack_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"

	"porthole/demux"
	"porthole/stack"
	"porthole/stack/stacktest"
	"porthole/tun"
)

// TestConnConforms runs the checks that golang.org/x/net has for every net.Conn.
func TestConnConforms(t *testing.T) {
	for name, o := range kinds {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, o)
			ln, err := r.host.Listen(80, stack.ListenConfig{Owner: "test"})
			require.NoError(t, err)
			defer ln.Close()
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				c, err := r.client.DialTCP(context.Background(), netip.AddrPortFrom(stacktest.Host4.Addr(), 80), stack.DialConfig{})
				if err != nil {
					return nil, nil, nil, err
				}
				s, err := ln.Accept()
				if err != nil {
					return nil, nil, nil, err
				}
				return c, s, func() { c.Close(); s.Close() }, nil
			})
		})
	}
}

// pair is one connection of a fresh rig, both ends.
func pair(t *testing.T, r *rig, host netip.Addr) (client, server *stack.Conn) {
	t.Helper()
	return connect(t, r, listening(t, r), host)
}

// listening is port 80 of the host, until the test ends.
func listening(t *testing.T, r *rig) *stack.Listener {
	t.Helper()
	ln, err := r.host.Listen(80, stack.ListenConfig{Owner: "test"})
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

func connect(t *testing.T, r *rig, ln net.Listener, host netip.Addr) (client, server *stack.Conn) {
	t.Helper()
	c, err := r.client.DialTCP(ctx(t), netip.AddrPortFrom(host, 80), stack.DialConfig{Owner: "test"})
	require.NoError(t, err)
	s, err := ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { c.Close(); s.Close() })
	end := time.Now().Add(patience)
	require.NoError(t, c.SetDeadline(end))
	require.NoError(t, s.SetDeadline(end))
	return c, s.(*stack.Conn)
}

func TestAddresses(t *testing.T) {
	each(t, func(t *testing.T, r *rig, host netip.Addr) {
		c, s := pair(t, r, host)
		require.Equal(t, netip.AddrPortFrom(host, 80), c.Peer())
		require.Equal(t, c.LocalAddr().String(), s.RemoteAddr().String())
		require.Equal(t, c.RemoteAddr().String(), s.LocalAddr().String())
		require.Equal(t, "tcp", s.RemoteAddr().Network())
	})
}

func TestHalfClose(t *testing.T) {
	each(t, func(t *testing.T, r *rig, host netip.Addr) {
		c, s := pair(t, r, host)
		_, err := io.WriteString(c, "question")
		require.NoError(t, err)
		require.NoError(t, c.CloseWrite())
		_, err = c.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.EPIPE)
		b, err := io.ReadAll(s) // the FIN ends it
		require.NoError(t, err)
		require.Equal(t, "question", string(b))
		_, err = io.WriteString(s, "answer")
		require.NoError(t, err)
		require.NoError(t, s.Close())
		b, err = io.ReadAll(c)
		require.NoError(t, err)
		require.Equal(t, "answer", string(b))
		require.NoError(t, c.Close())
		require.ErrorIs(t, c.CloseWrite(), net.ErrClosed)
	})
}

// untilError writes until it fails: the peer's RST needs a round trip.
func untilError(c net.Conn) error {
	b := make([]byte, 1000)
	for {
		if _, err := c.Write(b); err != nil {
			return err
		}
	}
}

func TestResets(t *testing.T) {
	for name, reset := range map[string]func(t *testing.T, c, s *stack.Conn){
		"abort": func(t *testing.T, c, s *stack.Conn) { s.Abort() },
		"linger 0": func(t *testing.T, c, s *stack.Conn) {
			require.NoError(t, s.SetLinger(0))
			require.NoError(t, s.Close())
		},
		"close with unread data": func(t *testing.T, c, s *stack.Conn) {
			_, err := io.WriteString(c, "nobody reads this")
			require.NoError(t, err)
			_, err = s.Read(make([]byte, 1)) // it has come, and most of it stays
			require.NoError(t, err)
			require.NoError(t, s.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, tun.PipeOptions{})
			c, s := pair(t, r, stacktest.Host4.Addr())
			reset(t, c, s)
			_, err := c.Read(make([]byte, 1))
			require.ErrorIs(t, err, syscall.ECONNRESET)
			_, err = c.Write([]byte("x"))
			require.Error(t, err)
			require.True(t, isErrno(err, syscall.EPIPE, syscall.ECONNRESET), "%v", err)
		})
	}
}

func isErrno(err error, want ...syscall.Errno) bool {
	for _, e := range want {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func TestResetMidTransfer(t *testing.T) {
	each(t, func(t *testing.T, r *rig, host netip.Addr) {
		c, s := pair(t, r, host)
		wrote := make(chan error, 1)
		go func() { wrote <- untilError(s) }()
		_, err := io.CopyN(io.Discard, c, 1<<20)
		require.NoError(t, err)
		c.Abort()
		err = <-wrote
		require.True(t, isErrno(err, syscall.ECONNRESET, syscall.EPIPE), "%v", err)
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

// A peer that has closed answers data with RST.
func TestWriteToClosedPeer(t *testing.T) {
	r := newRig(t, tun.PipeOptions{})
	c, s := pair(t, r, stacktest.Host4.Addr())
	require.NoError(t, c.Close())
	_, err := s.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	err = untilError(s)
	require.True(t, isErrno(err, syscall.EPIPE, syscall.ECONNRESET), "%v", err)
}

func TestDialFails(t *testing.T) {
	r := newRig(t, tun.PipeOptions{})
	nobody := netip.MustParseAddrPort("10.77.0.9:80") // the host gets it and is not it
	for _, x := range []struct {
		name string
		to   netip.AddrPort
		ctx  func() (context.Context, context.CancelFunc)
		want error
	}{
		{"refused", netip.MustParseAddrPort("10.77.0.1:81"), background, syscall.ECONNREFUSED},
		{"port 0", netip.MustParseAddrPort("10.77.0.1:0"), background, syscall.ECONNREFUSED},
		{"timeout", nobody, timeout, os.ErrDeadlineExceeded},
		{"cancelled before", nobody, cancelled, context.Canceled},
		{"timed out before", nobody, expired, os.ErrDeadlineExceeded},
		{"no address", netip.AddrPort{}, background, syscall.ENETUNREACH},
	} {
		t.Run(x.name, func(t *testing.T) {
			ctx, cancel := x.ctx()
			defer cancel()
			_, err := r.client.DialTCP(ctx, x.to, stack.DialConfig{})
			require.ErrorIs(t, err, x.want)
			var oe *net.OpError
			require.ErrorAs(t, err, &oe)
			require.Equal(t, "dial", oe.Op)
			require.Equal(t, errors.Is(x.want, os.ErrDeadlineExceeded), oe.Timeout())
		})
	}
	t.Run("cancelled meanwhile", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { _, err := r.client.DialTCP(ctx, nobody, stack.DialConfig{}); done <- err }()
		require.Eventually(t, func() bool { return r.table.Totals().Fates[demux.NotForUs] > 1 }, patience, time.Millisecond)
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	})
	// No failed dial keeps its port.
	require.Eventually(t, func() bool { return boundTCP(r.client.Table) == 0 }, patience, 10*time.Millisecond)
}

func background() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}
func timeout() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 50*time.Millisecond)
}
func cancelled() (context.Context, context.CancelFunc) {
	c, cancel := context.WithCancel(context.Background())
	cancel()
	return c, cancel
}
func expired() (context.Context, context.CancelFunc) {
	return context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
}

func boundTCP(t *demux.Table) (n int) {
	for _, s := range t.Ports() {
		if s.Port.IsTCP() && s.Owner != "" {
			n++
		}
	}
	return n
}

// TestDialFromOnePort is what an FTP server does: from port 20 to many peers at
// once, and again while old connections of the port linger in TIME-WAIT.
func TestDialFromOnePort(t *testing.T) {
	each(t, func(t *testing.T, r *rig, host netip.Addr) {
		peer := stacktest.Peer4.Addr()
		if host.Is6() {
			peer = stacktest.Peer6.Addr()
		}
		var lns []*stack.Listener
		for port := uint16(5000); port < 5010; port++ {
			ln, err := r.client.Listen(port, stack.ListenConfig{Owner: "test"})
			require.NoError(t, err)
			defer ln.Close()
			lns = append(lns, ln)
		}
		for round := range 2 {
			var open []net.Conn
			for i, ln := range lns {
				if round == 1 { // a new peer port: the old pair waits its TIME-WAIT out
					ln.Close()
					var err error
					ln, err = r.client.Listen(uint16(6000+i), stack.ListenConfig{Owner: "test"})
					require.NoError(t, err)
					defer ln.Close()
				}
				to := netip.AddrPortFrom(peer, uint16(ln.Addr().(*net.TCPAddr).Port))
				c, err := r.host.DialTCP(ctx(t), to, stack.DialConfig{Owner: "ftp", LocalPort: 20})
				require.NoError(t, err, "round %d, peer %d", round, i)
				s, err := ln.Accept()
				require.NoError(t, err)
				require.Equal(t, netip.AddrPortFrom(host, 20).String(), s.RemoteAddr().String())
				open = append(open, c, s)
			}
			require.Equal(t, "ftp", r.table.Port(demux.TCPPort(20)).Owner)
			for i := 0; i < len(open); i += 2 { // the host first: it keeps the TIME-WAIT
				require.NoError(t, open[i].Close())
				b, err := io.ReadAll(open[i+1])
				require.NoError(t, err)
				require.Empty(t, b)
				require.NoError(t, open[i+1].Close())
			}
		}
		// The lingering port stays in the table, and can be listened on.
		require.Equal(t, "ftp", r.table.Port(demux.TCPPort(20)).Owner)
		ln, err := r.host.Listen(20, stack.ListenConfig{Owner: "other"})
		require.NoError(t, err)
		require.Equal(t, "other", r.table.Port(demux.TCPPort(20)).Owner)
		_, err = r.host.DialTCP(ctx(t), netip.AddrPortFrom(peer, 6000), stack.DialConfig{Owner: "ftp", LocalPort: 20})
		require.ErrorContains(t, err, "20/tcp: already in use by other")
		require.NoError(t, ln.Close())
	})
}

// TestListenerClose: who waits to be accepted gets a RST, who was accepted lives on,
// and the port can be bound again at once.
func TestListenerClose(t *testing.T) {
	each(t, func(t *testing.T, r *rig, host netip.Addr) {
		ln, err := r.host.Listen(80, stack.ListenConfig{Owner: "test"})
		require.NoError(t, err)
		c, s := connect(t, r, ln, host)
		waiting, err := r.client.DialTCP(ctx(t), netip.AddrPortFrom(host, 80), stack.DialConfig{})
		require.NoError(t, err)
		defer waiting.Close()
		require.Eventually(t, func() bool { st, _ := r.host.Door(80); return st.Waiting == 1 }, patience, time.Millisecond)
		require.NoError(t, ln.Close())
		require.ErrorIs(t, ln.Close(), net.ErrClosed)
		require.NoError(t, waiting.SetDeadline(time.Now().Add(patience)))
		_, err = waiting.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		_, err = r.client.DialTCP(ctx(t), netip.AddrPortFrom(host, 80), stack.DialConfig{})
		require.ErrorIs(t, err, syscall.ECONNREFUSED)

		_, err = io.WriteString(c, "still here")
		require.NoError(t, err)
		b := make([]byte, 10)
		_, err = io.ReadFull(s, b)
		require.NoError(t, err)

		ln, err = r.host.Listen(80, stack.ListenConfig{Owner: "next"})
		require.NoError(t, err)
		defer ln.Close()
		connect(t, r, ln, host)
		_, err = io.WriteString(s, "and here")
		require.NoError(t, err)
		_, err = io.ReadFull(c, b[:8])
		require.NoError(t, err)
	})
}

// A connection that was reset while it waited is accepted with its addresses, and
// reads its error, as accept(2) does.
func TestAcceptOfReset(t *testing.T) {
	each(t, func(t *testing.T, r *rig, host netip.Addr) {
		ln, err := r.host.Listen(80, stack.ListenConfig{Owner: "test"})
		require.NoError(t, err)
		defer ln.Close()
		c, err := r.client.DialTCP(ctx(t), netip.AddrPortFrom(host, 80), stack.DialConfig{})
		require.NoError(t, err)
		from := c.LocalAddr().String()
		require.Eventually(t, func() bool { st, _ := r.host.Door(80); return st.Waiting == 1 }, patience, time.Millisecond)
		c.Abort()
		s, err := ln.Accept()
		require.NoError(t, err)
		defer s.Close()
		require.Equal(t, from, s.RemoteAddr().String())
		require.NoError(t, s.SetDeadline(time.Now().Add(patience)))
		_, err = s.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
	})
}

// TestPortsRunOut binds every ephemeral port and looks at what the next one says.
func TestPortsRunOut(t *testing.T) {
	r := newRig(t, tun.PipeOptions{})
	for p := 32768; p < 61000; p++ {
		require.NoError(t, r.client.Table.Bind(demux.TCPPort(uint16(p)), demux.Config{Owner: "taken"}))
		require.NoError(t, r.client.Table.Bind(demux.UDPPort(uint16(p)), demux.Config{Owner: "taken"}))
	}
	_, err := r.client.DialTCP(ctx(t), netip.MustParseAddrPort("10.77.0.1:80"), stack.DialConfig{})
	require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)
	_, err = r.client.DialUDP(netip.MustParseAddrPort("10.77.0.1:53"), stack.DialConfig{})
	require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)
	_, err = r.client.Listen(0, stack.ListenConfig{})
	require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)
	r.client.Table.Release(demux.TCPPort(40000))
	ln, err := r.client.Listen(0, stack.ListenConfig{})
	require.NoError(t, err)
	require.Equal(t, 40000, ln.Addr().(*net.TCPAddr).Port)
	require.NoError(t, ln.Close())
}

// TestManyConnects opens and closes connections and looks for what they left.
func TestManyConnects(t *testing.T) {
	n := 2000 // the root's test does 10,000 through a whole host
	if testing.Short() {
		n = 500
	}
	r := newRig(t, tun.PipeOptions{GSO: true})
	ln, err := r.host.Listen(80, stack.ListenConfig{Owner: "test"})
	require.NoError(t, err)
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	idle := r.table.Totals().InUse
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < n; i += 8 {
				c, err := r.client.DialTCP(ctx(t), netip.AddrPortFrom(stacktest.Host4.Addr(), 80), stack.DialConfig{})
				if err != nil {
					t.Errorf("connection %d: %v", i, err)
					return
				}
				if i%2 == 0 {
					c.SetLinger(0)
				} else if _, err := io.WriteString(c, "x"); err == nil {
					c.CloseWrite()
					io.Copy(io.Discard, c)
				}
				c.Close()
			}
		})
	}
	wg.Wait()
	require.Eventually(t, func() bool { return r.table.Totals().Queued == 0 }, patience, time.Millisecond)
	require.LessOrEqual(t, r.table.Totals().InUse, idle+2*demux.BatchSize, "packet slots") // a reader keeps its spares
	require.Eventually(t, func() bool {                                                    // a reset may leave a doubt, for 20 ms
		st, _ := r.host.Door(80)
		return st.HalfOpen+st.Waiting+st.Reserved == 0
	}, patience, time.Millisecond)
	require.Equal(t, 1, boundTCP(r.table))
}
