package dhcp

import (
	"encoding/hex"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"
	"time"

	"porthole/services"
)

// Config is the service's part of the host's configuration.
type Config struct {
	Pool         []Range       `yaml:"pool" doc:"addresses to hand out, each FIRST-LAST or one address; empty takes the link's prefix but its network, broadcast, host and peer addresses"`
	LeaseTime    time.Duration `yaml:"lease-time" doc:"how long a lease lasts when the client asks for no time of its own"`
	MinLeaseTime time.Duration `yaml:"min-lease-time" doc:"shortest lease that a client may ask for"`
	MaxLeaseTime time.Duration `yaml:"max-lease-time" doc:"longest lease that a client may ask for"`
	OfferTime    time.Duration `yaml:"offer-time" doc:"how long an offered address is kept for the client's request"`
	DeclineTime  time.Duration `yaml:"decline-time" doc:"how long an address that a client found in use stays out of the pool"`
	MaxLeases    int           `yaml:"max-leases" doc:"most addresses in use or remembered per subnet; a larger pool is used up to this"`
	// Authoritative is whether NAKs go to clients this server has never seen.
	Authoritative bool          `yaml:"authoritative" doc:"tell an unknown client that its address is wrong for this link (DHCPNAK); false keeps silent"`
	RapidCommit   bool          `yaml:"rapid-commit" doc:"answer a discover that asks for it with a lease at once (RFC 4039)"`
	SyncInterval  time.Duration `yaml:"sync-interval" doc:"with a data directory: 0 has every lease on the disk before its ACK leaves (many share one write); longer is faster, and a power loss may cost the lease file"`
	Options       Options       `yaml:"options" doc:"what clients are told beside their address"`
	Static        []Static      `yaml:"static" doc:"addresses reserved for known clients: client-id or mac, address, hostname"`
	Subnets       []Subnet      `yaml:"subnets" doc:"links behind relay agents: prefix, pool, router"`
}

// Options are the parameters that clients get when they ask for them.
type Options struct {
	Router string       `yaml:"router" doc:"default router: auto (the host; behind a relay, the relay), none or an address"`
	DNS    []netip.Addr `yaml:"dns" doc:"DNS servers; empty names the host while it serves 53/udp"`
	Domain string       `yaml:"domain" doc:"domain name: auto (the host's zone), none or a name"`
	Search []string     `yaml:"search" doc:"domain search list (RFC 3397)"`
	MTU    int          `yaml:"mtu" doc:"interface MTU, 68 to 65535; 0 is the link's own, -1 leaves it out"`
}

// Static reserves an address for one client.
type Static struct {
	ClientID ClientID   `yaml:"client-id" doc:"option 61: hex bytes with colons (01:02:aa), else the text itself"`
	MAC      MAC        `yaml:"mac" doc:"Ethernet address, when client-id is empty; whatever client identifier comes with it"`
	Address  netip.Addr `yaml:"address" doc:"the address it gets"`
	Hostname string     `yaml:"hostname" doc:"the name it is told (option 12), if any"`
}

// Subnet is one link behind a relay agent.
type Subnet struct {
	Prefix netip.Prefix `yaml:"prefix" doc:"the link's prefix"`
	Pool   []Range      `yaml:"pool" doc:"addresses to hand out there; empty takes the whole prefix"`
	Router string       `yaml:"router" doc:"default router there: auto (the relay), none or an address"`
}

// defaults is services.Service.Config.
func defaults() any {
	return &Config{
		LeaseTime: time.Hour, MinLeaseTime: time.Minute, MaxLeaseTime: 24 * time.Hour,
		OfferTime: 30 * time.Second, DeclineTime: 10 * time.Minute,
		MaxLeases: 65536, Authoritative: true,
		Options: Options{Router: "auto", Domain: "auto"},
	}
}

// maxLease keeps below 0xffffffff seconds, which means for ever (RFC 2131, 3.3).
const maxLease = (math.MaxUint32 - 1) * time.Second

// Validate points at the first wrong key. What depends on the link (is a static
// address inside it?) is checked when the service starts.
func (c *Config) Validate() error {
	bad := func(key, format string, args ...any) error {
		return &services.ConfigError{Key: key, Err: fmt.Errorf(format, args...)}
	}
	switch {
	case c.MinLeaseTime < time.Second || c.MinLeaseTime > maxLease:
		return bad("min-lease-time", "%v is not 1s to %v", c.MinLeaseTime, maxLease)
	case c.MaxLeaseTime < c.MinLeaseTime || c.MaxLeaseTime > maxLease:
		return bad("max-lease-time", "%v is not min-lease-time (%v) to %v", c.MaxLeaseTime, c.MinLeaseTime, maxLease)
	case c.LeaseTime < c.MinLeaseTime || c.LeaseTime > c.MaxLeaseTime:
		return bad("lease-time", "%v is not between min-lease-time (%v) and max-lease-time (%v)", c.LeaseTime, c.MinLeaseTime, c.MaxLeaseTime)
	case c.OfferTime < time.Second || c.OfferTime > time.Hour:
		return bad("offer-time", "%v is not 1s to 1h", c.OfferTime)
	case c.DeclineTime < time.Second || c.DeclineTime > 30*24*time.Hour:
		return bad("decline-time", "%v is not 1s to 720h", c.DeclineTime)
	case c.MaxLeases < 1 || c.MaxLeases > 1<<20:
		return bad("max-leases", "%d is not 1 to %d", c.MaxLeases, 1<<20)
	case c.SyncInterval < 0 || c.SyncInterval > time.Hour:
		return bad("sync-interval", "%v is not 0 to 1h", c.SyncInterval)
	}
	if err := validRanges("pool", c.Pool); err != nil {
		return err
	}
	if err := c.Options.validate(); err != nil {
		return err
	}
	if err := validStatic(c.Static); err != nil {
		return err
	}
	if len(c.Subnets) > 64 {
		return bad("subnets", "%d of them; 64 at most", len(c.Subnets))
	}
	for i, n := range c.Subnets {
		key := fmt.Sprintf("subnets[%d]", i)
		if !n.Prefix.IsValid() || !n.Prefix.Addr().Is4() || n.Prefix.Bits() < 1 || n.Prefix.Bits() > 30 {
			return bad(key+".prefix", "%v is no IPv4 prefix of 1 to 30 bits", n.Prefix)
		}
		for j, m := range c.Subnets[:i] {
			if n.Prefix.Overlaps(m.Prefix) {
				return bad(key+".prefix", "%v overlaps subnets[%d], %v", n.Prefix, j, m.Prefix)
			}
		}
		if err := validRanges(key+".pool", n.Pool); err != nil {
			return err
		}
		for j, r := range n.Pool {
			if !n.Prefix.Contains(r.First) || !n.Prefix.Contains(r.Last) {
				return bad(fmt.Sprintf("%s.pool[%d]", key, j), "%v is not inside %v", r, n.Prefix)
			}
		}
		if _, err := choice(n.Router); err != nil {
			return bad(key+".router", "%w", err)
		}
	}
	return nil
}

func (o *Options) validate() error {
	bad := func(key, format string, args ...any) error {
		return &services.ConfigError{Key: "options." + key, Err: fmt.Errorf(format, args...)}
	}
	if _, err := choice(o.Router); err != nil {
		return bad("router", "%w", err)
	}
	if len(o.DNS) > 8 {
		return bad("dns", "%d servers; 8 at most", len(o.DNS))
	}
	for i, a := range o.DNS {
		if !a.Is4() {
			return bad(fmt.Sprintf("dns[%d]", i), "%v is no IPv4 address", a)
		}
	}
	if o.Domain != "auto" && o.Domain != "none" && o.Domain != "" && !dnsName(o.Domain) {
		return bad("domain", "%q is neither auto, none nor a DNS name", o.Domain)
	}
	if len(o.Search) > 8 {
		return bad("search", "%d names; 8 at most", len(o.Search))
	}
	for i, n := range o.Search {
		if !dnsName(n) {
			return bad(fmt.Sprintf("search[%d]", i), "%q is no DNS name", n)
		}
	}
	if o.MTU != 0 && o.MTU != -1 && (o.MTU < 68 || o.MTU > 65535) {
		return bad("mtu", "%d is not 68 to 65535 (0: the link's, -1: none)", o.MTU)
	}
	return nil
}

func validStatic(list []Static) error {
	seen := map[string]int{}
	for i, st := range list {
		bad := func(key, format string, args ...any) error {
			return &services.ConfigError{Key: fmt.Sprintf("static[%d]%s", i, key), Err: fmt.Errorf(format, args...)}
		}
		if (st.ClientID == "") == (st.MAC == "") {
			return bad("", "needs a client-id or a mac, and not both")
		}
		if len(st.ClientID) > maxClientID {
			return bad(".client-id", "%d bytes; %d at most", len(st.ClientID), maxClientID)
		}
		if !st.Address.Is4() {
			return bad(".address", "%v is no IPv4 address", st.Address)
		}
		if st.Hostname != "" && !dnsName(st.Hostname) {
			return bad(".hostname", "%q is no host name", st.Hostname)
		}
		for key, what := range map[string]string{
			".address":   "address " + st.Address.String(),
			".client-id": "client-id " + string(st.ClientID),
			".mac":       "mac " + string(st.MAC),
		} {
			if strings.HasSuffix(what, " ") {
				continue
			}
			if j, twice := seen[what]; twice {
				return bad(key, "is the same as in static[%d]", j)
			}
			seen[what] = i
		}
	}
	return nil
}

func validRanges(key string, list []Range) error {
	for i, r := range list {
		k := fmt.Sprintf("%s[%d]", key, i)
		if !r.First.Is4() || !r.Last.Is4() || r.Last.Less(r.First) {
			return &services.ConfigError{Key: k, Err: fmt.Errorf("%v is no range of IPv4 addresses", r)}
		}
		for j, o := range list[:i] {
			if !r.Last.Less(o.First) && !o.Last.Less(r.First) {
				return &services.ConfigError{Key: k, Err: fmt.Errorf("%v overlaps %s[%d], %v", r, key, j, o)}
			}
		}
	}
	return nil
}

// choice reads "auto" (and ""), "none" or an address. An invalid address without
// error is auto; an unspecified one is none.
func choice(s string) (netip.Addr, error) {
	switch s {
	case "auto", "":
		return netip.Addr{}, nil
	case "none":
		return netip.IPv4Unspecified(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() || a.IsUnspecified() {
		return a, fmt.Errorf("%q is neither auto, none nor an IPv4 address", s)
	}
	return a, nil
}

func dnsName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return false
	}
	for _, l := range strings.Split(s, ".") {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
		for _, r := range l {
			if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' {
				return false
			}
		}
	}
	return true
}

// Range is a run of addresses, both ends included. Its text is FIRST-LAST, or
// the address when it holds one.
type Range struct{ First, Last netip.Addr }

func (r Range) String() string {
	if r.First == r.Last {
		return r.First.String()
	}
	return r.First.String() + "-" + r.Last.String()
}

// MarshalText gives FIRST-LAST.
func (r Range) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText takes FIRST-LAST or one address.
func (r *Range) UnmarshalText(b []byte) error {
	first, last, two := strings.Cut(string(b), "-")
	if !two {
		last = first
	}
	var err error
	if r.First, err = netip.ParseAddr(strings.TrimSpace(first)); err == nil {
		r.Last, err = netip.ParseAddr(strings.TrimSpace(last))
	}
	if err != nil {
		return fmt.Errorf("range %q: want FIRST-LAST or one address, such as 10.77.0.10-10.77.0.99", b)
	}
	return nil
}

// ClientID is the bytes of option 61. Its text is hex pairs with colons, or the
// bytes themselves where they do not look like that.
type ClientID string

// MarshalText gives hex pairs with colons.
func (c ClientID) MarshalText() ([]byte, error) { return []byte(colons([]byte(c))), nil }

// UnmarshalText takes both forms.
func (c *ClientID) UnmarshalText(b []byte) error {
	pairs := strings.Split(string(b), ":")
	var raw []byte
	for _, p := range pairs {
		x, err := hex.DecodeString(p)
		if err != nil || len(x) != 1 {
			*c = ClientID(b)
			return nil
		}
		raw = append(raw, x[0])
	}
	*c = ClientID(raw)
	return nil
}

// MAC is the six bytes of an Ethernet address. Its text is aa:bb:cc:dd:ee:ff.
type MAC string

// MarshalText gives aa:bb:cc:dd:ee:ff.
func (m MAC) MarshalText() ([]byte, error) { return []byte(colons([]byte(m))), nil }

// UnmarshalText takes what net.ParseMAC takes, six bytes of it; empty is none.
func (m *MAC) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*m = ""
		return nil
	}
	hw, err := net.ParseMAC(string(b))
	if err != nil || len(hw) != 6 {
		return fmt.Errorf("mac %q: want six bytes, such as 02:00:5e:10:00:01", b)
	}
	*m = MAC(hw)
	return nil
}

func colons(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	return net.HardwareAddr(b).String()
}
