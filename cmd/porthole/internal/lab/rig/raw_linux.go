package rig

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// rawSYN is a segment that opens a connection which nobody will finish.
type rawSYN struct {
	from     uint32 // address
	fromPort uint16
	to       netip.AddrPort
	seq      uint32
}

// rawSYNs sends the segments that next makes at a steady rate. They leave this
// network's own interface, and nothing leaves the network.
func rawSYNs(ctx context.Context, rate float64, over time.Duration, next func(n int) rawSYN) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW) // which brings its own IP header
	if err != nil {
		return fmt.Errorf("raw socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	n := 0
	var buf [44]byte
	return steadily(ctx, rate, floodAtOnce, over, func() error {
		s := next(n)
		n++
		s.put(&buf)
		err := unix.Sendto(fd, buf[:], 0, &unix.SockaddrInet4{Addr: s.to.Addr().As4()})
		if err == unix.ENOBUFS {
			return nil
		}
		return err
	})
}

// put writes the packet: IPv4 and TCP header with MSS 1460.
func (s rawSYN) put(b *[44]byte) {
	*b = [44]byte{
		0x45, 0, 0, 44, 0, 0, 0x40, 0, 64, 6, // don't fragment, TTL 64, TCP; the kernel fills in the header's sum
		24: 0, 32: 6 << 4, 33: 2, // 24 bytes of header, SYN
		34: 0xfa, 35: 0xf0, // window
		40: 2, 41: 4, 42: 1460 >> 8, 43: 1460 & 0xff, // MSS
	}
	binary.BigEndian.PutUint32(b[12:], s.from)
	to := s.to.Addr().As4()
	copy(b[16:], to[:])
	binary.BigEndian.PutUint16(b[20:], s.fromPort)
	binary.BigEndian.PutUint16(b[22:], s.to.Port())
	binary.BigEndian.PutUint32(b[24:], s.seq)
	sum := uint32(6 + 24) // of the pseudo-header: protocol and length
	for i := 12; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[36:], ^uint16(sum))
}
