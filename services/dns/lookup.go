package dns

import (
	"encoding/binary"

	mdns "github.com/miekg/dns"

	"porthole/services"
)

// maxAliases bounds the CNAME and DNAME records followed for one query, and so the
// work that any query can cause. A longer chain is answered as far as it was
// followed, and the client goes on from there.
const maxAliases = 16

// options are the settings that a reply depends on.
type options struct {
	maxUDP    int
	idle100ms int    // TCP idle time
	nsid      string // "" says nothing of who answers
	version   string
	transfer  bool
}

func newOptions(c *Config, h services.Host) options {
	o := options{maxUDP: c.MaxUDPSize, idle100ms: int(c.TCPIdle.Milliseconds() / 100), transfer: c.Transfer}
	if c.Identity {
		o.nsid, o.version = h.Name, "porthole "+h.Version
		o.nsid = o.nsid[:min(len(o.nsid), 63)]
		o.version = o.version[:min(len(o.version), 255)]
	}
	return o
}

// respond answers one message, or returns nil when none is owed: to anything
// shorter than a header, and to anything that is itself a reply, or two servers
// would talk to each other for ever.
func (r *responder) respond(zs *zoneSet, msg []byte, tcp bool) []byte {
	if len(msg) < headerLen || msg[2]&(flagQR>>8) != 0 {
		return nil
	}
	q := &r.q
	parseQuery(msg, q)
	r.begin(msg)
	size := 65535
	if !tcp {
		size = min(q.size, r.opts.maxUDP)
	}
	r.limit = size - r.optLen(tcp)

	switch {
	case q.edns && !q.bad && q.version > 0:
		r.rcode = mdns.RcodeBadVers // RFC 6891, section 6.1.3
	case q.flags&maskOpcode != 0:
		r.rcode = mdns.RcodeNotImplemented
	case q.bad || !q.asked:
		r.rcode = mdns.RcodeFormatError
	case q.class == mdns.ClassCHAOS:
		r.chaos(msg)
	case q.class != mdns.ClassINET:
		r.rcode = mdns.RcodeRefused
	default:
		r.query(zs, msg, tcp)
	}
	return r.finish(tcp)
}

// query answers a question of class IN.
func (r *responder) query(zs *zoneSet, msg []byte, tcp bool) {
	switch t := r.q.typ; {
	case t == mdns.TypeAXFR || t == mdns.TypeIXFR:
	case t == mdns.TypeANY:
	case t == mdns.TypeOPT || t == mdns.TypeTSIG || t == mdns.TypeNXNAME || t == 0:
		r.rcode = mdns.RcodeFormatError // never to be asked for (RFC 6895, RFC 9824)
		return
	case t >= 128 && t <= 255:
		r.rcode = mdns.RcodeNotImplemented // other meta types
		return
	}
	r.name.set(msg[headerLen : r.q.end-4])
	for i := range r.name.labels {
		r.remember(headerLen + int(r.name.off[i]))
	}
	z := zs.find(&r.name, false)
	if r.q.typ == mdns.TypeDS && z != nil && z.labels == r.name.labels {
		// DS is the parent's to answer (RFC 4035, section 3.1.4.1), if it delegates.
		if parent := zs.find(&r.name, true); parent != nil {
			if n, exact := parent.find(&r.name); exact && n.cut == n {
				z = parent
			}
		}
	}
	switch {
	case z == nil:
		r.rcode = mdns.RcodeRefused
	case r.q.typ == mdns.TypeAXFR || r.q.typ == mdns.TypeIXFR:
		r.transferReply(z, tcp)
	default:
		r.resolve(zs, z, tcp)
	}
}

// resolve is the algorithm of RFC 1034, section 4.3.2, within one zone: a chain
// that leaves it is the client's to follow.
func (r *responder) resolve(zs *zoneSet, z *zone, tcp bool) {
	owner := headerLen // offset of the name being looked up, in the reply
	r.flags |= flagAA
	for alias := 0; ; alias++ {
		n, exact := z.find(&r.name)
		var dname *node
		switch {
		case n.cut != nil && n.cut.dname != nil:
			dname = n.cut
		case n.cut != nil:
			if !exact || n.cut != n || r.q.typ != mdns.TypeDS { // it lives on this side of the cut
				r.referral(n.cut, alias == 0)
				return
			}
		case !exact && n.dname != nil:
			dname = n
		case !exact && n.wild != nil:
			n = n.wild
		case !exact:
			r.rcode = mdns.RcodeNameError // of the last name of a chain (RFC 6604)
			r.negative(z)
			return
		}
		if dname == nil && (n.cname == nil || r.q.typ == mdns.TypeANY || n.get(r.q.typ) != nil) {
			r.data(z, n, owner, tcp)
			return
		}
		if alias == maxAliases {
			return
		}
		r.owners[alias] = uint16(owner)
		if dname != nil {
			if !r.redirect(dname, owner, alias) || r.q.typ == mdns.TypeCNAME || r.q.typ == mdns.TypeANY {
				return
			}
		} else {
			if !r.require(answer, owner, nil, n.cname) {
				return
			}
			r.links[alias] = n
			r.name.setKey(n.cname.target)
		}
		owner = r.rdata // of the record just written: the name to look up next
		if r.looped(alias) || zs.find(&r.name, false) != z {
			return
		}
	}
}

// looped reports whether the name to look up next was looked up already.
func (r *responder) looped(alias int) bool {
	for _, off := range r.owners[:alias+1] {
		if r.same(int(off), r.name.key()) {
			return true
		}
	}
	return false
}

// data answers with what the node holds of the type asked for.
func (r *responder) data(z *zone, n *node, owner int, tcp bool) {
	if r.q.typ == mdns.TypeANY && len(n.sets) > 0 {
		r.any(n, owner, tcp)
		return
	}
	s := n.get(r.q.typ)
	if s == nil {
		r.negative(z)
		return
	}
	if r.require(answer, owner, nil, s) {
		r.extras(s, false)
	}
}

// negative adds the SOA record that says how long to remember the answer.
func (r *responder) negative(z *zone) { r.require(authority, 0, z.top.owner, z.neg) }

// referral answers with the name servers of a delegation. It is no authoritative
// answer, unless records of ours lead to it.
func (r *responder) referral(cut *node, clear bool) {
	if clear {
		r.flags &^= flagAA
	}
	ns := cut.get(mdns.TypeNS)
	if r.require(authority, 0, cut.owner, ns) {
		r.extras(ns, true)
	}
}

// redirect writes a DNAME record and the CNAME made from it (RFC 6672, section 3),
// and leaves the new name in r.name.
func (r *responder) redirect(n *node, owner, alias int) bool {
	known := false // the same DNAME may redirect a name twice; it is given once
	for _, l := range r.links[:alias] {
		known = known || l == n
	}
	if !known && !r.require(answer, 0, n.owner, n.dname) {
		return false
	}
	r.links[alias] = n
	prefix := r.name.n - len(n.key)
	if prefix+len(n.dname.tname) > 255 {
		r.rcode = mdns.RcodeYXDomain
		return false
	}
	to := append(append(r.tmp[:0], r.name.b[:prefix]...), n.dname.tname...)
	mark, nat := len(r.buf), r.nat
	r.putOwner(owner)
	r.buf = append(r.buf, 0, byte(mdns.TypeCNAME), 0, mdns.ClassINET)
	r.buf = binary.BigEndian.AppendUint32(r.buf, n.dname.ttl())
	r.buf = append(r.buf, 0, 0)
	r.rdata = len(r.buf)
	r.putName(to)
	if len(r.buf) > r.limit {
		r.buf, r.nat = r.buf[:mark], nat
		r.flags |= flagTC
		return false
	}
	binary.BigEndian.PutUint16(r.buf[r.rdata-2:], uint16(len(r.buf)-r.rdata))
	r.count[answer]++
	r.name.set(to)
	return true
}

// hinfo is the one record that stands for all (RFC 8482, section 4.2).
var hinfo = func() *rrset {
	s := &rrset{typ: mdns.TypeHINFO, rrs: []rr{{[]byte("\x00\x0d\x00\x01\x00\x00\x0e\x10\x00\x09\x07RFC8482\x00")}}}
	s.packWhole()
	return s
}()

// any answers ANY: all there is over TCP, where the client's address is proven, and
// one record over UDP, where an answer that is larger than its question is a weapon
// (RFC 8482). A CNAME stands for itself.
func (r *responder) any(n *node, owner int, tcp bool) {
	switch {
	case tcp:
		for _, s := range n.sets {
			if !r.require(answer, owner, nil, s) {
				return
			}
		}
	case n.cname != nil:
		r.require(answer, owner, nil, n.cname)
	default:
		r.require(answer, owner, nil, hinfo)
	}
}

// require writes a set that the reply may not go without: if it does not fit, the
// reply is marked as truncated (RFC 2181, section 9).
func (r *responder) require(section, off int, owner []byte, s *rrset) bool {
	if r.put(section, off, owner, s) {
		return true
	}
	r.flags |= flagTC
	return false
}

// extras writes the additional addresses of a set: as many as fit, but glue that
// the client cannot go on without is required (RFC 9471).
func (r *responder) extras(s *rrset, glue bool) {
	for _, e := range s.extra {
		if r.put(additional, 0, e.owner, e.set) {
			continue
		}
		if glue && e.must {
			r.flags |= flagTC
		}
		return
	}
}

// chaos answers what servers are asked about themselves, by custom (RFC 4892).
func (r *responder) chaos(msg []byte) {
	r.name.set(msg[headerLen : r.q.end-4])
	text := ""
	switch string(r.name.key()) {
	case "\x07version\x04bind\x00", "\x07version\x06server\x00":
		text = r.opts.version
	case "\x08hostname\x04bind\x00", "\x02id\x06server\x00":
		text = r.opts.nsid
	}
	if text == "" {
		r.rcode = mdns.RcodeRefused
		return
	}
	r.flags |= flagAA
	if r.q.typ != mdns.TypeTXT && r.q.typ != mdns.TypeANY {
		return
	}
	if len(r.buf)+2+10+1+len(text) > r.limit {
		r.flags |= flagTC
		return
	}
	r.buf = append(r.buf, 0xc0, headerLen, 0, byte(mdns.TypeTXT), 0, mdns.ClassCHAOS, 0, 0, 0, 0, 0, byte(1+len(text)), byte(len(text)))
	r.buf = append(r.buf, text...)
	r.count[answer]++
}
