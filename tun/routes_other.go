//go:build !linux

package tun

import (
	"fmt"
	"net"
	"net/netip"
)

// routes knows the networks of this machine's own addresses; routes through
// gateways are not seen on this system.
func routes() ([]route, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var out []route
	for _, i := range ifs {
		addrs, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", i.Name, err)
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				out = append(out, route{dst: p.Masked(), text: p.Masked().String() + " dev " + i.Name})
			}
		}
	}
	return out, nil
}
