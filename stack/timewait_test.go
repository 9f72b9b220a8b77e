package stack

import (
	"context"
	"io"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"porthole/demux"
	"porthole/tun"
)

func TestTimeWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &timeWaits{max: 3}
		clock := coarseClock{tcpip.NewStdClock(), w}
		began := time.Now()
		ended := make(chan [2]time.Duration, 10) // which, and when
		begin := func(i int) tcpip.Timer {
			return clock.AfterFunc(timeWait, func() { ended <- [2]time.Duration{time.Duration(i), time.Since(began)} })
		}
		begin(0)
		stopped := begin(1)
		begin(2)
		time.Sleep(time.Second)
		require.True(t, stopped.Stop()) // its place is free
		begin(3)
		synctest.Wait()
		require.Empty(t, ended)
		time.Sleep(time.Second)
		begin(4) // one too many: the oldest ends now
		require.Equal(t, [2]time.Duration{0, 2 * time.Second}, <-ended)
		require.EqualValues(t, 1, w.early)
		time.Sleep(time.Second)
		again := begin(5) // 2 ends
		require.Equal(t, [2]time.Duration{2, 3 * time.Second}, <-ended)
		again.Reset(2 * timeWait) // a FIN came again
		require.Equal(t, [2]time.Duration{3, time.Second + timeWait}, <-ended)
		require.Equal(t, [2]time.Duration{4, 2*time.Second + timeWait}, <-ended)
		require.Equal(t, [2]time.Duration{5, 3*time.Second + 2*timeWait}, <-ended)
		require.Zero(t, w.list.Len())
		require.EqualValues(t, 2, w.early)
	})
}

// TestTimeWaitBound: real connections that the host closes first, more than may be in
// TIME-WAIT: the oldest are gone, without a RST, and the newest are there.
func TestTimeWaitBound(t *testing.T) {
	a, b := tun.Pipe(tun.PipeOptions{}, tun.PipeOptions{})
	addr := [2]netip.Prefix{netip.MustParsePrefix("10.77.0.1/24"), netip.MustParsePrefix("10.77.0.2/24")}
	var s [2]*Stack
	for i, dev := range []tun.Device{a, b} {
		var err error
		s[i], err = New(Config{Device: dev, Table: demux.New(demux.Options{}), Addrs: addr[i : i+1]})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s[i].Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			require.NoError(t, <-done)
		})
	}
	host, client := s[0], s[1]
	var length tcpip.TCPTimeWaitTimeoutOption
	require.Nil(t, host.net.TransportProtocolOption(tcp.ProtocolNumber, &length))
	require.EqualValues(t, timeWait, length)
	host.waits.max = 5
	ln, err := host.Listen(80, ListenConfig{Owner: "test"})
	require.NoError(t, err)
	defer ln.Close()
	inTimeWait := func() map[uint16]bool { // by the client's port
		ports := map[uint16]bool{}
		for _, ep := range host.net.RegisteredEndpoints() {
			if e, ok := ep.(*tcp.Endpoint); ok && e.EndpointState() == tcp.StateTimeWait {
				r, _ := e.GetRemoteAddress()
				ports[r.Port] = true
			}
		}
		return ports
	}
	var last []uint16
	for range 12 {
		c, err := client.DialTCP(t.Context(), netip.AddrPortFrom(addr[0].Addr(), 80), DialConfig{})
		require.NoError(t, err)
		h, err := ln.Accept()
		require.NoError(t, err)
		require.NoError(t, h.Close())
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, c.Close())
		port := netip.MustParseAddrPort(c.LocalAddr().String()).Port()
		require.Eventually(t, func() bool { return inTimeWait()[port] }, patience, time.Millisecond)
		last = append(last, port)
	}
	require.Eventually(t, func() bool { return len(inTimeWait()) == 5 }, patience, time.Millisecond)
	for _, port := range last[7:] {
		require.True(t, inTimeWait()[port])
	}
	require.EqualValues(t, 7, host.Lost().TimeWaitOverflow)
	require.Zero(t, host.net.Stats().TCP.ResetsSent.Value())
}

// TestLost: what netstack was handed and drops is counted as netstack's own, such as a
// segment that means nothing to a listening port.
func TestLost(t *testing.T) {
	r := newDoorRig(t, demux.DoorConfig{Backlog: 1, SynQueue: 1})
	r.p.send(5000, flagFIN, irs, 0)
	require.Eventually(t, func() bool { return r.s.Lost() == Lost{Dropped: 1} }, patience, time.Millisecond, "%+v", r.s.Lost())
	r.fate(t, demux.ToStack, 1)
}
