package porthole_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/stack/stacktest"
	"porthole/tun"
)

// TestKernelFragments sends a datagram of 40,000 bytes from a kernel socket and
// gets it back from echo: fragments both ways.
func TestKernelFragments(t *testing.T) {
	need(t)
	eachDevice(t, func(t *testing.T, r *kernelRig) {
		for _, h := range hosts {
			var c *net.UDPConn
			inNamespace(t, r.ns, func() (err error) {
				c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(h), 7)))
				return err
			})
			defer c.Close()
			want := bytes.Repeat([]byte("0123456789abcde\n"), 2500)
			_, err := c.Write(want)
			require.NoError(t, err)
			require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
			got := make([]byte, 65536)
			n, err := c.Read(got)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got[:n]))
		}
		require.EqualValues(t, 2, r.host.Health().Arrived["reassembled"])
	})
}

// TestTenThousandConnections opens and closes connections and looks for what they
// may have left: goroutines, packets, ports.
func TestTenThousandConnections(t *testing.T) {
	n := 10000
	if testing.Short() {
		n = 500
	}
	r := newRig(t, tun.PipeOptions{GSO: true}, nil)
	to := netip.AddrPortFrom(stacktest.Host4.Addr(), 7)
	connect := func(n int) {
		var wg sync.WaitGroup
		errs := make(chan error, 64)
		for w := range 16 {
			wg.Go(func() {
				for i := w; i < n; i += 16 {
					if err := echoOnce(r, to); err != nil {
						errs <- fmt.Errorf("connection %d: %w", i, err)
						return
					}
				}
			})
		}
		wg.Wait()
		close(errs)
		require.NoError(t, <-errs)
	}
	connect(n / 50) // both ends have started all they need
	before := runtime.NumGoroutine()
	ports := len(r.host.Ports())
	connect(n)
	t.Cleanup(func() {
		if t.Failed() {
			b := make([]byte, 1<<16)
			t.Logf("%d goroutines before, now\n%s", before, b[:runtime.Stack(b, true)])
		}
	})
	// Echo keeps some goroutines for its next connections, 32 at most.
	until(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= before+2+32 })
	until(t, "queues to be empty", func() bool { return r.host.Health().Queued == 0 })
	until(t, "ports to be free", func() bool { return len(r.host.Ports()) <= ports })
}

func echoOnce(r *rig, to netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := r.client.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("ping")); err != nil {
		return err
	}
	b := make([]byte, 4)
	if _, err := c.Read(b); err != nil {
		return err
	}
	return c.(interface{ SetLinger(int) error }).SetLinger(0) // RST: the client's ports are free at once
}
