package tun

// Stats are the kernel's own counters of an interface, seen from the host: in is
// what the kernel sent to it, so the kernel's tx, and out is the kernel's rx.
type Stats struct {
	// InPackets (tx_packets) and InBytes count frames that were taken off the
	// device by Read: a super-packet once, by its length without the header of
	// the offload. Frames that wait in the kernel's ring are not in it.
	InPackets, InBytes uint64
	// InDropped (tx_dropped) counts frames that the kernel threw away because its
	// ring of txqueuelen frames was full, or the link down.
	InDropped uint64
	InErrors  uint64 // tx_errors

	// OutPackets (rx_packets) and OutBytes count frames that Write gave to the
	// kernel: a super-packet once.
	OutPackets, OutBytes uint64
	// OutDropped (rx_dropped) counts frames that the kernel took and threw away
	// before its IP layer: no memory, or neither IPv4 nor IPv6.
	OutDropped uint64
	// OutErrors (rx_errors) and OutFrameErrors (rx_frame_errors) count frames
	// that the kernel refused for their form or their Offload.
	OutErrors, OutFrameErrors uint64
}
