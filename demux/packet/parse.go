package packet

import "encoding/binary"

// MaxExtensions is the most IPv6 extension headers that Parse walks. RFC 8200
// section 4.1 needs at most six in one packet; a longer chain is an attack on
// whoever has to walk it (RFC 8504, 5.3).
const MaxExtensions = 8

// Parse reads the headers of the frame whose first bytes are head and whose whole
// size is total (at least len(head); the rest lies elsewhere). All headers must lie
// within head. Bytes of the frame beyond the IP header's own length are padding.
//
// Some packets are well formed and yet not for a port, because a host must answer
// or discard them for what stands before their transport header. They are Other,
// and the network stack owes the answer, a parameter problem as a rule: IPv4
// options that do not end where they should (RFC 1122, 3.2.2.5); IPv6 options
// unknown to a host that may not skip them (RFC 8200, 4.2); a routing header with
// segments left (4.4); hop-by-hop options in a later place (4.1); a fragment whose
// length or end cannot be (4.5); and any next header that this host does not
// implement, AH, mobility and HIP among them (4).
//
// With a Problem, Info holds no more than what was read before it came up, for a
// log; its Kind is Other, or Fragment with BadFragment.
func Parse(head []byte, total int) (i Info, p Problem) {
	p = i.Parse(head, total)
	return i, p
}

// Parse is the function Parse in place, for the hot path: it overwrites i. A copy of
// an Info right after it was written waits for its small stores to retire, which costs
// half of the parsing again.
func (i *Info) Parse(head []byte, total int) Problem {
	*i = Info{Kind: Other}
	if len(head) >= 20 {
		switch head[0] >> 4 {
		case 4:
			return i.parse4(head, total)
		case 6:
			return i.parse6(head, total)
		}
	}
	return i.parseShort(head, total)
}

// ParsePlain is Parse for nearly all packets, in one step: TCP or UDP in IPv4 without
// options, no fragment. The frame is n bytes long, all in one piece; h is its beginning,
// and what may lie behind it. False: Parse has to look.
func (i *Info) ParsePlain(h *[40]byte, n int) bool {
	end := int(binary.BigEndian.Uint16(h[2:]))
	if h[0] != 0x45 || binary.BigEndian.Uint16(h[6:])&0x3fff != 0 || end > n {
		return false
	}
	*i = Info{}
	switch h[9] {
	case protoTCP:
		at := 20 + int(h[32]>>4)*4
		if at < 40 || at > end {
			return false
		}
		i.TCPFlags = h[33]
		i.Payload, i.size = uint16(at), uint32(end-at)
	case protoUDP:
		size := int(binary.BigEndian.Uint16(h[24:]))
		if size < 8 || size > end-20 {
			return false
		}
		i.Kind = UDP
		i.Payload, i.size = 28, uint32(size-8)
	default:
		return false
	}
	i.Version, i.Proto, i.L4, i.Length = 4, h[9], 20, uint32(end)
	i.SrcPort, i.DstPort = binary.BigEndian.Uint16(h[20:]), binary.BigEndian.Uint16(h[22:])
	return true
}

// parseShort says what is wrong with a frame that cannot hold an IP header, or that
// is of no version we know.
func (i *Info) parseShort(head []byte, total int) Problem {
	if len(head) > 0 {
		v := head[0] >> 4
		if v != 4 && v != 6 {
			return BadVersion
		}
		i.Version = v
	}
	return missing(len(head), total)
}

// missing tells a frame that ends too early from headers that go on outside of head.
func missing(have, total int) Problem {
	if total > have {
		return HeadersTooLong
	}
	return Truncated
}

func (i *Info) parse4(head []byte, total int) Problem {
	_ = head[19]
	proto := head[9]
	ihl := int(head[0]&15) * 4
	end := int(binary.BigEndian.Uint16(head[2:]))
	i.Version, i.Proto, i.Length = 4, proto, uint32(end)
	switch {
	case ihl < 20:
		return BadHeaderLength
	case end < ihl:
		return BadLength
	case end > total:
		return Truncated
	case ihl > len(head):
		return HeadersTooLong
	}
	if f := binary.BigEndian.Uint16(head[6:]); f&0x3fff != 0 { // more fragments, or an offset
		i.Kind = Fragment
		i.upper(ihl, end)
		// The reassembled packet must fit its own total length, header included.
		if !fragmentOK(end-ihl, f&0x2000 != 0, ihl+int(f&0x1fff)*8) {
			return BadFragment
		}
		return None
	}
	if ihl > 20 && !options4OK(head[20:ihl]) {
		i.upper(ihl, end)
		return None
	}
	return i.transport(head, proto, ihl, end)
}

// fragmentOK checks a fragment of size bytes that begins at byte at of the whole.
func fragmentOK(size int, more bool, at int) bool {
	return size > 0 && (!more || size%8 == 0) && at+size <= 65535
}

// options4OK reports whether every IPv4 option ends within b (RFC 791, 3.1). What
// the options mean is left to the network stack.
func options4OK(b []byte) bool {
	for len(b) > 0 {
		switch b[0] {
		case 0: // end of options
			return true
		case 1: // no operation
			b = b[1:]
			continue
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			return false
		}
		b = b[b[1]:]
	}
	return true
}

func (i *Info) parse6(head []byte, total int) Problem {
	i.Version = 6
	if len(head) < 40 {
		return missing(len(head), total)
	}
	next := head[6]
	end := 40 + int(binary.BigEndian.Uint16(head[4:]))
	i.Proto, i.Length = next, uint32(end)
	if end > total {
		return Truncated
	}
	switch next {
	case protoTCP, protoUDP, protoICMPv6:
		return i.transport(head, next, 40, end)
	}
	return i.parseChain(head, next, end)
}

// parseChain walks the extension headers from byte 40 on (RFC 8200, 4). Its work is
// bounded by MaxExtensions and by the size of head.
func (i *Info) parseChain(head []byte, next uint8, end int) Problem {
	at := 40
	for n := 0; ; n++ {
		switch next {
		case protoHopByHop:
			if at != 40 {
				return i.stop(next, at, end) // unrecognised in this place
			}
			if end == 40 {
				return Jumbogram
			}
		case protoRouting, protoFragment, protoDestination, protoExperiment:
		default:
			i.Proto = next
			return i.transport(head, next, at, end)
		}
		if n == MaxExtensions {
			return ChainTooLong
		}
		if at+8 > end {
			return BadExtension
		}
		if at+8 > len(head) {
			return HeadersTooLong
		}
		size := 8
		// The fragment header has no length byte; netstack skips an experimental
		// header as eight bytes whatever it says, and what a port gets must not
		// depend on who reads the packet.
		if next != protoFragment && next != protoExperiment {
			size += int(head[at+1]) * 8
		}
		if at+size > end {
			return BadExtension
		}
		if at+size > len(head) {
			return HeadersTooLong
		}
		switch next {
		case protoHopByHop, protoDestination:
			ok, skip := options6(head[at+2 : at+size])
			if !ok {
				return BadExtension
			}
			if !skip {
				return i.stop(next, at, end)
			}
		case protoRouting:
			if head[at+3] != 0 { // segments left: this is not its last stop
				return i.stop(next, at, end)
			}
		case protoFragment:
			f := binary.BigEndian.Uint16(head[at+2:])
			if f&0xfff9 == 0 {
				break // atomic, whole in itself (RFC 6946)
			}
			size, more, from := end-at-8, f&1 != 0, int(f&0xfff8)
			if size > 0 && (more && size%8 != 0 || from+size > 65535) {
				return i.stop(next, at, end) // a parameter problem is owed (4.5)
			}
			i.Proto = head[at]
			i.upper(at+8, end)
			// The reassembled payload has the headers before this one too (4.5).
			p := None
			switch {
			case !fragmentOK(size, more, at-40+from):
				p = BadFragment
			case from == 0:
				p = firstFragment(head, head[at], at+8, end)
			}
			if p != HeadersTooLong {
				i.Kind = Fragment
			}
			return p
		}
		next = head[at]
		at += size
	}
}

// firstFragment walks what a first fragment has behind its fragment header: all headers
// of its packet, the upper layer's too, as it must (RFC 7112, 5).
func firstFragment(head []byte, next uint8, at, end int) Problem {
	need := 8
	for ; ; at += 8 + int(head[at+1])*8 {
		switch next {
		case protoHopByHop, protoRouting, protoDestination:
		case protoTCP:
			need = 20
			fallthrough
		case protoUDP, protoICMPv6:
			if at+need > end {
				return BadFragment
			}
			return None
		default:
			return None // AH, ESP, none: the stack has to judge them, whole
		}
		if at+8 > end {
			return BadFragment
		}
		if at+8 > len(head) {
			return HeadersTooLong
		}
		next = head[at]
	}
}

// stop ends the walk at an extension header that somebody else has to judge.
func (i *Info) stop(next uint8, at, end int) Problem {
	i.Proto = next
	i.upper(at, end)
	return None
}

// options6 walks hop-by-hop or destination options (RFC 8200, 4.2). skip is false
// when there is one that a host which does not know it must not skip. No host here
// knows any: those that matter (padding, router alert) may all be skipped.
func options6(b []byte) (ok, skip bool) {
	skip = true
	for len(b) > 0 {
		if b[0] == 0 { // Pad1
			b = b[1:]
			continue
		}
		if len(b) < 2 || int(b[1])+2 > len(b) {
			return false, false
		}
		if b[0]>>6 != 0 {
			skip = false
		}
		b = b[int(b[1])+2:]
	}
	return true, skip
}

// upper notes where the upper layer begins, when nothing of it is read.
func (i *Info) upper(at, end int) {
	i.L4, i.Payload, i.size = uint16(at), uint16(at), uint32(end-at)
}

// transport reads the upper-layer header at byte at of a packet that ends at end,
// which is within the frame but not always within head.
func (i *Info) transport(head []byte, proto uint8, at, end int) Problem {
	rest := end - at
	switch proto {
	case protoTCP:
		if rest < 20 {
			return ShortTransport
		}
		if len(head) < at+20 {
			return HeadersTooLong
		}
		h := head[at : at+20 : at+20]
		n := int(h[12]>>4) * 4
		if n < 20 || n > rest {
			return BadTCPOffset
		}
		if at+n > len(head) {
			return HeadersTooLong
		}
		i.Kind, i.TCPFlags = TCP, h[13]
		i.L4, i.Payload = uint16(at), uint16(at+n)
		i.SrcPort, i.DstPort = binary.BigEndian.Uint16(h), binary.BigEndian.Uint16(h[2:])
		i.size = uint32(rest - n)
	case protoUDP:
		if rest < 8 {
			return ShortTransport
		}
		if len(head) < at+8 {
			return HeadersTooLong
		}
		h := head[at : at+8 : at+8]
		n := int(binary.BigEndian.Uint16(h[4:]))
		if n < 8 || n > rest {
			return BadUDPLength
		}
		i.Kind = UDP
		i.L4, i.Payload = uint16(at), uint16(at+8)
		i.SrcPort, i.DstPort = binary.BigEndian.Uint16(h), binary.BigEndian.Uint16(h[2:])
		i.size = uint32(n - 8)
	default:
		i.upper(at, end)
		if proto == protoICMP && i.Version == 4 {
			return i.icmp(head, at, rest, 8)
		}
		if proto == protoICMPv6 && i.Version == 6 {
			return i.icmp(head, at, rest, 4)
		}
	}
	return None
}

// icmp reads type and code of a message whose header is size bytes at least.
func (i *Info) icmp(head []byte, at, rest, size int) Problem {
	if rest < size {
		return ShortTransport
	}
	if at+size > len(head) {
		return HeadersTooLong
	}
	t, c := head[at], head[at+1]
	i.ICMPType, i.ICMPCode = t, c
	i.Payload, i.size = uint16(at+size), uint32(rest-size)
	i.Kind = ICMP
	if i.Version == 4 && t == 3 && c == 4 || i.Version == 6 && (t == 2 || t >= 133 && t <= 137) {
		i.Kind = Link
	}
	return None
}
