package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// floodRate is what a flood sends a second: what is asked of it, or what the machine
// gives it. closedPort is nobody's.
const (
	floodRate  = 100_000
	closedPort = 4444
)

// floodDNS sends queries to 53/udp and reads no answer.
func floodDNS(t time.Duration) (sample, error) { return floodUDP(host, t) }

// floodNone sends them where they end at once (see namespace).
func floodNone(t time.Duration) (sample, error) { return floodUDP(nowhere, t) }

func floodUDP(to string, t time.Duration) (sample, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return sample{}, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 53, Addr: netip.MustParseAddr(to).As4()}); err != nil {
		return sample{}, err
	}
	return flood(fd, t, [][]byte{query}, nil)
}

// floodSYN sends SYNs to a closed port, each from another of the client's ports.
func floodSYN(t time.Duration) (sample, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return sample{}, err
	}
	defer unix.Close(fd)
	frames := make([][]byte, 1000)
	for i := range frames {
		frames[i] = synFrame(uint16(20000+i), rand.Uint32())
	}
	to := &unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: netip.MustParseAddr(host).As4()}
	return flood(fd, t, frames, to)
}

// synFrame is a SYN with an IP header, whose own checksum the kernel fills in.
func synFrame(port uint16, seq uint32) []byte {
	b := make([]byte, 40)
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(b[2:], 40)
	src, dst := netip.MustParseAddr(client).As4(), netip.MustParseAddr(host).As4()
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	tcp := b[20:]
	binary.BigEndian.PutUint16(tcp, port)
	binary.BigEndian.PutUint16(tcp[2:], closedPort)
	binary.BigEndian.PutUint32(tcp[4:], seq)
	tcp[12], tcp[13] = 5<<4, 2
	binary.BigEndian.PutUint16(tcp[14:], 65535)
	sum := uint32(unix.IPPROTO_TCP + len(tcp))
	for i := 12; i < 40; i += 2 { // the addresses and the header
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(tcp[16:], ^uint16(sum))
	return b
}

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   uint32
}

// flood sends bursts of sendmmsg at floodRate for a time. What the socket refuses
// (a full device) is not sent again.
func flood(fd int, t time.Duration, frames [][]byte, to *unix.RawSockaddrInet4) (sample, error) {
	const burst = 50
	msgs := make([]mmsghdr, burst)
	iovs := make([]unix.Iovec, burst)
	began, sent, next := time.Now(), 0, 0
	for time.Since(began) < t {
		due := int(time.Since(began).Seconds()*floodRate) - sent
		if due < burst {
			time.Sleep(200 * time.Microsecond)
			continue
		}
		for i := range msgs {
			f := frames[next%len(frames)]
			next++
			iovs[i].Base = &f[0]
			iovs[i].SetLen(len(f))
			msgs[i].hdr.Iov = &iovs[i]
			msgs[i].hdr.SetIovlen(1)
			if to != nil {
				msgs[i].hdr.Name = (*byte)(unsafe.Pointer(to))
				msgs[i].hdr.Namelen = unix.SizeofSockaddrInet4
			}
		}
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), burst, 0, 0, 0)
		switch {
		case errno == 0:
			sent += int(n)
		case errno == unix.ENOBUFS || errno == unix.EAGAIN || errno == unix.EINTR || errno == unix.ECONNREFUSED:
		default:
			return sample{}, fmt.Errorf("flood: %w", errno)
		}
	}
	if sent == 0 {
		return sample{}, errors.New("flood: nothing was sent")
	}
	return sample{Value: float64(sent) / time.Since(began).Seconds()}, nil
}
