package stack

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/demux"
	"porthole/demux/packet"
	"porthole/tun"
)

// TestUDPQueueKeepsTheOldest: a service that does not read keeps as many datagrams
// as its queue is long, the first ones, and loses the rest as queue-full.
func TestUDPQueueKeepsTheOldest(t *testing.T) {
	for name, host := range map[string]netip.Prefix{
		"IPv4": netip.MustParsePrefix("10.77.0.1/24"), "IPv6": netip.MustParsePrefix("fd77::1/64"),
	} {
		t.Run(name, func(t *testing.T) {
			a, b := tun.Pipe(tun.PipeOptions{}, tun.PipeOptions{})
			table := demux.New(demux.Options{})
			s, err := New(Config{Device: a, Table: table, Addrs: []netip.Prefix{host}})
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(context.Background())
			var run sync.WaitGroup
			run.Go(func() { s.Run(ctx) })
			defer run.Wait()
			defer cancel()
			defer b.Close()

			pc, err := s.ListenPacket(53, PacketConfig{Owner: "test", Limits: demux.Limits{Packets: 64, Bytes: 1 << 20}})
			require.NoError(t, err)
			defer pc.Close()
			require.True(t, s.SetPace(false, 53, Delay{}, true))
			got := make(chan string, 1000)
			var service sync.WaitGroup
			service.Go(func() {
				buf := make([]byte, 100)
				for {
					n, _, err := pc.ReadFrom(buf)
					if err != nil {
						return
					}
					got <- string(buf[:n])
				}
			})
			defer service.Wait()
			defer pc.Close()

			port := demux.UDPPort(53)
			from := netip.AddrPortFrom(host.Addr().Next(), 5000)
			for i := range 1000 {
				var hdr [48]byte
				body := fmt.Appendf(nil, "datagram %d", i)
				n := packet.PutUDP(hdr[:], from, netip.AddrPortFrom(host.Addr(), 53), 64, 0, body)
				_, err := b.Write(0, []tun.Out{{Pieces: [][]byte{hdr[:n], body}}}, true)
				require.NoError(t, err)
				if i%100 == 99 {
					require.Eventually(t, func() bool { return table.Port(port).Arrived == uint64(i+1) }, patience, time.Millisecond)
				}
			}
			st := table.Port(port)
			require.EqualValues(t, 64, st.Queued)
			require.EqualValues(t, 64, st.High)
			require.EqualValues(t, 936, st.Fates[demux.QueueFull])
			require.Zero(t, st.Fates[demux.ToService])

			require.True(t, s.SetPace(false, 53, Delay{}, false))
			for i := range 64 {
				require.Equal(t, fmt.Sprint("datagram ", i), <-got)
			}
			st = table.Port(port)
			require.Zero(t, st.Queued)
			require.EqualValues(t, 64, st.Fates[demux.ToService])
			require.Empty(t, got)
		})
	}
}
