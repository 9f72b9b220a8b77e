package stack

import (
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"porthole/demux"
	"porthole/demux/packet"
)

// The way of a datagram out: straight to the device when it fits one packet, through
// netstack when it has to be cut or its link address asked for.

// sendUDP sends one datagram from one of the host's addresses, straight to the device
// when it fits one packet and needs no link address.
func (s *Stack) sendUDP(from, to netip.AddrPort, b []byte, id *atomic.Uint32) error {
	if err := checkUDP(from.Addr(), to, b); err != nil {
		return err
	}
	if s.ethernet() || len(b)+headerLen(to.Addr()) > s.facts.MTU {
		return s.sendRouted(from, to, b)
	}
	o := outgoings.Get().(*outgoing)
	defer o.free()
	return s.sendWhole(o, from, to, b, id, true)
}

// checkUDP reports why b cannot go from src, which is invalid when the host has no
// address to speak from, to an address.
func checkUDP(src netip.Addr, to netip.AddrPort, b []byte) error {
	switch {
	case !src.IsValid():
		return syscall.ENETUNREACH
	case to.Port() == 0:
		return syscall.EINVAL
	case len(b) > maxUDP6 || src.Is4() && len(b) > maxUDP4:
		return syscall.EMSGSIZE
	}
	return nil
}

// sendWhole sends a datagram that fits one packet and needs no link address. It needs o
// until it returns.
func (s *Stack) sendWhole(o *outgoing, from, to netip.AddrPort, b []byte, id *atomic.Uint32, wait bool) error {
	n := packet.PutUDP(o.hdr[:], from, to, hops(to.Addr()), nextID(id), b)
	o.pieces[0], o.pieces[1] = o.hdr[:n], b
	if err := s.link.write(o.pieces[:], zeroOffload, demux.FromService, wait); err != nil {
		return errno(err)
	}
	return nil
}

// hops is the TTL towards a: a group is not left beyond the link (RFC 1112, 6.1).
func hops(a netip.Addr) uint8 {
	if a.IsMulticast() {
		return 1
	}
	return hopLimit
}

// nextID is never 0, which would mean DF: who sets that must heed "fragmentation
// needed" (RFC 1191, 3), and a UDP socket has nothing left to send again.
func nextID(id *atomic.Uint32) uint16 {
	for {
		if n := uint16(id.Add(1)); n != 0 {
			return n
		}
	}
}

func headerLen(a netip.Addr) int {
	if a.Is4() {
		return 28
	}
	return 48
}

// sendRouted sends through netstack, which cuts fragments and resolves link addresses.
func (s *Stack) sendRouted(from, to netip.AddrPort, b []byte) error {
	r, terr := s.net.FindRoute(nicID, address(from.Addr()), address(to.Addr()), netProto(to.Addr()), false)
	if terr != nil {
		return errno(terr)
	}
	defer r.Release()
	pkt := netstack.NewPacketBuffer(netstack.PacketBufferOptions{
		ReserveHeaderBytes: header.UDPMinimumSize + int(r.MaxHeaderLength()),
		Payload:            buffer.MakeWithData(b),
	})
	defer pkt.DecRef()
	var hdr [48]byte
	n := packet.PutUDP(hdr[:], from, to, hopLimit, 0, b) // of which only UDP's is used
	copy(pkt.TransportHeader().Push(header.UDPMinimumSize), hdr[n-header.UDPMinimumSize:n])
	pkt.TransportProtocolNumber = udp.ProtocolNumber
	if terr := r.WritePacket(netstack.NetworkHeaderParams{Protocol: udp.ProtocolNumber, TTL: hops(to.Addr())}, pkt); terr != nil {
		return errno(terr)
	}
	return nil
}

// SendLink sends one datagram to a link address without resolving it.
func (s *Stack) SendLink(hw net.HardwareAddr, from, to netip.AddrPort, b []byte) error {
	if !s.ethernet() || len(hw) != 6 {
		return errors.ErrUnsupported
	}
	if len(b)+headerLen(to.Addr()) > s.facts.MTU {
		return syscall.EMSGSIZE
	}
	var hdr [14 + 48]byte
	etherType := uint16(ipv4.ProtocolNumber)
	if to.Addr().Is6() {
		etherType = uint16(ipv6.ProtocolNumber)
	}
	n := packet.PutEthernet(hdr[:], [6]byte(hw), [6]byte(s.facts.HW), etherType)
	n += packet.PutUDP(hdr[n:], from, to, hopLimit, 0, b)
	if err := s.link.write([][]byte{hdr[:n], b}, zeroOffload, demux.FromService, true); err != nil {
		return errno(err)
	}
	return nil
}
