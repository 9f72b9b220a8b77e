package stack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"porthole/demux"
	"porthole/demux/packet"
)

const (
	flagFIN = 0x01
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

// inject hands one packet to netstack and says what became of it. It is the body
// of a worker's turn, and of the reader's when it serves a port itself. The timelines
// hear of the packet before anything answers it.
func (s *Stack) inject(port demux.Port, p demux.Packet) demux.Fate {
	if port.IsUDP() { // lent to the reader
		return s.answer(port, p)
	}
	ln := s.listenerOf(port)
	f, act := s.judge(port, ln, p)
	s.carryOut(port, ln, p, f, act)
	return f
}

// carryOut tells who looks on of a packet's fate, and does what it asks for.
func (s *Stack) carryOut(port demux.Port, ln *Listener, p demux.Packet, f demux.Fate, act action) {
	unsent := false
	if w := s.table.Watcher(); w != nil || s.flows != nil {
		door := s.doorSight(ln, p, f)
		if s.flows != nil {
			unsent = s.observe(port, p, f, door)
		}
		if w != nil {
			w.In(p, demux.Sight{Line: port, Fate: f, Now: s.clock(), Door: door})
		}
	}
	switch act {
	case deliver:
		if unsent {
			moveAway(p)
		}
		if port.IsTCP() {
			s.mendLostFIN(p)
		}
		s.deliver(p)
	case challenge:
		moveAway(p)
		p.IP()[p.Info().L4+13] = 0 // no longer a RST: it gets an ACK
		s.deliver(p)
	case sendCookie:
		s.sendCookie(ln, p)
	case repeatSynAck:
		s.repeatSynAck(ln, p)
	case sendReset:
		s.overflowReset(ln, p)
	case resetStranger:
		s.resetStranger(p)
	}
}

// moveAway puts a segment that acknowledges what was never sent far out of the window.
// Netstack would take its data; so it answers with an ACK and drops the segment, as
// the RFCs want (RFC 9293, 3.10.7.4; RFC 5961, 5.2). The timelines know such segments,
// and while they are full or switched off, or the connection is older than they are,
// nobody does.
func moveAway(p demux.Packet) { p.IP()[p.Info().L4+4] ^= 0x80 }

func (s *Stack) listenerOf(port demux.Port) *Listener {
	if !port.IsTCP() {
		return nil
	}
	return s.listeners[port.Number()].Load()
}

// action is what a verdict asks for.
type action uint8

const (
	drop          action = iota
	deliver              // to netstack
	challenge            // to netstack, which answers a RST with an ACK
	sendCookie           // answer a SYN without state
	repeatSynAck         // answer a SYN again
	sendReset            // answer a final ACK with RST, and end its half-open connection
	resetStranger        // answer a segment for nobody with RST
)

// judge finds the fate of a packet, and what shall be done.
func (s *Stack) judge(port demux.Port, ln *Listener, p demux.Packet) (demux.Fate, action) {
	if port.IsTCP() && p.Info().TCPFlags&(flagSYN|flagRST) == flagSYN|flagRST {
		// Nobody sends that, and a listener of netstack's would answer a RST with
		// RST when ACK is set too (RFC 9293, 3.5.2: never).
		return demux.Malformed, drop
	}
	if ln != nil {
		f, a := s.admit(ln, p)
		if a != deliver {
			s.tellFilled(ln)
		}
		return f, a
	}
	switch port {
	case demux.LaneLink:
		s.tooBig(p)
		raiseMTU(p)
	case demux.LaneICMP:
		if s.aboutListener(p) {
			return demux.ToStack, drop
		}
	}
	switch {
	case p.Info().Kind == packet.Fragment && p.Info().Version != 0:
		return demux.ToReassembly, deliver
	case port == demux.LaneClosed && s.strange(p):
		return demux.Closed, resetStranger
	case port == demux.LaneClosed:
		return demux.Closed, deliver
	}
	return demux.ToStack, deliver
}

// aboutListener reports whether a packet is an ICMP unreachable about a segment that
// left a listening port. Netstack would end a half-open connection for it, whatever
// sequence number it quotes, and note it as a soft error of an established one
// (RFC 5927, 5.2 asks for more care). Time ends those that are really unreachable.
func (s *Stack) aboutListener(p demux.Packet) bool {
	i, b := p.Info(), p.IP()
	inner := b[min(int(i.L4)+8, len(b)):]
	switch {
	case i.Kind != packet.ICMP || len(inner) < 20:
		return false
	case i.Version == 4 && i.ICMPType == 3 && inner[9] == uint8(tcp.ProtocolNumber):
		inner = inner[min(int(inner[0]&15)*4, len(inner)):]
	case i.Version == 6 && i.ICMPType == 1 && len(inner) > 40 && inner[6] == uint8(tcp.ProtocolNumber):
		inner = inner[40:]
	default:
		return false
	}
	return len(inner) >= 2 && s.listeners[binary.BigEndian.Uint16(inner)].Load() != nil
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

// The least MTU that a packet-too-big may claim (Linux: net.ipv4.route.min_pmtu;
// RFC 8201, 4). Netstack believes any, down to segments of one byte.
const (
	minMTU4 = 552
	minMTU6 = 1280
)

// raiseMTU mends a packet-too-big that claims less than a path can have: anybody
// can send one (RFC 5927, 7).
func raiseMTU(p demux.Packet) {
	i, b := p.Info(), p.IP()
	if int(i.L4)+8 > len(b) {
		return
	}
	m := b[i.L4:]
	switch {
	case i.Version == 4 && i.ICMPType == 3: // fragmentation needed
		old := binary.BigEndian.Uint16(m[6:])
		if old < minMTU4 {
			binary.BigEndian.PutUint16(m[6:], minMTU4)
			updateSum(m[2:], old, minMTU4)
		}
	case i.Version == 6 && i.ICMPType == 2:
		high, low := binary.BigEndian.Uint16(m[4:]), binary.BigEndian.Uint16(m[6:])
		if high == 0 && low < minMTU6 {
			binary.BigEndian.PutUint16(m[6:], minMTU6)
			updateSum(m[2:], low, minMTU6)
		}
	}
}

// updateSum corrects a checksum for one changed word (RFC 1624, equation 3).
func updateSum(sum []byte, old, now uint16) {
	x := uint32(^binary.BigEndian.Uint16(sum)) + uint32(^old) + uint32(now)
	for x>>16 != 0 {
		x = x&0xffff + x>>16
	}
	binary.BigEndian.PutUint16(sum, ^uint16(x))
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
	if i.Kind == packet.Fragment && i.Version != 0 {
		pkt.Hash = fragmentMark
	}
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
