package dhcp

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/rfc1035label"

	"porthole/services"
)

// A server decides what each message leads to. handle is a function of the
// message, the time and the leases, and neither waits nor sends: the caller holds
// mu over handle and over queueing the changes it returns, so that they reach the
// disk in the order in which they were decided, then sends the reply.
type server struct {
	cfg      *Config
	log      *slog.Logger
	ports    func() []services.PortInfo
	self     netip.Addr // the host: server identifier
	maxBytes int        // of an IP packet
	ethernet bool

	domain, search, mtu []byte // option values; nil leaves them out
	dnsFixed, dnsSelf   []byte
	staticID            map[ClientID]int // into cfg.Static
	staticMAC           map[MAC]int

	mu      sync.Mutex
	subnets []*subnet // the host's own link first
	dnsAt   time.Time // when dnsOn was last looked up
	dnsOn   bool      // the host serves 53/udp
	warned  time.Time // of the last "no free address" warning
}

// subnet is a link: a pool and what its clients are told of it.
type subnet struct {
	pool            *pool
	mask, broadcast []byte
	router          []byte // nil for none
	routerAuto      bool   // behind a relay, the relay is the router
}

func newServer(env *services.Env, cfg *Config) (*server, error) {
	h := env.Host
	s := &server{
		cfg: cfg, log: env.Log, ports: env.Ports,
		self: h.Addr4.Addr(), maxBytes: h.MTU, ethernet: h.Ethernet(),
		staticID: map[ClientID]int{}, staticMAC: map[MAC]int{},
		dnsSelf: h.Addr4.Addr().AsSlice(),
	}
	o := cfg.Options
	switch o.Domain {
	case "auto", "":
		s.domain = []byte(strings.TrimSuffix(h.Zone, "."))
	case "none":
	default:
		s.domain = []byte(strings.TrimSuffix(o.Domain, "."))
	}
	if len(o.Search) > 0 {
		s.search = (&rfc1035label.Labels{Labels: o.Search}).ToBytes()
	}
	if mtu := o.MTU; mtu >= 0 {
		if mtu == 0 {
			mtu = h.MTU
		}
		s.mtu = []byte{byte(mtu >> 8), byte(mtu)}
	}
	for _, a := range o.DNS {
		s.dnsFixed = append(s.dnsFixed, a.AsSlice()...)
	}
	for i, st := range cfg.Static {
		if st.ClientID != "" {
			s.staticID[st.ClientID] = i
		} else {
			s.staticMAC[st.MAC] = i
		}
	}

	for i, r := range cfg.Pool {
		if !h.Addr4.Contains(r.First) || !h.Addr4.Contains(r.Last) {
			return nil, keyError(fmt.Sprintf("pool[%d]", i), "%v is not inside the link's prefix, %v", r, h.Addr4.Masked())
		}
	}
	s.addSubnet(h.Addr4, cfg.Pool, o.Router, h.Peer4)
	for i, n := range cfg.Subnets {
		if n.Prefix.Overlaps(h.Addr4) {
			return nil, keyError(fmt.Sprintf("subnets[%d].prefix", i), "%v overlaps the host's own link, %v", n.Prefix, h.Addr4.Masked())
		}
		s.addSubnet(n.Prefix, n.Pool, n.Router, netip.Addr{})
	}
	for i, st := range cfg.Static {
		n := s.containing(st.Address)
		if n == nil || st.Address == s.self {
			return nil, keyError(fmt.Sprintf("static[%d].address", i), "%v is not a client's address on any link of this server", st.Address)
		}
		n.pool.reserved[st.Address] = true
	}
	return s, nil
}

func keyError(key, format string, args ...any) error {
	return &services.ConfigError{Key: key, Err: fmt.Errorf(format, args...)}
}

func (s *server) addSubnet(prefix netip.Prefix, ranges []Range, router string, peer netip.Addr) {
	reserved := []netip.Addr{s.self}
	if peer.IsValid() {
		reserved = append(reserved, peer)
	}
	for _, st := range s.cfg.Static {
		if prefix.Contains(st.Address) {
			reserved = append(reserved, st.Address)
		}
	}
	bits := ^uint32(0) << (32 - prefix.Bits())
	n := &subnet{
		pool:      newPool(prefix, ranges, reserved, s.cfg.MaxLeases),
		mask:      []byte{byte(bits >> 24), byte(bits >> 16), byte(bits >> 8), byte(bits)},
		broadcast: lastAddr(prefix).AsSlice(),
	}
	switch a, _ := choice(router); { // checked by Validate
	case !a.IsValid():
		n.routerAuto = true
		if prefix.Contains(s.self) {
			n.router = s.self.AsSlice()
		}
	case !a.IsUnspecified():
		n.router = a.AsSlice()
	}
	s.subnets = append(s.subnets, n)
}

// handle is the whole protocol: one datagram in, what it leads to out.
func (s *server) handle(q []byte, from netip.AddrPort, now time.Time) answer {
	r, err := parse(q, from, s.maxBytes)
	a := answer{request: "malformed"}
	if r != nil {
		a.request, a.client = named(r.kind), r.client()
	}
	if err != nil {
		a.result = err.Error()
		return a
	}
	if s.asksPorts(now) {
		s.dnsAt, s.dnsOn = now, s.serves53()
	}
	n := s.subnetOf(r)
	if n == nil {
		a.result = "no pool for this link"
		return a
	}
	if r.giaddr.IsValid() {
		n.pool.relayAt(r.giaddr)
	}
	switch r.kind {
	case dhcpv4.MessageTypeDiscover:
		s.discover(&a, r, n, now)
	case dhcpv4.MessageTypeRequest:
		s.request(&a, r, n, now)
	case dhcpv4.MessageTypeDecline:
		s.decline(&a, r, n, now)
	case dhcpv4.MessageTypeRelease:
		s.release(&a, r, n, now)
	case dhcpv4.MessageTypeInform:
		s.inform(&a, r, n)
	}
	return a
}

// discover offers an address (4.3.1), or commits it at once where both sides want
// that (RFC 4039).
func (s *server) discover(a *answer, r *request, n *subnet, now time.Time) {
	key := s.key(a, r, n, now)
	b := n.pool.offer(key, r.want, s.leaseTime(r, nil), s.cfg.OfferTime, now)
	if b == nil {
		a.result = "no free address"
		if now.Sub(s.warned).Abs() >= time.Minute {
			s.warned = now
			a.warning = []any{"no free address", "subnet", n.pool.prefix, "client", a.client}
		}
		return
	}
	a.addr = b.addr
	if _, rapid := r.has(rapidCommit); rapid && s.cfg.RapidCommit {
		s.ack(a, r, n, n.pool.bind(key, b.addr, b.lease, now))
		return
	}
	s.send(a, r, dhcpv4.MessageTypeOffer, n, b)
}

// request is DHCPREQUEST in its four meanings (4.3.2): with a server identifier
// the client has chosen among offers; with a requested address it has rebooted;
// with ciaddr it renews or rebinds.
func (s *server) request(a *answer, r *request, n *subnet, now time.Time) {
	key := s.key(a, r, n, now)
	addr, selecting := r.want, r.serverID.IsValid()
	if selecting && r.serverID != s.identifier(r) {
		if b := n.pool.held(key); b != nil && b.state == offered {
			n.pool.release(b, now)
		}
		a.result = "client chose server " + r.serverID.String()
		return
	}
	if r.ciaddr.IsValid() && !(selecting && addr.IsValid()) {
		addr, selecting = r.ciaddr, false
	}
	if a.addr = addr; !addr.IsValid() {
		a.result = "names no address"
		return
	}
	if r.anonymous && !selecting {
		key = n.pool.adopt(key, addr)
	}
	b := n.pool.held(key)
	inside := n.pool.prefix.Contains(addr)
	switch {
	case inside && b != nil && b.addr == addr:
		// The record matches; an ended lease may start again, since nobody else has it.
	case inside && b == nil && !selecting && !(r.ciaddr.IsValid() && s.cfg.Authoritative && n.pool.taken(addr, now)):
		a.result = "unknown client" // it has another server, perhaps: MUST remain silent
		return
	case selecting && (b == nil || b.ended(now)) && n.pool.free(addr, now):
		// Its offer ended, or was made before a restart; the address is still free.
	case b == nil && !s.cfg.Authoritative:
		a.result = "unknown client"
		return
	default:
		s.send(a, r, dhcpv4.MessageTypeNak, n, nil)
		return
	}
	if b = n.pool.bind(key, addr, s.leaseTime(r, b), now); b == nil {
		s.send(a, r, dhcpv4.MessageTypeNak, n, nil)
		return
	}
	s.ack(a, r, n, b)
}

// decline quarantines an address that the client found in use (4.3.3).
func (s *server) decline(a *answer, r *request, n *subnet, now time.Time) {
	a.addr = r.want
	if b := s.owned(a, r, n, r.want, now); b != nil {
		n.pool.decline(b, s.cfg.DeclineTime, now)
		a.result = "quarantined"
		a.changes = append(a.changes, put(b))
		a.warning = []any{"address in use by somebody else", "address", b.addr, "client", a.client, "until", b.until}
	}
}

// release ends a lease; the address stays the client's until another needs it (4.3.4).
func (s *server) release(a *answer, r *request, n *subnet, now time.Time) {
	a.addr = r.ciaddr
	if b := s.owned(a, r, n, r.ciaddr, now); b != nil {
		n.pool.release(b, now)
		a.result = "released"
		a.changes = append(a.changes, del(b.addr))
	}
}

// owned is the running lease or offer that a release or decline is about, or nil
// with the reason in the result.
func (s *server) owned(a *answer, r *request, n *subnet, addr netip.Addr, now time.Time) *binding {
	if r.serverID.IsValid() && r.serverID != s.identifier(r) {
		a.result = "meant for server " + r.serverID.String()
		return nil
	}
	key := s.identity(r, n)
	if r.anonymous {
		key = n.pool.adopt(key, addr)
	}
	b := n.pool.held(key)
	if b == nil || b.addr != addr || b.ended(now) {
		a.result = "not this client's address"
		return nil
	}
	return b
}

// inform answers a client that has an address of its own with the parameters: no
// lease, no yiaddr (4.3.5).
func (s *server) inform(a *answer, r *request, n *subnet) {
	if !r.ciaddr.IsValid() && unicast(r.from.Addr()) {
		r.ciaddr = r.from.Addr() // some clients leave the field empty
	}
	a.addr = r.ciaddr
	p := n.pool.prefix
	if !p.Contains(r.ciaddr) || p.Bits() < 31 && (r.ciaddr == p.Addr() || r.ciaddr == lastAddr(p)) {
		a.result = "not an address of this link"
		return
	}
	s.send(a, r, dhcpv4.MessageTypeAck, n, nil)
}

// names are of the kinds of RFC 2132, 9.6.
var names = func() (n [9]string) {
	for i := range n {
		n[i] = "DHCP" + dhcpv4.MessageType(i).String()
	}
	return n
}()

// named is how a kind of message is called in logs.
func named(kind dhcpv4.MessageType) string {
	if int(kind) < len(names) {
		return names[kind]
	}
	return "DHCP" + kind.String()
}

func (s *server) ack(a *answer, r *request, n *subnet, b *binding) {
	a.changes = append(a.changes, put(b))
	s.send(a, r, dhcpv4.MessageTypeAck, n, b)
}

func (s *server) send(a *answer, r *request, kind dhcpv4.MessageType, n *subnet, b *binding) {
	a.result = named(kind)
	a.payload = s.reply(r, kind, n, b)
	s.destine(a, r, kind, b)
}

// identity is the client's key on this subnet. A reservation is the client's name
// where there is one, so that a machine known by its MAC keeps one address under
// whatever client identifier its systems send.
func (s *server) identity(r *request, n *subnet) string {
	if i, ok := s.staticFor(r, n); ok {
		return static + s.cfg.Static[i].Address.String()
	}
	return r.key
}

// key is identity, with the reservation's address made the client's. While that
// address is declined, the client is served from the pool.
func (s *server) key(a *answer, r *request, n *subnet, now time.Time) string {
	key := s.identity(r, n)
	if strings.HasPrefix(key, static) {
		i, _ := s.staticFor(r, n)
		was := n.pool.held(key)
		if b := n.pool.reserve(key, s.cfg.Static[i].Address, now); b != nil && was != nil && was != b {
			a.changes = append(a.changes, del(was.addr))
		}
	}
	return key
}

func (s *server) staticFor(r *request, n *subnet) (int, bool) {
	i, ok := s.staticID[ClientID(r.clientID)]
	if !ok || len(r.clientID) == 0 {
		i, ok = s.staticMAC[r.mac]
	}
	return i, ok && n.pool.prefix.Contains(s.cfg.Static[i].Address)
}

// leaseTime is what the client asks for within bounds, or what it was offered, or
// the default.
func (s *server) leaseTime(r *request, b *binding) time.Duration {
	switch {
	case r.lease != 0:
		return min(max(r.lease, s.cfg.MinLeaseTime), s.cfg.MaxLeaseTime)
	case b != nil && b.state == offered && b.lease != 0:
		return b.lease
	}
	return s.cfg.LeaseTime
}

// identifier is the server identifier that this client knows: ours, or the relay's
// where it stands in for us (RFC 5107).
func (s *server) identifier(r *request) netip.Addr {
	if r.serverOverride.IsValid() {
		return r.serverOverride
	}
	return s.self
}

// subnetOf is the link the client is on: the one the relay names, the relay's own,
// the one of the address the client has, ours.
func (s *server) subnetOf(r *request) *subnet {
	switch {
	case r.linkSelect.IsValid():
		return s.containing(r.linkSelect)
	case r.giaddr.IsValid():
		return s.containing(r.giaddr)
	case r.ciaddr.IsValid():
		if n := s.containing(r.ciaddr); n != nil {
			return n
		}
	}
	return s.subnets[0]
}

func (s *server) containing(a netip.Addr) *subnet {
	for _, n := range s.subnets {
		if n.pool.prefix.Contains(a) {
			return n
		}
	}
	return nil
}

// dns is the value of option 6: what is configured, or the host while it serves names.
func (s *server) dns() []byte {
	if s.dnsFixed == nil && s.dnsOn {
		return s.dnsSelf
	}
	return s.dnsFixed
}

// asksPorts reports whether handle will look the port table over.
func (s *server) asksPorts(now time.Time) bool {
	return s.dnsFixed == nil && now.Sub(s.dnsAt).Abs() > 5*time.Second
}

func (s *server) serves53() bool {
	if s.ports == nil {
		return false
	}
	for _, p := range s.ports() {
		if p.Port == services.UDP(53) {
			return true
		}
	}
	return false
}
