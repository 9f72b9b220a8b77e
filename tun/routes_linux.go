package tun

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routes lists the tables main and local of the calling thread's namespace.
func routes() ([]route, error) {
	names := linkNames()
	var out []route
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		for _, table := range []int{unix.RT_TABLE_MAIN, unix.RT_TABLE_LOCAL} {
			rs, err := listRoutes(family, table)
			if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
				continue // a kernel without that family
			}
			if err != nil {
				return nil, fmt.Errorf("list routes: %w", err)
			}
			for _, r := range rs {
				if dst, ok := prefix(r.Dst); ok {
					out = append(out, route{dst, describe(dst, r, names), table == unix.RT_TABLE_LOCAL})
				}
			}
		}
	}
	return out, nil
}

// listRoutes tries again when the table changed under the dump.
func listRoutes(family, table int) (rs []netlink.Route, err error) {
	for range 5 {
		rs, err = netlink.RouteListFiltered(family, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return rs, err
}

// prefix converts; a default route may have no destination at all.
func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if a = a.Unmap(); !ok || bits != a.BitLen() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, ones), true
}

// describe gives a route as `ip route` shows it.
func describe(dst netip.Prefix, r netlink.Route, names map[int]string) string {
	var b strings.Builder
	switch r.Type {
	case unix.RTN_LOCAL, unix.RTN_BROADCAST, unix.RTN_ANYCAST, unix.RTN_MULTICAST:
		b.WriteString("local ")
	case unix.RTN_BLACKHOLE:
		b.WriteString("blackhole ")
	case unix.RTN_UNREACHABLE:
		b.WriteString("unreachable ")
	case unix.RTN_PROHIBIT:
		b.WriteString("prohibit ")
	}
	if dst.IsSingleIP() {
		b.WriteString(dst.Addr().String())
	} else {
		b.WriteString(dst.String())
	}
	if r.Gw != nil {
		b.WriteString(" via " + r.Gw.String())
	}
	if n := names[r.LinkIndex]; n != "" {
		b.WriteString(" dev " + n)
	}
	return b.String()
}

func linkNames() map[int]string {
	names := map[int]string{}
	links, _ := netlink.LinkList() // without names the routes are still told
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	return names
}
