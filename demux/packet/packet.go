// Package packet parses and builds IPv4, IPv6, TCP, UDP and ICMP headers without
// allocating. A packet is parsed once, at the edge; after that no accessor can
// fail. It checks every bound and no policy: what a packet deserves is decided
// in package demux.
//
// What it is not: it follows no routing header, knows no IPsec, Mobile IPv6 or
// HIP, reassembles nothing, and reads no 802.1Q tag. Such packets are told apart,
// so that somebody else can judge them.
package packet

import "net/netip"

// Kind says what a packet is to the demultiplexer.
type Kind uint8

const (
	// TCP and UDP packets are whole and have ports.
	TCP Kind = iota
	UDP
	// Fragment is any fragment of anything, the first one too: no fragment
	// reaches a port before it has been put together.
	Fragment
	// Link is what the link itself lives on and must not starve: neighbour
	// discovery (ICMPv6 133 to 137, RFC 4861), packet-too-big (ICMPv6 2, RFC 4443)
	// and fragmentation needed (ICMPv4 3 code 4, RFC 1191).
	Link
	// ICMP is every other ICMPv4 or ICMPv6 message.
	ICMP
	// Other is all that has no port: every other transport protocol, IPv6 without
	// a next header, and packets whose IP header or extension headers a host has
	// to answer or to discard before it looks at their transport (see Parse).
	Other
)

var kindNames = [...]string{"tcp", "udp", "fragment", "link", "icmp", "other"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// TCP flags, as in Info.TCPFlags and the 14th byte of a TCP header (RFC 9293, 3.1).
const (
	FIN uint8 = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// Upper-layer protocol and IPv6 next-header numbers that this package tells apart.
const (
	protoHopByHop    = 0
	protoICMP        = 1
	protoTCP         = 6
	protoUDP         = 17
	protoRouting     = 43
	protoFragment    = 44
	protoICMPv6      = 58
	protoNone        = 59
	protoDestination = 60
	protoExperiment  = 253
)

// Info is what Parse found. Offsets count from the start of the IP header. It
// holds no pointers, so tables of it cost the garbage collector nothing.
type Info struct {
	Kind     Kind
	Version  uint8 // 4 or 6
	Proto    uint8 // the upper-layer protocol, or the IPv6 header at which the walk ended
	TCPFlags uint8

	L4      uint16 // offset of the upper-layer header
	Payload uint16 // offset of what follows it (TCP, UDP: data); else the same as L4
	SrcPort uint16 // TCP and UDP only
	DstPort uint16

	Length uint32 // of the packet by its own IP header; what the frame holds beyond it is padding
	size   uint32 // of the payload

	ICMPType uint8
	ICMPCode uint8
}

// PayloadLen is the number of bytes from Payload on that belong to the packet: by
// the UDP header's own length for UDP, by the IP header's for all else.
func (i *Info) PayloadLen() int { return int(i.size) }

// Src is the source address as it stands in the header.
func (i *Info) Src(head []byte) netip.Addr {
	if i.Version == 4 {
		return netip.AddrFrom4([4]byte(head[12:16]))
	}
	return netip.AddrFrom16([16]byte(head[8:24]))
}

// Dst is the destination address as it stands in the header.
func (i *Info) Dst(head []byte) netip.Addr {
	if i.Version == 4 {
		return netip.AddrFrom4([4]byte(head[16:20]))
	}
	return netip.AddrFrom16([16]byte(head[24:40]))
}

// SrcBytes is the source address, 4 or 16 bytes of head.
func (i *Info) SrcBytes(head []byte) []byte {
	if i.Version == 4 {
		return head[12:16:16]
	}
	return head[8:24:24]
}

// DstBytes is the destination address, 4 or 16 bytes of head.
func (i *Info) DstBytes(head []byte) []byte {
	if i.Version == 4 {
		return head[16:20:20]
	}
	return head[24:40:40]
}

// Problem says why a packet is malformed; None when it is not.
type Problem uint8

const (
	None            Problem = iota
	Truncated               // the frame ends before its IP header does, or before that header says
	BadVersion              // neither IPv4 nor IPv6
	BadHeaderLength         // IPv4 header length below 20 bytes
	BadLength               // IPv4 total length smaller than the header
	Jumbogram               // IPv6 payload length 0 with hop-by-hop options (RFC 2675): no link here is that large
	HeadersTooLong          // headers go on beyond the frame's first piece
	ChainTooLong            // more than MaxExtensions IPv6 extension headers
	BadExtension            // an IPv6 extension header or an option in it leaves its bounds
	BadFragment             // an empty fragment; in IPv4 an inner one that is no multiple of 8 bytes, one that ends beyond 65535; in IPv6 a first one without all headers
	ShortTransport          // too few bytes for a TCP, UDP or ICMP header
	BadUDPLength            // UDP length below 8 or beyond the packet
	BadTCPOffset            // TCP data offset below 5 words or beyond the packet
	numProblems
)

var problemNames = [numProblems]string{
	"none", "truncated", "bad ip version", "bad ip header length", "bad ip total length",
	"jumbogram", "headers too long", "extension chain too long", "bad extension header",
	"bad fragment", "short transport header", "bad udp length", "bad tcp data offset",
}

// String gives words that stay the same from release to release.
func (p Problem) String() string {
	if p < numProblems {
		return problemNames[p]
	}
	return "unknown"
}
