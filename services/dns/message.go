package dns

import (
	"encoding/binary"

	mdns "github.com/miekg/dns"
)

// A reply is written front to back into one buffer that its responder keeps:
// header, the question as it was asked (octets of the name included: 0x20), RRsets
// by section, OPT. An RRset is written whole or not at all: when it would pass the
// limit, everything it wrote is cut off again and TC is set, unless it is one that
// a reply may leave out. Room for OPT is set aside before the first RRset.

// maxPointers bounds the names that a reply remembers for compression. Further
// names are written in full, which is correct and longer.
const maxPointers = 64

// responder makes replies, one at a time. It belongs to one goroutine. The slice
// that respond returns is valid until its next call.
type responder struct {
	opts options
	q    query
	name name // being looked up: of the question, then of each alias's target

	buf   []byte
	limit int // of buf before OPT is added
	flags uint16
	rcode int
	count [4]uint16
	at    [maxPointers]uint16 // offsets of labels that later names may point at
	nat   int
	cased bool  // a transfer: names share only what is the same in its case, too
	rdata int   // offset of the RDATA written last
	xfr   *zone // of a transfer that the transport is to send

	// Of a chain of aliases: where each name stands in the reply, the node that
	// gave the next one, and room for a name that a DNAME makes.
	owners [maxAliases]uint16
	links  [maxAliases]*node
	tmp    [256]byte
}

// Sections of a message, as indexes of its counts.
const (
	answer = 1 + iota
	authority
	additional
)

// begin starts a reply with the question of the query.
func (r *responder) begin(msg []byte) {
	r.buf = append(r.buf[:0], msg[:headerLen]...)
	r.buf = append(r.buf, msg[headerLen:r.q.end]...)
	r.flags = flagQR | r.q.flags&(maskOpcode|flagRD|flagCD)
	r.rcode, r.count, r.nat, r.cased, r.xfr = 0, [4]uint16{}, 0, false, nil
	if r.q.asked {
		r.count[0] = 1
	}
}

// finish writes OPT and the header.
func (r *responder) finish(tcp bool) []byte {
	if r.q.edns {
		r.putOPT(tcp)
	}
	b := r.buf
	binary.BigEndian.PutUint16(b[2:], r.flags|uint16(r.rcode&0xf))
	for i, n := range r.count {
		binary.BigEndian.PutUint16(b[4+2*i:], n)
	}
	return b
}

// optLen is the room that OPT will need.
func (r *responder) optLen(tcp bool) int {
	if !r.q.edns {
		return 0
	}
	n := 11
	if r.q.nsid && r.opts.nsid != "" {
		n += 4 + len(r.opts.nsid)
	}
	if tcp && r.q.keepalive {
		n += 6
	}
	return n
}

func (r *responder) putOPT(tcp bool) {
	size := r.optLen(tcp) - 11
	r.buf = append(r.buf, 0, 0, byte(mdns.TypeOPT))
	r.buf = binary.BigEndian.AppendUint16(r.buf, uint16(r.opts.maxUDP))
	flags := uint16(0)
	if r.q.do {
		flags = flagDO
	}
	r.buf = append(r.buf, byte(r.rcode>>4), 0, byte(flags>>8), byte(flags))
	r.buf = binary.BigEndian.AppendUint16(r.buf, uint16(size))
	if r.q.nsid && r.opts.nsid != "" {
		r.buf = append(r.buf, 0, optNSID, 0, byte(len(r.opts.nsid)))
		r.buf = append(r.buf, r.opts.nsid...)
	}
	if tcp && r.q.keepalive { // RFC 7828: in units of 100 ms
		r.buf = append(r.buf, 0, optKeepalive, 0, 2)
		r.buf = binary.BigEndian.AppendUint16(r.buf, uint16(min(r.opts.idle100ms, 65535)))
	}
	r.count[additional]++
}

// put writes an RRset. Its owner is what starts at offset off of the reply, or the
// name given when off is 0. It reports whether the set fitted; if not, nothing of
// it is left.
func (r *responder) put(section, off int, owner []byte, s *rrset) bool {
	if off == headerLen && s.packed != nil && r.buf[headerLen] != 0 {
		if len(r.buf)+len(s.packed) > r.limit {
			return false
		}
		r.buf = append(r.buf, s.packed...)
		r.count[section] += uint16(len(s.rrs))
		return true
	}
	mark, nat := len(r.buf), r.nat
	for _, rec := range s.rrs {
		if off > 0 {
			r.putOwner(off)
		} else {
			off = len(r.buf)
			r.putName(owner)
		}
		r.putRDATA(s, rec.wire)
		if len(r.buf) > r.limit {
			r.buf, r.nat = r.buf[:mark], nat
			return false
		}
	}
	r.count[section] += uint16(len(s.rrs))
	return true
}

// putOwner writes a pointer, or the root itself, which is shorter.
func (r *responder) putOwner(off int) {
	switch {
	case r.buf[off] == 0:
		r.buf = append(r.buf, 0)
	case off < 1<<14:
		if c := r.buf[off]; c >= 192 { // no pointer to a pointer
			off = int(c&63)<<8 | int(r.buf[off+1])
		}
		r.buf = append(r.buf, 0xc0|byte(off>>8), byte(off))
	default: // beyond a pointer's reach
		for end := nameEnd(r.buf, off); off < end; off++ {
			r.buf = append(r.buf, r.buf[off])
		}
	}
}

// nameEnd is the offset after the name, or after the pointer that ends it.
func nameEnd(b []byte, off int) int {
	for {
		switch c := b[off]; {
		case c == 0:
			return off + 1
		case c >= 192:
			return off + 2
		default:
			off += 1 + int(c)
		}
	}
}

// putRDATA writes a record from its TYPE on.
func (r *responder) putRDATA(s *rrset, wire []byte) {
	if s.comp == 0 {
		r.buf = append(r.buf, wire...)
		return
	}
	at := len(r.buf)
	r.rdata = at + 10
	r.buf = append(r.buf, wire[:10+s.lead]...)
	rest := wire[10+s.lead:]
	for range s.comp {
		n := nameLen(rest)
		r.putName(rest[:n])
		rest = rest[n:]
	}
	r.buf = append(r.buf, rest...)
	binary.BigEndian.PutUint16(r.buf[at+8:], uint16(len(r.buf)-at-10))
}

// putName writes a name, pointing at the longest suffix of it that the reply holds
// already (RFC 1035, section 4.1.4). Case is not told apart, as in any comparison,
// but in a transfer, which is to arrive as it left (RFC 5936, section 3.4).
func (r *responder) putName(w []byte) {
	i, to := 0, -1
	for ; w[i] != 0; i += 1 + int(w[i]) {
		if to = r.lookFor(w[i:]); to >= 0 {
			break
		}
	}
	base := len(r.buf)
	r.buf = append(r.buf, w[:i]...)
	if to >= 0 {
		r.buf = append(r.buf, 0xc0|byte(to>>8), byte(to))
	} else {
		r.buf = append(r.buf, 0)
	}
	for j := 0; j < i; j += 1 + int(w[j]) {
		r.remember(base + j)
	}
}

func (r *responder) remember(off int) {
	if r.nat < maxPointers && off < 1<<14 {
		r.at[r.nat] = uint16(off)
		r.nat++
	}
}

// lookFor returns the offset of a name of the reply that equals w, or -1.
func (r *responder) lookFor(w []byte) int {
	for _, off := range r.at[:r.nat] {
		if r.buf[off] == w[0] && r.same(int(off), w) {
			return int(off)
		}
	}
	return -1
}

func (r *responder) same(off int, w []byte) bool {
	for i := 0; ; {
		c := r.buf[off]
		if c >= 192 {
			off = int(c&63)<<8 | int(r.buf[off+1])
			continue
		}
		if c != w[i] {
			return false
		}
		if c == 0 {
			return true
		}
		for end := i + int(c); i < end; {
			i, off = i+1, off+1
			if a, b := r.buf[off], w[i]; a != b && (r.cased || fold[a] != fold[b]) {
				return false
			}
		}
		i, off = i+1, off+1
	}
}
