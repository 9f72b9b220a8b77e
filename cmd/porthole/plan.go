package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"

	"porthole"
	"porthole/cmd/porthole/internal/config"
	"porthole/tun"
)

// plan is what `up` is about to do to the machine: one interface, its addresses.
type plan struct {
	cfg    porthole.Config
	open   tun.Options
	notes  []string // what differs from the defaults, and why
	socket string
	api    string // where else the API is, with the way to its token
}

// routes are the questions that a plan asks of the machine; tests have their own.
type routes struct {
	overlap func(netip.Prefix) (string, bool, error)
	free    func(v4, v6 netip.Prefix) (netip.Prefix, netip.Prefix, error)
}

// machine asks the kernel.
var machine = routes{tun.Overlap, tun.FreePrefixes}

// nowhere is a network without routes: a new namespace.
var nowhere = routes{
	func(netip.Prefix) (string, bool, error) { return "", false, nil },
	func(v4, v6 netip.Prefix) (netip.Prefix, netip.Prefix, error) { return v4, v6, nil },
}

// makePlan settles the addresses: a default that overlaps a route of the machine
// moves to the next free range, one that was asked for is refused.
func makePlan(f *config.File, r routes) (*plan, error) {
	p := &plan{cfg: f.Config}
	l := &p.cfg.Link
	for _, a := range []struct {
		path   string
		prefix *netip.Prefix
		four   bool
	}{
		{"link.address", &l.Address, true},
		{"link.address6", &l.Address6, false},
	} {
		if !a.prefix.IsValid() {
			continue
		}
		was := *a.prefix
		route, found, err := r.overlap(was)
		if err != nil {
			return nil, err
		}
		if !found {
			continue
		}
		if f.IsSet(a.path) || f.IsSet(strings.Replace(a.path, "address", "peer-address", 1)) {
			return nil, fmt.Errorf("%s: %v overlaps the route %s; choose another range, or leave it out", f.Where(a.path), was, route)
		}
		if a.four {
			*a.prefix, _, err = r.free(was, netip.Prefix{})
		} else {
			_, *a.prefix, err = r.free(netip.Prefix{}, was)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w; choose a range of your own", a.path, err)
		}
		p.notes = append(p.notes, fmt.Sprintf("%v overlaps the route %s; using %v", was.Masked(), route, a.prefix.Masked()))
	}
	p.open = tun.Options{Kind: l.Device, Queues: l.Queues, MTU: l.MTU}
	if f.IsSet("link.interface") {
		p.open.Name = l.Interface // else the device takes the next free name
	} else {
		l.Interface = nextInterface(l.Interface)
	}
	p.open.Peer4 = peerPrefix(l.PeerAddress, l.Address)
	p.open.Peer6 = peerPrefix(l.PeerAddress6, l.Address6)
	return p, nil
}

func peerPrefix(p porthole.Peer, host netip.Prefix) netip.Prefix {
	a, ok := p.Addr(host)
	if !ok {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(a, host.Bits())
}

// nextInterface is the name that the device will most likely get.
func nextInterface(first string) string {
	name := first
	for n := 1; n < 100; n++ {
		if _, err := net.InterfaceByName(name); err != nil {
			return name
		}
		name = fmt.Sprintf("%s%d", strings.TrimRight(first, "0123456789"), n)
	}
	return first
}

// device opens what the plan says. A machine without IPv6 does without, unless an
// IPv6 address was asked for.
func (p *plan) device(asked6 bool) (tun.Device, error) {
	dev, err := tun.Open(p.open)
	if errors.Is(err, tun.ErrNoIPv6) && !asked6 && p.open.Peer4.IsValid() {
		p.notes = append(p.notes, "IPv6 is switched off on this machine; the link has IPv4 only")
		p.open.Peer6, p.cfg.Link.Address6 = netip.Prefix{}, netip.Prefix{}
		dev, err = tun.Open(p.open)
	}
	if err != nil {
		return nil, err
	}
	facts := dev.Facts()
	p.cfg.Link.Interface, p.cfg.Link.Device = facts.Name, facts.Kind
	return dev, nil
}

// write prints the address plan, a fact a line.
func (p *plan) write(w io.Writer) {
	l := &p.cfg.Link
	line := func(what, format string, args ...any) {
		fmt.Fprintf(w, "%-9s %s\n", what, fmt.Sprintf(format, args...))
	}
	queues := ""
	if l.Queues > 1 {
		queues = fmt.Sprintf(", %d queues", l.Queues)
	}
	line("device", "%s  %s, mtu %d%s", l.Interface, l.Device, l.MTU, queues)
	line("host", "%s", prefixes(l.Address, l.Address6))
	line("machine", "%s", prefixes(p.open.Peer4, p.open.Peer6))
	line("zone", "%s", p.cfg.Zone)
	line("resolve", "%s", p.resolvectl())
	if p.socket != "" {
		line("control", "%s", p.socket)
	}
	if p.api != "" {
		line("api", "%s", p.api)
	}
	for _, n := range p.notes {
		line("note", "%s", n)
	}
}

// resolvectl is the one line that makes the zone's names resolve on this machine.
func (p *plan) resolvectl() string {
	l := &p.cfg.Link
	var servers []string
	for _, a := range []netip.Prefix{l.Address, l.Address6} {
		if a.IsValid() {
			servers = append(servers, a.Addr().String())
		}
	}
	return fmt.Sprintf("sudo resolvectl dns %s %s && sudo resolvectl domain %s '~%s'",
		l.Interface, strings.Join(servers, " "), l.Interface, p.cfg.Zone)
}

func prefixes(ps ...netip.Prefix) string {
	var words []string
	for _, p := range ps {
		if p.IsValid() {
			words = append(words, p.String())
		}
	}
	if len(words) == 0 {
		return "none (left to a DHCP client)"
	}
	return strings.Join(words, "  ")
}
