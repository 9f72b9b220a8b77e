package stack

import (
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"porthole/demux"
	"porthole/demux/packet"
)

const (
	flagSYN = 0x02
	flagACK = 0x10
)

// inject hands one packet to netstack and says what became of it. It is the body
// of a worker's turn, and of the reader's when it serves a port itself.
func (s *Stack) inject(port demux.Port, p demux.Packet) demux.Fate {
	if port.IsTCP() {
		if ln := s.listeners[port.Number()].Load(); ln != nil {
			if fate, done := s.admit(ln, p); done {
				return fate
			}
		}
	}
	s.deliver(p)
	switch {
	case p.Info().Kind == packet.Fragment && p.Info().Version != 0:
		return demux.ToReassembly
	case port == demux.LaneClosed:
		return demux.Closed
	}
	return demux.ToStack
}

// deliver copies the packet's head into netstack's memory, passes its tail on, and
// calls up. Netstack queues TCP segments for its own goroutines; everything else
// it answers before it returns.
func (s *Stack) deliver(p demux.Packet) {
	b := buffer.MakeWithData(p.Frame())
	if t := p.TakeTail(s.table); t.Bytes != nil {
		if v, ok := t.Owner.(*buffer.View); ok {
			b.Append(v)
		} else {
			b.Append(buffer.NewViewWithData(t.Bytes))
		}
	}
	s.deliverBuffer(p.Info(), b, p.LinkLen())
}

// deliverBuffer calls up with a whole frame whose link header has l2 bytes.
func (s *Stack) deliverBuffer(i *packet.Info, b buffer.Buffer, l2 int) {
	up := s.link.dispatcher()
	if up == nil {
		b.Release()
		return
	}
	if s.ethernet() && l2 == 0 && i.Version != 0 {
		b.Prepend(s.ownHeader(i))
	}
	pkt := netstack.NewPacketBuffer(netstack.PacketBufferOptions{Payload: b})
	up.DeliverNetworkPacket(protoOf(i), pkt)
	pkt.DecRef()
}

func protoOf(i *packet.Info) tcpip.NetworkProtocolNumber {
	if i.Version == 6 {
		return ipv6.ProtocolNumber
	}
	return ipv4.ProtocolNumber
}

// ownHeader is the Ethernet header of a packet that never was on the link: from
// the host to itself.
func (s *Stack) ownHeader(i *packet.Info) *buffer.View {
	v := buffer.NewViewSize(header.EthernetMinimumSize)
	header.Ethernet(v.AsSlice()).Encode(&header.EthernetFields{
		SrcAddr: tcpip.LinkAddress(s.facts.HW), DstAddr: tcpip.LinkAddress(s.facts.HW), Type: protoOf(i),
	})
	return v
}
