package stack

import (
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"porthole/demux"
	"porthole/demux/packet"
)

// Segments that netstack does not make: the resets of closed and of full ports, the
// SYN+ACKs with a cookie. Each answers a packet, and goes back the way that it came.

// reply sends a segment without data back to where p came from, and does not wait: a
// reader may have it in hand. Its header has 4 bytes of options at most.
func (s *Stack) reply(p demux.Packet, h packet.TCPHeader, from demux.Origin) {
	o := outgoings.Get().(*outgoing)
	defer o.free()
	l2 := s.replyLink(o.hdr[:], p)
	n := packet.PutTCP(o.hdr[l2:], p.To(), p.From(), hopLimit, 0, h)
	o.pieces[0] = o.hdr[:l2+n]
	s.link.write(o.pieces[:1], zeroOffload, from, false)
}

// replyLink puts the link header of an answer to a packet into b: back to where it
// came from. It returns its length, 0 on a device without.
func (s *Stack) replyLink(b []byte, p demux.Packet) (n int) {
	if !s.ethernet() {
		return 0
	}
	if p.LinkLen() != header.EthernetMinimumSize { // from the host itself
		return copy(b, s.ownHeader(p.Info()).AsSlice())
	}
	f := p.Frame()
	n = copy(b, f[6:12])
	n += copy(b[n:], s.facts.HW)
	return n + copy(b[n:], f[12:14])
}
