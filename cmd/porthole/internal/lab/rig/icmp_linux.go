package rig

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"porthole/cmd/porthole/internal/pause"
)

// ExtraClient is one more address of this side towards the target, for what the
// target counts for each peer.
func (g *Rig) ExtraClient(t Target) (netip.Addr, error) {
	dev := g.Dev
	if t.Kernel {
		dev = "k0"
	}
	a := t.Client.Next()
	l, err := netlink.LinkByName(dev)
	if err == nil {
		err = netlink.AddrAdd(l, &netlink.Addr{IPNet: netlink.NewIPNet(a.AsSlice())})
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return a, fmt.Errorf("add %v to %s: %w", a, dev, err)
	}
	return a, nil
}

// unreachables sends datagrams to a closed port at a steady rate, and returns how many
// it sent and when an ICMP message came back.
func unreachables(ctx context.Context, from netip.Addr, to netip.AddrPort, rate int, over time.Duration) (sent int, told []time.Duration, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, nil, fmt.Errorf("udp socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1), // a queue of errors instead of one
		unix.Bind(fd, &unix.SockaddrInet4{Addr: from.As4()}),
	); err != nil {
		return 0, nil, fmt.Errorf("udp socket: %w", err)
	}
	sa := &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	var buf [64]byte
	var control [512]byte
	began := time.Now()
	hear := func() {
		for {
			if _, _, _, _, err := unix.Recvmsg(fd, buf[:], control[:], unix.MSG_ERRQUEUE); err != nil {
				return
			}
			told = append(told, time.Since(began))
		}
	}
	for time.Since(began) < over && pause.For(ctx, time.Millisecond) {
		for due := int(time.Since(began).Seconds() * float64(rate)); sent < due; {
			hear()
			switch err := unix.Sendto(fd, buf[:1], 0, sa); err {
			case nil:
				sent++
			case unix.ECONNREFUSED, unix.EAGAIN: // an error that came meanwhile; a full socket
			default:
				return sent, told, fmt.Errorf("send: %w", err)
			}
		}
		hear()
	}
	pause.For(ctx, 20*time.Millisecond) // for the last
	hear()
	return sent, told, ctx.Err()
}
