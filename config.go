package porthole

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"porthole/services"
	"porthole/services/all"
)

// Config is all that a Host is made from. Keys, defaults and comments of the YAML
// form are these tags; `porthole config` prints them.
type Config struct {
	Name     string                     `yaml:"name" doc:"name of the host; also names its control socket"`
	Zone     string                     `yaml:"zone" doc:"DNS zone the host is authoritative for"`
	DataDir  string                     `yaml:"data-dir" doc:"directory for what must survive a restart (leases, uploads); empty keeps everything in memory"`
	Link     Link                       `yaml:"link" doc:"the device and its addresses"`
	Impair   LinkSettings               `yaml:"impair" doc:"rules of a bad link for all packets, as porthole set link takes them; rate=10mbit out.delay=20ms"`
	Ports    map[services.Port]Settings `yaml:"ports" doc:"what differs from the defaults at single ports, as porthole set takes it; 53/udp: queue=64 service-delay=exp(10ms)"`
	Services map[string]*Service        `yaml:"services" doc:"what answers, by name; each has its ports and its own keys"`
}

// Link is the device and the addresses on both of its sides.
type Link struct {
	Interface    string       `yaml:"interface" doc:"name of the interface; ph0 when empty is not taken"`
	Device       string       `yaml:"device" doc:"auto, offload (Linux TUN, super-packets), water (portable, one packet a read) or tap (Ethernet, for DHCP clients)"`
	Queues       int          `yaml:"queues" doc:"reader queues of the device, 1 to 16"`
	MTU          int          `yaml:"mtu" doc:"bytes of IP in one packet, 1280 to 65520"`
	Address      netip.Prefix `yaml:"address" doc:"the host's IPv4 address and the prefix of the link"`
	Address6     netip.Prefix `yaml:"address6" doc:"the host's IPv6 address and the prefix of the link"`
	PeerAddress  Peer         `yaml:"peer-address" doc:"this machine's IPv4 address on the link; auto takes the next one, none leaves it to a DHCP client"`
	PeerAddress6 Peer         `yaml:"peer-address6" doc:"this machine's IPv6 address on the link, likewise"`
}

// Service is the configuration of one service: where it listens, and its own keys,
// which stand beside these two in YAML.
type Service struct {
	Enabled bool            `yaml:"enabled" doc:"false leaves its ports closed"`
	Ports   []services.Port `yaml:"ports" doc:"where it listens"`
	Options any             `yaml:"-"` // what services.Service.Config returned
}

// Peer is the machine's side of the link: an address, "auto" or "none".
type Peer string

// Addr resolves p against the host's own prefix: auto is the address after the
// host's own (before it, when the host has the last). ok is false for none.
func (p Peer) Addr(host netip.Prefix) (a netip.Addr, ok bool) {
	switch {
	case p == "none" || !host.IsValid():
		return netip.Addr{}, false
	case p == "auto" || p == "":
		if a = host.Addr().Next(); host.Contains(a) && a.IsValid() {
			return a, true
		}
		return host.Addr().Prev(), true
	}
	a, err := netip.ParseAddr(string(p))
	return a, err == nil
}

// DefaultConfig is the configuration of a host that was told nothing.
func DefaultConfig() Config {
	c := Config{
		Name: "porthole",
		Zone: "porthole.test",
		Link: Link{
			Interface: "ph0", Device: "auto", Queues: 1, MTU: 1500,
			Address:     netip.MustParsePrefix("10.77.0.1/24"),
			Address6:    netip.MustParsePrefix("fd77::1/64"),
			PeerAddress: "auto", PeerAddress6: "auto",
		},
		Services: map[string]*Service{},
	}
	for _, s := range all.Services() {
		sc := &Service{Enabled: true, Ports: append([]services.Port(nil), s.Ports...)}
		if s.Config != nil {
			sc.Options = s.Config()
		}
		c.Services[s.Name] = sc
	}
	return c
}

// Validate reports the first thing that is wrong, as a *services.ConfigError whose
// Key is the path in YAML ("link.mtu").
func (c *Config) Validate() error {
	bad := func(key, format string, args ...any) error {
		return &services.ConfigError{Key: key, Err: fmt.Errorf(format, args...)}
	}
	if !dnsLabel(c.Name) {
		return bad("name", "%q is no DNS label (a-z, 0-9 and -, 1 to 63 of them)", c.Name)
	}
	for _, l := range strings.Split(strings.TrimSuffix(c.Zone, "."), ".") {
		if !dnsLabel(l) {
			return bad("zone", "%q is no DNS name", c.Zone)
		}
	}
	l := &c.Link
	switch l.Device {
	case "auto", "offload", "water", "tap":
	default:
		return bad("link.device", "%q is none of auto, offload, water, tap", l.Device)
	}
	if l.Interface == "" || len(l.Interface) > 15 || strings.ContainsAny(l.Interface, "/ \t\n:%") {
		return bad("link.interface", "%q is no interface name (1 to 15 characters, no / : %% or space)", l.Interface)
	}
	if l.Queues < 1 || l.Queues > 16 {
		return bad("link.queues", "%d is not 1 to 16", l.Queues)
	}
	if l.MTU < 1280 || l.MTU > 65520 {
		return bad("link.mtu", "%d is not 1280 to 65520 (IPv6 needs 1280)", l.MTU)
	}
	if !l.Address.IsValid() && !l.Address6.IsValid() {
		return bad("link.address", "the host needs an IPv4 or an IPv6 address")
	}
	if err := hostPrefix(l.Address, true); err != nil {
		return bad("link.address", "%w", err)
	}
	if err := hostPrefix(l.Address6, false); err != nil {
		return bad("link.address6", "%w", err)
	}
	if err := peer(l.PeerAddress, l.Address); err != nil {
		return bad("link.peer-address", "%w", err)
	}
	if err := peer(l.PeerAddress6, l.Address6); err != nil {
		return bad("link.peer-address6", "%w", err)
	}
	if _, _, err := c.Impair.Rules(); err != nil {
		return bad("impair", "%w", err)
	}
	for _, p := range slices.SortedFunc(maps.Keys(c.Ports), comparePorts) {
		if p.Number == 0 || p.Proto != "tcp" && p.Proto != "udp" {
			return bad("ports", "%v is no port: want NUMBER/tcp or NUMBER/udp", p)
		}
		if err := c.Ports[p].Check(p); err != nil {
			return bad("ports."+p.String(), "%w", err)
		}
	}
	return c.validateServices(bad)
}

func (c *Config) validateServices(bad func(string, string, ...any) error) error {
	owner := map[services.Port]string{}
	for _, s := range all.Services() {
		sc := c.Services[s.Name]
		if sc == nil || !sc.Enabled {
			continue
		}
		key := "services." + s.Name
		for i, p := range sc.Ports {
			k := fmt.Sprintf("%s.ports[%d]", key, i)
			if p.Number == 0 || p.Proto != "tcp" && p.Proto != "udp" {
				return bad(k, "%v is no port: want NUMBER/tcp or NUMBER/udp", p)
			}
			if !slices.ContainsFunc(s.Ports, func(o services.Port) bool { return o.Proto == p.Proto }) {
				return bad(k, "%s has no %s port", s.Name, p.Proto)
			}
			if who := owner[p]; who != "" {
				return bad(k, "%v is already taken by %s", p, who)
			}
			owner[p] = s.Name
		}
		var err error
		if v, ok := sc.Options.(interface{ Validate() error }); ok {
			err = v.Validate()
		}
		if v, ok := sc.Options.(interface{ ValidateData(dir string) error }); ok && err == nil {
			err = v.ValidateData(c.DataDir)
		}
		if err != nil {
			var ce *services.ConfigError
			if errors.As(err, &ce) {
				return &services.ConfigError{Key: key + "." + ce.Key, Err: ce.Err}
			}
			return &services.ConfigError{Key: key, Err: err}
		}
	}
	for name := range c.Services {
		if _, ok := all.Lookup(name); !ok {
			return bad("services."+name, "no such service; there are %s", strings.Join(all.Names(), ", "))
		}
	}
	return nil
}

func dnsLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
			return false
		}
	}
	return true
}

// hostPrefix accepts an invalid (absent) prefix and any that leaves room for a peer.
func hostPrefix(p netip.Prefix, v4 bool) error {
	if !p.IsValid() {
		return nil
	}
	a := p.Addr()
	switch {
	case a.Is4() != v4:
		return fmt.Errorf("%v is of the wrong family", p)
	case p.IsSingleIP():
		return fmt.Errorf("%v leaves no address for this machine; use a shorter prefix", p)
	case a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || v4 && a.As4()[0] >= 240:
		return fmt.Errorf("%v is no unicast address that a host can have", a)
	case a == p.Masked().Addr() && p.Bits() < a.BitLen()-1:
		return fmt.Errorf("%v is the network's own address", p)
	case isBroadcast(a, p):
		return fmt.Errorf("%v is the network's broadcast address", p)
	}
	return nil
}

// isBroadcast reports whether a is the last address of an IPv4 link, which all of
// it listen to; a link of two addresses has none (RFC 3021).
func isBroadcast(a netip.Addr, link netip.Prefix) bool {
	return a.Is4() && link.Bits() < 31 && !link.Contains(a.Next())
}

func peer(p Peer, host netip.Prefix) error {
	if p == "auto" || p == "none" || p == "" || !host.IsValid() {
		return nil
	}
	a, err := netip.ParseAddr(string(p))
	switch {
	case err != nil:
		return fmt.Errorf("%q is neither an address, auto nor none", string(p))
	case !host.Contains(a):
		return fmt.Errorf("%v is not in %v", a, host.Masked())
	case a == host.Addr():
		return fmt.Errorf("%v is the host's own address", a)
	case a == host.Masked().Addr() && host.Bits() < a.BitLen()-1:
		return fmt.Errorf("%v is the network's own address", a)
	case isBroadcast(a, host):
		return fmt.Errorf("%v is the network's broadcast address", a)
	}
	return nil
}
