package tun

import (
	"errors"
	"fmt"
	"net/netip"
)

// ErrNoFreePrefix means that every candidate overlaps a route of this machine.
var ErrNoFreePrefix = errors.New("no free prefix")

// route is what the routing table holds of one destination.
type route struct {
	dst   netip.Prefix
	text  string // as a user would look for it
	local bool   // of the table local: the addresses inside the routes of main
}

// Overlap finds a route of this machine that shares addresses with p and
// describes it: the most specific one of the table main, else of the table local.
// Every type counts. Default routes never do, nor do the halves that VPNs put in their
// place (0.0.0.0/1 and 128.0.0.0/1).
func Overlap(p netip.Prefix) (text string, found bool, err error) {
	rs, err := routes()
	if err != nil {
		return "", false, fmt.Errorf("overlap of %v: %w", p, err)
	}
	text, found = overlapping(rs, p)
	return text, found, nil
}

func overlapping(rs []route, p netip.Prefix) (text string, found bool) {
	var best *route
	for i := range rs {
		r := &rs[i]
		if r.dst.Bits() <= 1 || !r.dst.Overlaps(p) {
			continue
		}
		if best == nil || best.local && !r.local || best.local == r.local && r.dst.Bits() > best.dst.Bits() {
			best = r
		}
	}
	if best == nil {
		return "", false
	}
	return best.text, true
}

// FreePrefixes returns v4 and v6 where no route overlaps them, else the next
// candidates of their length and host part that none does: 10.78.0.0 to
// 10.126.0.0, 172.20.77.0 to 172.31.77.0, 192.168.77.0 to 192.168.254.0,
// 198.18.77.0 to 198.18.126.0 (RFC 2544), and fd78:: to fdff::, then
// 2001:db8:77:: (RFC 3849). An invalid prefix stays invalid. ErrNoFreePrefix when
// the candidates are used up.
func FreePrefixes(v4, v6 netip.Prefix) (free4, free6 netip.Prefix, err error) {
	rs, err := routes()
	if err != nil {
		return v4, v6, fmt.Errorf("free prefixes: %w", err)
	}
	if free4, err = firstFree(rs, v4, candidates4()); err != nil {
		return v4, v6, err
	}
	if free6, err = firstFree(rs, v6, candidates6()); err != nil {
		return v4, v6, err
	}
	return free4, free6, nil
}

func firstFree(rs []route, p netip.Prefix, nets []netip.Addr) (netip.Prefix, error) {
	if !p.IsValid() {
		return p, nil
	}
	text, found := overlapping(rs, p)
	if !found {
		return p, nil
	}
	for _, n := range nets {
		if c := moved(p, n); c.Masked() != p.Masked() {
			if _, found := overlapping(rs, c); !found {
				return c, nil
			}
		}
	}
	return p, fmt.Errorf("%v overlaps the route %s, and so does every other candidate: %w", p, text, ErrNoFreePrefix)
}

// moved is p with the network part of n.
func moved(p netip.Prefix, n netip.Addr) netip.Prefix {
	host, network := p.Addr().AsSlice(), n.AsSlice()
	for i := range host {
		mask := byte(0xff)
		if left := p.Bits() - 8*i; left < 8 {
			mask = ^(byte(0xff) >> max(left, 0))
		}
		host[i] = network[i]&mask | host[i]&^mask
	}
	a, _ := netip.AddrFromSlice(host)
	return netip.PrefixFrom(a, p.Bits())
}

func candidates4() (c []netip.Addr) {
	for _, r := range []struct {
		from, to byte
		addr     func(i byte) [4]byte
	}{
		{78, 126, func(i byte) [4]byte { return [4]byte{10, i, 0, 0} }},
		{20, 31, func(i byte) [4]byte { return [4]byte{172, i, 77, 0} }},
		{77, 254, func(i byte) [4]byte { return [4]byte{192, 168, i, 0} }},
		{77, 126, func(i byte) [4]byte { return [4]byte{198, 18, i, 0} }},
	} {
		for i := r.from; i <= r.to; i++ {
			c = append(c, netip.AddrFrom4(r.addr(i)))
		}
	}
	return c
}

func candidates6() (c []netip.Addr) {
	for i := 0x78; i <= 0xff; i++ {
		c = append(c, netip.AddrFrom16([16]byte{0xfd, byte(i)}))
	}
	return append(c, netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 0x77}))
}
