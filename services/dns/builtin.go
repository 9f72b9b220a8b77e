package dns

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	mdns "github.com/miekg/dns"

	"porthole/services"
)

// The built-in zone is written as a master file and read like any other: the
// host's own names, a name and SRV records for each service of the port table, and
// a test area, names that show a client each kind of answer there is. What the test
// area holds is said by the zone itself: ask TXT help.ZONE.

// serviceName is a service and where it listens, for its names in the zone.
type serviceName struct {
	name string // a DNS label
	tcp  []uint16
	udp  []uint16
}

func (s serviceName) equal(o serviceName) bool {
	return s.name == o.name && slices.Equal(s.tcp, o.tcp) && slices.Equal(s.udp, o.udp)
}

const (
	maxServices = 1024 // services that get names
	maxSRV      = 16   // SRV records of one service and protocol
	// Ports from here up are taken for passing ones (FTP's passive data ports, an
	// ephemeral socket) and get no SRV record, unless they are a service's lowest.
	passing = 10000
)

// namesOf lists the services of the port table, in order of name.
func namesOf(env *services.Env) []serviceName {
	if env.Ports == nil {
		return nil
	}
	by := map[string]*serviceName{}
	for _, p := range env.Ports() {
		label := strings.ToLower(p.Service)
		s := by[label]
		if s == nil {
			if !plainLabel(label) || len(by) == maxServices {
				continue
			}
			s = &serviceName{name: label}
			by[label] = s
		}
		if p.Port.Proto == "udp" {
			s.udp = append(s.udp, p.Port.Number)
		} else {
			s.tcp = append(s.tcp, p.Port.Number)
		}
	}
	var out []serviceName
	for _, s := range by {
		s.tcp, s.udp = srvPorts(s.tcp), srvPorts(s.udp)
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b serviceName) int { return cmp.Compare(a.name, b.name) })
	return out
}

func srvPorts(ps []uint16) []uint16 {
	slices.Sort(ps)
	ps = slices.Compact(ps)
	for i, p := range ps {
		if i > 0 && p >= passing || i == maxSRV {
			return ps[:i:i]
		}
	}
	return ps
}

// ianaName gives the registered SRV name of a service that is called otherwise here.
var ianaName = map[string]string{"dns": "domain", "dhcp": "bootps"}

func plainLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// master collects a master file. Names that would be too long are left out.
type master struct {
	strings.Builder
	origin string
	taken  map[string]bool // names whose records are complete: nothing may be added
}

func (m *master) rr(owner, format string, args ...any) {
	full := owner + "." + m.origin
	if owner == "@" {
		full = m.origin
	}
	if _, ok := mdns.IsDomainName(full); !ok || m.taken[strings.ToLower(owner)] {
		return
	}
	fmt.Fprintf(m, "%s IN %s\n", owner, fmt.Sprintf(format, args...))
}

func (m *master) address(owner string, addrs ...netip.Addr) {
	for _, a := range addrs {
		switch {
		case !a.IsValid():
		case a.Is4() || a.Is4In6():
			m.rr(owner, "A %v", a.Unmap())
		default:
			m.rr(owner, "AAAA %v", a.WithZone(""))
		}
	}
}

func (m *master) zone() (*zone, error) {
	zp := mdns.NewZoneParser(strings.NewReader(m.String()), m.origin, "built-in zone")
	return readZone(zp, m.origin)
}

func newMaster(origin string, h services.Host, ttl time.Duration, serial uint32) *master {
	m := &master{origin: mdns.Fqdn(origin), taken: map[string]bool{}}
	zone := mdns.Fqdn(h.Zone)
	fmt.Fprintf(m, "$TTL %d\n", int(ttl/time.Second))
	m.rr("@", "SOA ns.%s hostmaster.%s %d 3600 600 86400 %d", zone, zone, serial, min(int(ttl/time.Second), 3600))
	m.rr("@", "NS ns.%s", zone)
	return m
}

// builtinZones makes the host's zone and the reverse zones of its link.
func builtinZones(h services.Host, names []serviceName, ttl time.Duration, serial uint32) ([]*zone, error) {
	m := newMaster(h.Zone, h, ttl, serial)
	own := []netip.Addr{h.Addr4.Addr(), h.Addr6.Addr()}
	m.rr("@", "MX 10 mail")
	m.rr("@", `TXT "porthole %s, a virtual host" "names to try: TXT help.%s"`, quoted(h.Version), m.origin)
	m.testArea(own)
	for _, n := range []string{"@", "ns", "mail", "www", h.Name} {
		m.address(n, own...)
	}
	m.address("peer", h.Peer4, h.Peer6)
	for _, s := range names {
		if m.taken[s.name] {
			continue
		}
		m.address(s.name, own...)
		labels := []string{s.name}
		if iana := ianaName[s.name]; iana != "" {
			labels = append(labels, iana)
		}
		for _, l := range labels {
			for _, p := range s.tcp {
				m.rr("_"+l+"._tcp", "SRV 0 0 %d %s", p, s.name)
			}
			for _, p := range s.udp {
				m.rr("_"+l+"._udp", "SRV 0 0 %d %s", p, s.name)
			}
		}
	}
	z, err := m.zone()
	if err != nil {
		return nil, err
	}
	zones := []*zone{z}
	for _, p := range []netip.Prefix{h.Addr4, h.Addr6} {
		if !p.IsValid() {
			continue
		}
		rev, err := reverseZones(p, h, ttl, serial)
		if err != nil {
			return nil, err
		}
		zones = append(zones, rev...)
	}
	return zones, nil
}

// reverseZones cuts a prefix at the next label: 10.77.0.0/24 is one zone, a /20 is
// sixteen, and a /30 is four zones of one address each, so that the host never
// claims an address outside its link. There are at most 128.
func reverseZones(p netip.Prefix, h services.Host, ttl time.Duration, serial uint32) ([]*zone, error) {
	step := 8 // bits of one label
	if p.Addr().Is6() {
		step = 4
	}
	bits := (p.Bits() + step - 1) / step * step
	ptr := map[string]string{}
	add := func(a netip.Addr, name string) {
		if a.IsValid() && a.BitLen() == p.Addr().BitLen() {
			ptr[reverseName(a, a.BitLen(), step)] = name + "." + mdns.Fqdn(h.Zone)
		}
	}
	add(h.Peer4, "peer")
	add(h.Peer6, "peer")
	add(h.Addr4.Addr(), h.Name) // after peer: the host's own name wins
	add(h.Addr6.Addr(), h.Name)

	var zones []*zone
	base := p.Masked().Addr().AsSlice()
	for i := range 1 << (bits - p.Bits()) {
		b := slices.Clone(base)
		if bits > 0 {
			at := (bits - 1) / 8
			b[at] += byte(i << (8*(at+1) - bits))
		}
		a, _ := netip.AddrFromSlice(b)
		origin := reverseName(a, bits, step)
		m := newMaster(origin, h, ttl, serial)
		for name, target := range ptr {
			if name == origin {
				m.rr("@", "PTR %s", target)
			} else if owner, ok := strings.CutSuffix(name, "."+origin); ok {
				m.rr(owner, "PTR %s", target)
			}
		}
		z, err := m.zone()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", origin, err)
		}
		zones = append(zones, z)
	}
	return zones, nil
}

// reverseName is the name of the first bits of an address (RFC 1035, section 3.5;
// RFC 3596, section 2.5).
func reverseName(a netip.Addr, bits, step int) string {
	var labels []string
	if step == 8 {
		for _, o := range a.AsSlice()[:bits/8] {
			labels = append(labels, fmt.Sprint(o))
		}
		slices.Reverse(labels)
		return strings.Join(append(labels, "in-addr.arpa."), ".")
	}
	for _, c := range hex.EncodeToString(a.AsSlice())[:bits/4] {
		labels = append(labels, string(c))
	}
	slices.Reverse(labels)
	return strings.Join(append(labels, "ip6.arpa."), ".")
}

// quoted makes s safe inside a quoted string of a master file.
func quoted(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			fmt.Fprintf(&b, "\\%03d", c)
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}
