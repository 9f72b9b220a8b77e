package stack

import (
	"net/netip"
	"slices"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"porthole/demux"
	"porthole/demux/packet"
)

// fragmentMark stands in PacketBuffer.Hash of fragments, which netstack only uses on
// the way out. What netstack makes of them is a clone of the first and has it too.
const fragmentMark = 1

// tcpProtocol is netstack's TCP, but for segments that were put together from
// fragments: those go back to demux, as UDP's do, so that the port's queue and its
// door decide about them like about any other.
type tcpProtocol struct {
	netTCP
	s *Stack
}

// netTCP is what netstack asks of its TCP, beside what it asks of every protocol.
type netTCP interface {
	netstack.TransportProtocol
	netstack.SendBufSizeProto
	QueuePacket(netstack.TransportEndpoint, netstack.TransportEndpointID, *netstack.PacketBuffer)
}

func (s *Stack) newTCP(n *netstack.Stack) netstack.TransportProtocol {
	p := tcp.NewProtocol(n)
	if !keepProcessors(p, processors()) {
		s.log.Warn("netstack keeps its TCP goroutines elsewhere: there is one for every core (processors.go)")
	}
	return &tcpProtocol{p.(netTCP), s}
}

// QueuePacket is how netstack hands a segment to its endpoint.
func (t *tcpProtocol) QueuePacket(ep netstack.TransportEndpoint, id netstack.TransportEndpointID, pkt *netstack.PacketBuffer) {
	if pkt.Hash == fragmentMark {
		t.s.again(id, pkt, uint8(tcp.ProtocolNumber))
		return
	}
	t.netTCP.QueuePacket(ep, id, pkt)
}

// HandlePacket takes a datagram that netstack put together from fragments.
func (e *udpEndpoint) HandlePacket(id netstack.TransportEndpointID, pkt *netstack.PacketBuffer) {
	e.s.again(id, pkt, uint8(udp.ProtocolNumber))
}

// again gives a reassembled packet one IP header and sends it through demux like
// any packet: its checksum is verified there and the port's limits apply.
func (s *Stack) again(id netstack.TransportEndpointID, pkt *netstack.PacketBuffer, proto uint8) {
	from, _ := netip.AddrFromSlice(id.RemoteAddress.AsSlice())
	to, _ := netip.AddrFromSlice(id.LocalAddress.AsSlice())
	transport := pkt.TransportHeader().Slice()
	var hdr [header.IPv6MinimumSize]byte
	n := packet.PutIP(hdr[:], from, to, proto, hopLimit, 0, len(transport)+pkt.Data().Size())
	pieces := [][]byte{hdr[:n], transport}
	pieces = append(pieces, pkt.Data().AsRange().ToSlice())
	kind := demux.Reassembled
	if slices.ContainsFunc(s.addrs, func(p netip.Prefix) bool { return p.Addr() == from }) { // its fragments were the host's own, or they would not have come this far
		kind = demux.SelfTest
	}
	s.table.Inject(kind, demux.Offload{}, pieces...)
}
