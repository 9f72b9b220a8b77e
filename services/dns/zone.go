package dns

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	mdns "github.com/miekg/dns"
)

// A zone is a hash of nodes by name. Names are keys in wire form, lower case, so
// that a query's name is looked up without being turned into text, and a suffix of
// a key is the key of an ancestor. Every name between a record and the apex has a
// node, if only an empty one (an empty non-terminal, RFC 4592, section 2.2.2), so
// the first suffix that has a node is the closest encloser. What RFC 1034, section
// 4.3.2 finds on its way down (a delegation, a DNAME, a wildcard below the closest
// encloser) is a pointer in the node, set at load. A zone never changes once built.

// zoneSet is all zones of a server.
type zoneSet struct {
	zones     map[string]*zone // by key of the apex
	maxLabels int              // of the longest apex
}

type zone struct {
	apex   string // key
	labels int
	depth  int // labels of the longest name in the zone
	nodes  map[string]*node
	order  []*node // parents before children, for transfers
	top    *node
	soa    *rrset
	neg    *rrset // soa with the TTL of negative answers (RFC 2308, section 5)
}

// node is one name of a zone.
type node struct {
	owner []byte // wire form, in the file's own case
	key   string
	sets  []*rrset // by type
	cname *rrset
	dname *rrset
	cut   *node // topmost delegation at or above this name, or DNAME above it; else nil
	wild  *node // the child "*"
}

// rrset is the records of one name and type, packed.
type rrset struct {
	typ  uint16
	rrs  []rr
	lead int // octets of RDATA before the names that may be compressed
	comp int // how many such names (RFC 3597, section 4: types of RFC 1035 only)
	// packed holds all records with an owner that points at the question, when
	// nothing in them can be compressed: an answer is then one copy.
	packed []byte
	target string // of a CNAME or DNAME: key
	tname  []byte // the same in its own case
	extra  []extra
}

// maxRDATA keeps every record, with its owner, the question and OPT, within the
// 65535 octets of a message.
const maxRDATA = 64000

// rr is one record from its TYPE on, its RDATA uncompressed.
type rr struct{ wire []byte }

// extra is an RRset for the additional section.
type extra struct {
	owner []byte
	set   *rrset
	must  bool // in-domain glue: if it does not fit, TC is set (RFC 9471)
}

func newZoneSet() *zoneSet { return &zoneSet{zones: map[string]*zone{}} }

func (zs *zoneSet) add(z *zone) {
	zs.zones[z.apex] = z
	zs.maxLabels = max(zs.maxLabels, z.labels)
}

// find returns the zone nearest to the name, or nil. above asks for one that is
// strictly above it: the parent's side of a zone cut, where a DS record lives.
func (zs *zoneSet) find(nm *name, above bool) *zone {
	i := max(0, nm.labels-zs.maxLabels)
	if above && i == 0 {
		i = 1
	}
	for ; i <= nm.labels; i++ {
		if z := zs.zones[string(nm.suffix(i))]; z != nil {
			return z
		}
	}
	return nil
}

// find returns the node of the name, or its closest encloser.
func (z *zone) find(nm *name) (n *node, exact bool) {
	for i := max(0, nm.labels-z.depth); i <= nm.labels-z.labels; i++ {
		if n = z.nodes[string(nm.suffix(i))]; n != nil {
			return n, i == 0
		}
	}
	return z.top, false // not reached: the apex is a suffix of the name
}

func (n *node) get(typ uint16) *rrset {
	for _, s := range n.sets {
		if s.typ == typ {
			return s
		}
	}
	return nil
}

func (z *zone) name() string { return keyText(z.apex) }

func (z *zone) serial() uint32 {
	w := z.soa.rrs[0].wire
	return binary.BigEndian.Uint32(w[len(w)-20:])
}

// newZone builds a zone of its records and refuses what cannot be served.
func newZone(origin string, rrs []mdns.RR) (*zone, error) {
	apex, err := wireName(origin)
	if err != nil {
		return nil, err
	}
	z := &zone{apex: lower(apex), nodes: map[string]*node{}}
	z.labels = countLabels(z.apex)
	z.top = z.node(apex)
	pack := make([]byte, 65536+512)
	for _, r := range rrs {
		if err := z.addRR(r, pack); err != nil {
			h := r.Header()
			return nil, fmt.Errorf("%s %s: %w", h.Name, mdns.Type(h.Rrtype), err)
		}
	}
	return z, z.finish()
}

// node returns the node of a name, making it and its ancestors up to the apex.
func (z *zone) node(owner string) *node {
	key := lower(owner)
	if n := z.nodes[key]; n != nil {
		return n
	}
	n := &node{owner: []byte(owner), key: key}
	z.nodes[key] = n
	z.depth = max(z.depth, countLabels(key))
	if key != z.apex {
		p := z.node(owner[1+int(owner[0]):])
		if wildcard(owner) {
			p.wild = n
		}
	}
	return n
}

func (z *zone) addRR(r mdns.RR, pack []byte) error {
	h := r.Header()
	switch t := h.Rrtype; {
	case h.Class != mdns.ClassINET:
		return fmt.Errorf("class %s is not IN", mdns.Class(h.Class))
	case t == 0 || t == mdns.TypeOPT || t >= 128 && t <= 255:
		return errors.New("is no type of data")
	}
	if h.Ttl > 1<<31-1 {
		h.Ttl = 0 // RFC 2181, section 8
	}
	end, err := mdns.PackRR(r, pack, 0, nil, false)
	if err != nil {
		return err
	}
	n := nameLen(pack)
	if err := complete(r, end-n-10); err != nil {
		return err
	}
	if end-n-10 > maxRDATA {
		return fmt.Errorf("has %d octets of data, more than %d", end-n-10, maxRDATA)
	}
	owner, wire := string(pack[:n]), bytes.Clone(pack[n:end])
	if key := lower(owner); !strings.HasSuffix(key, z.apex) || !within(key, z.apex) {
		return fmt.Errorf("is outside the zone %s", keyText(z.apex))
	}
	if wildcard(owner) && (h.Rrtype == mdns.TypeNS || h.Rrtype == mdns.TypeDNAME) {
		return errors.New("has no meaning at a wildcard (RFC 4592, section 4)")
	}
	nd := z.node(owner)
	s := nd.get(h.Rrtype)
	if s == nil {
		s = &rrset{typ: h.Rrtype}
		s.lead, s.comp = compressible(h.Rrtype)
		nd.sets = append(nd.sets, s)
	}
	for _, have := range s.rrs {
		if bytes.Equal(have.wire[8:], wire[8:]) {
			return nil // RFC 2181, section 5: no duplicates in a set
		}
	}
	// RFC 2181, section 5.2: one TTL, the smallest. Signatures have that of what they
	// sign (RFC 4034, section 3).
	if len(s.rrs) > 0 && s.typ != mdns.TypeRRSIG {
		ttl := min(s.ttl(), h.Ttl)
		s.rrs = append(s.rrs, rr{wire})
		s.setTTL(ttl)
		return nil
	}
	s.rrs = append(s.rrs, rr{wire})
	return nil
}

// complete reports data that is cut short: the parser takes a file that ends before a
// record's last name, and packs none.
func complete(r mdns.RR, size int) error {
	if t := r.Header().Rrtype; size == 0 && t != mdns.TypeAPL && t != mdns.TypeNULL {
		if _, unknown := r.(*mdns.RFC3597); !unknown {
			return errors.New("has no data")
		}
	}
	if !named(reflect.ValueOf(r).Elem()) {
		return errors.New("has not all of its data")
	}
	return nil
}

// named reports whether every field that is a domain name has one.
func named(v reflect.Value) bool {
	for i := range v.NumField() {
		f := v.Field(i)
		switch tag := v.Type().Field(i).Tag.Get("dns"); {
		case f.Kind() == reflect.Struct && !named(f):
			return false
		case f.Kind() == reflect.String && strings.HasSuffix(tag, "domain-name") && f.String() == "":
			return false
		}
	}
	return true
}

func (s *rrset) ttl() uint32 { return binary.BigEndian.Uint32(s.rrs[0].wire[4:]) }

func (s *rrset) setTTL(ttl uint32) {
	for _, r := range s.rrs {
		binary.BigEndian.PutUint32(r.wire[4:], ttl)
	}
}

// finish checks the zone as a whole and sets what lookups follow.
func (z *zone) finish() error {
	if z.soa = z.top.get(mdns.TypeSOA); z.soa == nil || len(z.soa.rrs) != 1 {
		return fmt.Errorf("%s has no SOA record, or more than one", z.name())
	}
	if z.top.get(mdns.TypeNS) == nil {
		return fmt.Errorf("%s has no NS record", z.name())
	}
	w := bytes.Clone(z.soa.rrs[0].wire)
	z.neg = &rrset{typ: mdns.TypeSOA, rrs: []rr{{w}}, lead: z.soa.lead, comp: z.soa.comp}
	z.neg.setTTL(min(z.soa.ttl(), binary.BigEndian.Uint32(w[len(w)-4:])))

	for _, n := range z.nodes {
		z.order = append(z.order, n)
	}
	slices.SortFunc(z.order, func(a, b *node) int {
		return cmp.Or(cmp.Compare(countLabels(a.key), countLabels(b.key)), strings.Compare(a.key, b.key))
	})
	for _, n := range z.order {
		if err := z.link(n); err != nil {
			return fmt.Errorf("%s: %w", keyText(n.key), err)
		}
	}
	for _, n := range z.order {
		for _, s := range n.sets {
			z.additional(n, s)
			s.packWhole()
		}
	}
	return nil
}

// link checks a node whose parent is done and sets its cut and its redirections.
func (z *zone) link(n *node) error {
	slices.SortFunc(n.sets, func(a, b *rrset) int { return int(a.typ) - int(b.typ) })
	n.cname, n.dname = n.get(mdns.TypeCNAME), n.get(mdns.TypeDNAME)
	if n != z.top {
		p := z.nodes[n.key[1+int(n.key[0]):]]
		n.cut = p.cut
		switch {
		case p.dname != nil:
			return errors.New("is below a DNAME (RFC 6672, section 2.4)")
		case n.get(mdns.TypeSOA) != nil:
			return errors.New("a SOA is not at the zone's apex")
		case n.cut == nil && n.get(mdns.TypeNS) != nil:
			if n.cut = n; n.dname != nil {
				return errors.New("has both NS and DNAME (RFC 6672, section 2.3)")
			}
		}
	}
	for _, s := range []*rrset{n.cname, n.dname} {
		if s == nil {
			continue
		}
		if len(s.rrs) > 1 {
			return fmt.Errorf("has more than one %s", mdns.Type(s.typ))
		}
		s.tname = s.rrs[0].wire[10:]
		s.target = lower(string(s.tname))
	}
	if n.cname != nil {
		for _, s := range n.sets {
			switch s.typ { // RFC 4034, sections 3 and 4; RFC 3007
			case mdns.TypeCNAME, mdns.TypeRRSIG, mdns.TypeNSEC, mdns.TypeKEY, mdns.TypeSIG, mdns.TypeNXT:
			default:
				return fmt.Errorf("has a CNAME and %s (RFC 1034, section 3.6.2)", mdns.Type(s.typ))
			}
		}
	}
	return nil
}

func wildcard(wire string) bool { return strings.HasPrefix(wire, "\x01*") }

func (s *rrset) packWhole() {
	if s.comp > 0 {
		return
	}
	for _, r := range s.rrs {
		s.packed = append(append(s.packed, 0xc0, headerLen), r.wire...)
	}
}

// compressible says where in the RDATA of a type names begin that may be
// compressed, and how many there are.
func compressible(typ uint16) (lead, names int) {
	switch typ {
	case mdns.TypeNS, mdns.TypeCNAME, mdns.TypePTR, mdns.TypeMD, mdns.TypeMF,
		mdns.TypeMB, mdns.TypeMG, mdns.TypeMR:
		return 0, 1
	case mdns.TypeMX:
		return 2, 1
	case mdns.TypeSOA, mdns.TypeMINFO:
		return 0, 2
	}
	return 0, 0
}
