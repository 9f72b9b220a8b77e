package dns

import (
	"slices"

	mdns "github.com/miekg/dns"
)

// additional finds what goes with a set: the addresses that its records point at
// (RFC 1035, section 3.3; RFC 1183; RFC 2230; RFC 2782; RFC 9460, section 4.1), and
// where an SVCB record is an alias, the set it stands for.
func (z *zone) additional(n *node, s *rrset) {
	lead := 0
	switch s.typ {
	case mdns.TypeNS, mdns.TypeMB:
	case mdns.TypeMX, mdns.TypeAFSDB, mdns.TypeRT, mdns.TypeKX, mdns.TypeSVCB, mdns.TypeHTTPS:
		lead = 2
	case mdns.TypeSRV:
		lead = 6
	default:
		return
	}
	referral := s.typ == mdns.TypeNS && n != z.top
	seen := map[string]bool{}
	for _, r := range s.rrs {
		rdata := r.wire[10+lead:]
		owner, types := rdata[:nameLen(rdata)], []uint16{mdns.TypeA, mdns.TypeAAAA}
		if s.typ == mdns.TypeSVCB || s.typ == mdns.TypeHTTPS {
			switch alias := r.wire[10] == 0 && r.wire[11] == 0; {
			case alias:
				types = append(types, s.typ)
			case len(owner) == 1 && !wildcard(n.key): // "." is the owner itself (RFC 9460, section 2.5.2)
				owner = n.owner
			}
		}
		key := lower(string(owner))
		t := z.target(key)
		if t == nil || seen[key] || t.cut != nil && !referral {
			continue
		}
		seen[key] = true
		if t.key == key {
			owner = t.owner // in the file's own case
		}
		for _, typ := range types {
			if a := t.get(typ); a != nil && a != s {
				s.extra = append(s.extra, extra{owner: owner, set: a, must: referral && within(key, n.key)})
			}
		}
	}
	slices.SortStableFunc(s.extra, func(a, b extra) int { // what must fit goes first
		switch {
		case a.must == b.must:
			return 0
		case a.must:
			return -1
		}
		return 1
	})
}

// target is the node that answers for a name of this zone, a wildcard if one covers
// it, or nil.
func (z *zone) target(key string) *node {
	if n := z.nodes[key]; n != nil || !within(key, z.apex) {
		return n
	}
	var nm name
	nm.setKey(key)
	if n, _ := z.find(&nm); n.cut == nil && n.dname == nil {
		return n.wild
	}
	return nil
}
