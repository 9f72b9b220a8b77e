package tun

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// LinkStats reads the counters of the interface name in the calling thread's
// network namespace.
func LinkStats(name string) (Stats, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return Stats{}, fmt.Errorf("counters of %s: %w", name, err)
	}
	s := link.Attrs().Statistics
	if s == nil {
		return Stats{}, fmt.Errorf("counters of %s: the kernel gives none", name)
	}
	return Stats{
		InPackets: s.TxPackets, InBytes: s.TxBytes, InDropped: s.TxDropped, InErrors: s.TxErrors,
		OutPackets: s.RxPackets, OutBytes: s.RxBytes, OutDropped: s.RxDropped,
		OutErrors: s.RxErrors, OutFrameErrors: s.RxFrameErrors,
	}, nil
}
