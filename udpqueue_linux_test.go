package porthole_test

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"porthole/demux"
	"porthole/stack"
)

// TestKernelUDPQueue sends 1,000 datagrams from a kernel socket to a port whose
// service is held before it reads: the queue keeps 64, the first ones, and loses
// 936. Batches of 100 are awaited, since the device's own queue holds 500.
func TestKernelUDPQueue(t *testing.T) {
	need(t)
	ns := newNamespace(t)
	s, table := newOurStack(t, ns)
	for i, host := range []string{"10.77.0.1", "fd77::1"} {
		t.Run(host, func(t *testing.T) {
			at := netip.AddrPortFrom(netip.MustParseAddr(host), uint16(53+i))
			pc, err := s.ListenPacket(at.Port(), stack.PacketConfig{Owner: "test", Limits: demux.Limits{Packets: 64, Bytes: 1 << 20}})
			require.NoError(t, err)
			require.True(t, s.SetPace(false, at.Port(), stack.Delay{}, true))
			got := make(chan string, 1000)
			var service sync.WaitGroup
			service.Go(func() {
				buf := make([]byte, 100)
				for {
					n, from, err := pc.ReadFrom(buf)
					if err != nil {
						return
					}
					got <- string(buf[:n])
					pc.WriteTo(buf[:n], from)
				}
			})
			defer service.Wait()
			defer pc.Close()

			var client net.Conn
			inNamespace(t, ns, func() (err error) {
				client, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at))
				return err
			})
			defer client.Close()
			port := demux.UDPPort(at.Port())
			for i := range 1000 {
				for {
					_, err := fmt.Fprintf(client, "datagram %d", i)
					if err == nil {
						break
					}
					require.ErrorIs(t, err, unix.ENOBUFS)
				}
				if i%100 == 99 {
					until(t, "a batch", func() bool { return table.Port(port).Arrived == uint64(i+1) })
				}
			}
			st := table.Port(port)
			require.EqualValues(t, 64, st.Queued)
			require.EqualValues(t, 936, st.Fates[demux.QueueFull])

			require.True(t, s.SetPace(false, at.Port(), stack.Delay{}, false))
			require.NoError(t, client.SetReadDeadline(time.Now().Add(patience)))
			buf := make([]byte, 100)
			for i := range 64 {
				want := fmt.Sprint("datagram ", i)
				require.Equal(t, want, <-got)
				n, err := client.Read(buf) // and each is answered
				require.NoError(t, err)
				require.Equal(t, want, string(buf[:n]))
			}
			st = table.Port(port)
			require.Zero(t, st.Queued)
			require.EqualValues(t, 64, st.Fates[demux.ToService])
			t.Logf("%s: 1,000 datagrams, queue=64: %d to-service, %d queue-full", host, st.Fates[demux.ToService], st.Fates[demux.QueueFull])
		})
	}
}
