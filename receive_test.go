package porthole_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/services"
	"porthole/tun"
)

// pour writes n bytes to c beside the test; the result is told on the channel.
func pour(c net.Conn, n int) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := c.Write(make([]byte, n))
		done <- err
	}()
	return done
}

// flowOf is the flow of a client's connection.
func flowOf(t *testing.T, r *rig, c net.Conn, port services.Port) porthole.Flow {
	t.Helper()
	want := c.LocalAddr().(*net.TCPAddr).Port
	for _, f := range r.host.Flows(&port, 0) {
		if int(f.Remote.Port()) == want {
			return f
		}
	}
	require.Fail(t, "no such flow", "%v", c.LocalAddr())
	return porthole.Flow{}
}

// held is a connection that no service takes.
func held(t *testing.T, r *rig, port uint16, settings string) net.Conn {
	p := fmt.Sprintf("%d/tcp", port)
	set(t, r.host, p, settings+" accept=never")
	c := dial(t, r, "tcp", port)
	until(t, "it to wait", func() bool { return status(t, r.host, p).Accept == 1 })
	return c
}

// TestSlowReaderClosesTheWindow: what a service does not read fills its connection's
// receive buffer, the window closes, and opens again when the service reads; port, flow
// and why show it.
func TestSlowReaderClosesTheWindow(t *testing.T) {
	const all = 1 << 20
	r := newRig(t, tun.PipeOptions{}, nil)
	c := held(t, r, 9, "receive-buffer=64KiB")
	wrote := pour(c, all)
	until(t, "a closed window", func() bool { return status(t, r.host, "9/tcp").ZeroWindowsNow == 1 })
	s := status(t, r.host, "9/tcp")
	require.EqualValues(t, 1, s.ZeroWindows)
	require.Positive(t, s.ZeroWindowFor)
	require.Zero(t, s.Window)
	require.Equal(t, 64<<10, s.ReceiveBuffer)
	require.InDelta(t, 32<<10, s.ReceiveFullest, 2<<10, "half of the buffer is window, as in Linux with tcp_adv_win_scale=1")
	require.Equal(t, s.ReceiveFullest, s.ReceiveQueue)
	f := flowOf(t, r, c, services.TCP(9))
	require.Equal(t, s.ReceiveFullest, f.Receive.Queued)
	require.Equal(t, 64<<10, f.Receive.Buffer)
	require.Zero(t, f.Receive.Window)
	require.Contains(t, f.Line(), "of 64.0 KiB received and not read, window 0 B")
	require.Contains(t, f.Line(), "host's window closed once for")

	require.NoError(t, r.host.Reset(services.TCP(9)))
	require.NoError(t, <-wrote)
	until(t, "all of it to be read", func() bool {
		return flowOf(t, r, c, services.TCP(9)).In.Bytes == all && status(t, r.host, "9/tcp").ReceiveQueue == 0
	})
	require.Zero(t, status(t, r.host, "9/tcp").ZeroWindowsNow)
	f = flowOf(t, r, c, services.TCP(9))
	require.Positive(t, f.Receive.Window)
	why, err := r.host.Why(f.ID.String())
	require.NoError(t, err)
	require.Contains(t, why.Text, "he host's window was closed")
	require.Contains(t, why.Text, "its receive buffer was full")
	require.NoError(t, c.Close())
	until(t, "no connection", func() bool { return flowOf(t, r, c, services.TCP(9)).Receive == nil })
}

// TestReceiveBufferOfPresentConnections: a smaller buffer counts for connections that
// are there, and a larger one lets a stuck one go on.
func TestReceiveBufferOfPresentConnections(t *testing.T) {
	r := newRig(t, tun.PipeOptions{}, nil)
	c := held(t, r, 9, "receive-buffer=auto")
	set(t, r.host, "9/tcp", "receive-buffer=128KiB")
	wrote := pour(c, 100<<10)
	until(t, "a closed window", func() bool { return status(t, r.host, "9/tcp").ZeroWindowsNow == 1 })
	require.InDelta(t, 64<<10, status(t, r.host, "9/tcp").ReceiveFullest, 4<<10)
	set(t, r.host, "9/tcp", "receive-buffer=512KiB")
	require.NoError(t, <-wrote)
	until(t, "all of it", func() bool { return status(t, r.host, "9/tcp").ReceiveFullest == 100<<10 })
	s := status(t, r.host, "9/tcp")
	require.Equal(t, 512<<10, s.ReceiveBuffer)
	require.EqualValues(t, 1, s.ZeroWindows)
	require.Zero(t, s.ZeroWindowsNow)
}

// TestReceiveBufferFromTheBeginning: a small buffer, of the configuration or set while
// the port listens, bounds the very first window of a connection, and is filled to it
// without a segment lost.
func TestReceiveBufferFromTheBeginning(t *testing.T) {
	for _, c := range []struct{ name, bind, set string }{{"bound", "receive-buffer=16KiB", ""}, {"set", "", "receive-buffer=16KiB"}} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, tun.PipeOptions{}, func(conf *porthole.Config) {
				s, err := porthole.ParseSettings(c.bind)
				require.NoError(t, err)
				conf.Ports = map[services.Port]porthole.Settings{services.TCP(9): s}
			})
			c := held(t, r, 9, c.set)
			f := flowOf(t, r, c, services.TCP(9))
			require.LessOrEqual(t, f.Receive.Window, 8<<10)
			wrote := pour(c, 1<<20)
			until(t, "a closed window", func() bool { return status(t, r.host, "9/tcp").ZeroWindowsNow == 1 })
			f = flowOf(t, r, c, services.TCP(9))
			require.LessOrEqual(t, f.Receive.Queued, 8<<10)
			require.EqualValues(t, f.Receive.Queued, f.In.Bytes, "all that came in is kept")
			require.NoError(t, r.host.Reset(services.TCP(9)))
			require.NoError(t, <-wrote)
		})
	}
}

// TestWaitTimes: a port counts how long what its service took had waited.
func TestWaitTimes(t *testing.T) {
	r := newRig(t, tun.PipeOptions{}, nil)
	total := func(port string) (n, long uint64) {
		s := status(t, r.host, port)
		for i, c := range s.WaitCounts {
			if n += c; i == len(s.WaitCounts)-1 || porthole.WaitBounds()[i] > 33*time.Millisecond {
				long += c
			}
		}
		return n, long
	}
	for _, network := range []string{"udp", "tcp"} {
		port := "7/" + network
		before, _ := total(port)
		set(t, r.host, port, "accept=never")
		for range 2 {
			_, err := dial(t, r, network, 7).Write([]byte("x"))
			require.NoError(t, err)
		}
		until(t, "two to wait", func() bool {
			s := status(t, r.host, port)
			return s.Accept == 2 || network == "udp" && s.Queued == 2
		})
		all := time.Now()
		until(t, "35 ms to pass", func() bool { return time.Since(all) > 35*time.Millisecond })
		require.NoError(t, r.host.Reset(status(t, r.host, port).Port))
		until(t, "two to be taken", func() bool { n, _ := total(port); return n == before+2 })
		_, long := total(port)
		require.GreaterOrEqual(t, long, uint64(2), port)
		require.GreaterOrEqual(t, status(t, r.host, port).WaitSum, 70*time.Millisecond)
	}
}
