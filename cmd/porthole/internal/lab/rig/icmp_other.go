//go:build !linux

package rig

import (
	"context"
	"net/netip"
	"time"
)

// ExtraClient needs Linux.
func (*Rig) ExtraClient(Target) (netip.Addr, error) { return netip.Addr{}, errSystem }

func unreachables(context.Context, netip.Addr, netip.AddrPort, int, time.Duration) (int, []time.Duration, error) {
	return 0, nil, errSystem
}
