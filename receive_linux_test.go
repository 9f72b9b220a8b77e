package porthole_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"porthole/services"
)

// TestKernelSlowReader: the kernel as the client of a service that does not read. It
// sends as much as the receive buffer lets it, keeps the rest, probes the closed window
// and goes on when it opens; not a byte is lost, and the host tells how long it took.
func TestKernelSlowReader(t *testing.T) {
	const all = 1 << 20
	k := newKernelRig(t, kernelOptions{})
	set(t, k.host, "9/tcp", "receive-buffer=64KiB accept=never")
	var c *net.TCPConn
	inNamespace(t, k.ns, func() (err error) {
		c, err = net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(netip.MustParseAddrPort("10.77.0.1:9")))
		return err
	})
	defer c.Close()
	wrote := pour(c, all)
	tellFlows(t, k.host, services.TCP(9))
	until(t, "a closed window", func() bool { return status(t, k.host, "9/tcp").ZeroWindowsNow == 1 })
	s := status(t, k.host, "9/tcp")
	require.Equal(t, 64<<10, s.ReceiveBuffer)
	require.LessOrEqual(t, s.ReceiveFullest, 64<<10)
	require.Greater(t, s.ReceiveFullest, 8<<10)
	require.Zero(t, s.Window)

	raw, err := c.SyscallConn()
	require.NoError(t, err)
	var info *unix.TCPInfo
	until(t, "the kernel to wait for the window", func() bool {
		require.NoError(t, raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }))
		require.NoError(t, err)
		return info.Notsent_bytes > 0 && info.Unacked == 0
	})
	require.EqualValues(t, s.ReceiveFullest, info.Bytes_acked-1, "what it has sent stands in the buffer")

	require.NoError(t, k.host.Reset(services.TCP(9)))
	require.NoError(t, <-wrote)
	until(t, "all of it to be read", func() bool {
		for _, f := range k.host.Flows(&[]services.Port{services.TCP(9)}[0], 0) {
			if f.In.Bytes == all {
				return f.Out.ZeroWindow > 0 && f.Receive != nil && f.Receive.Queued == 0 && f.Receive.Window > 0
			}
		}
		return false
	})
	t.Logf("receive-buffer=64KiB: %d bytes held, window closed %d times for %v", s.ReceiveFullest, status(t, k.host, "9/tcp").ZeroWindows, status(t, k.host, "9/tcp").ZeroWindowFor)
}
