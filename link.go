package porthole

import (
	"porthole/demux"
	"porthole/tun"
)

// impaired is the device as one whose link can be put under rules, which it may be
// already.
func impaired(dev tun.Device) *tun.Impaired {
	if d, ok := dev.(*tun.Impaired); ok {
		return d
	}
	return tun.Impair(dev, tun.ImpairOptions{ShowDropped: true})
}

// upstream is what waits on the link under its rules, and what did when the device was
// closed, for the ledger.
func (h *Host) upstream() (held, stopped [demux.NumKinds]uint64) {
	kinds := func(n tun.Held) (k [demux.NumKinds]uint64) {
		k[demux.FromDevice], k[demux.Segmented], k[demux.Duplicated] = uint64(n.Frames), uint64(n.Segmented), uint64(n.Duplicated)
		return k
	}
	now, then := h.link.Held()
	return kinds(now), kinds(then)
}
