package tun

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Open makes a device of the kernel in the calling thread's network namespace,
// gives this machine its addresses on it and brings it up. On failure nothing is
// left behind. Errors are *Error. It never takes part in an interface that was
// there before, changes no route but the connected one that an address brings,
// and makes nothing persistent: the device ends with Close or with the process.
func Open(o Options) (Device, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	dev, err := openKind(o)
	if err != nil {
		return nil, err
	}
	if err := configure(dev.Facts(), o); err != nil {
		_ = dev.Close()
		return nil, err
	}
	return dev, nil
}

func openKind(o Options) (Device, error) {
	switch o.Kind {
	case KindWater:
		return openWater(o)
	case KindTAP:
		return openTAP(o)
	}
	dev, err := openOffload(o)
	if o.Kind == KindAuto && errors.Is(err, ErrNoOffload) {
		return openWater(o)
	}
	if err != nil {
		return nil, err
	}
	return dev, nil
}

func openOffload(o Options) (*kernelDev, error) {
	name, fds, err := attach(o, unix.IFF_TUN, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6)
	if err != nil {
		return nil, err
	}
	return newKernelDev(Facts{Name: name, Kind: KindOffload, MTU: o.MTU, Queues: o.Queues, GSO: true}, fds)
}

// openTAP makes an Ethernet device. Its frames carry complete checksums and are
// never longer than the MTU: DHCP clients read them through packet sockets, and
// offsets of offloads would otherwise have to count the link header.
func openTAP(o Options) (*kernelDev, error) {
	name, fds, err := attach(o, unix.IFF_TAP, 0)
	if err != nil {
		return nil, err
	}
	hw := o.HW
	if hw == nil {
		hw = hardwareAddr("host", name)
	}
	return newKernelDev(Facts{Name: name, Kind: KindTAP, MTU: o.MTU, Queues: o.Queues, HW: hw}, fds)
}

// addrGenNone is IN6_ADDR_GEN_MODE_NONE: no link-local address by itself.
const addrGenNone = 1

// configure sets what the kernel's side of the link needs, and brings it up last,
// so that nothing is sent on a link that is half set up.
func configure(facts Facts, o Options) error {
	fail := func(what string, err error) error { return netlinkError(o.op()+": "+what, err) }
	link, err := netlink.LinkByName(facts.Name)
	if err != nil {
		return fail("find "+facts.Name, err)
	}
	if err := netlink.LinkSetMTU(link, o.MTU); err != nil {
		return fail(fmt.Sprintf("set MTU %d", o.MTU), err)
	}
	if facts.HW != nil {
		if err := netlink.LinkSetHardwareAddr(link, peerHW(facts)); err != nil {
			return fail("set this machine's Ethernet address", err)
		}
	} else if !o.Peer6.IsValid() {
		// Fails only where there is no IPv6 at all, which is what is wanted.
		_ = netlink.LinkSetIP6AddrGenMode(link, addrGenNone)
	}
	for _, p := range []netip.Prefix{o.Peer4, o.Peer6} {
		if !p.IsValid() {
			continue
		}
		if err := netlink.AddrAdd(link, kernelAddr(p)); err != nil {
			return addressError(o, p, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fail("bring the link up", err)
	}
	if o.Peer6.IsValid() {
		return settled(o)
	}
	return nil
}

// settled waits until the kernel answers for Peer6. Without duplicate detection,
// too, it takes an IPv6 address into use in a work queue of its own, a moment
// after the link came up; what arrives before that is lost in silence.
func settled(o Options) error {
	const most, step = 2 * time.Second, time.Millisecond
	for start := time.Now(); time.Since(start) < most; time.Sleep(step) {
		rs, err := listRoutes(unix.AF_INET6, unix.RT_TABLE_LOCAL)
		if err != nil {
			return netlinkError(o.op()+": list routes", err)
		}
		for _, r := range rs {
			if dst, ok := prefix(r.Dst); ok && dst.IsSingleIP() && dst.Addr() == o.Peer6.Addr() {
				return nil
			}
		}
	}
	return &Error{Op: o.op() + ": add address " + o.Peer6.String(), Cause: "the kernel did not take it into use in " + most.String(),
		Next: "look at `ip -6 addr` for who else has it", Err: ErrAddress}
}

// peerHW is this machine's own address on a TAP link: derived like the host's, so
// that DHCP clients keep their identity over restarts, and never the same.
func peerHW(facts Facts) net.HardwareAddr {
	hw := hardwareAddr("machine", facts.Name)
	if hw.String() == facts.HW.String() {
		hw[5] ^= 1
	}
	return hw
}

// kernelAddr is p as netlink takes it. Nobody else is on the link, so an IPv6
// address needs no duplicate detection and can be used at once.
func kernelAddr(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: &net.IPNet{
		IP:   p.Addr().AsSlice(),
		Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
	}}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

func addressError(o Options, p netip.Prefix, err error) error {
	op := o.op() + ": add address " + p.String()
	switch {
	case p.Addr().Is6() && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT)):
		return &Error{Op: op, Cause: "IPv6 is switched off here",
			Next: "leave the IPv6 address out, or `sysctl net.ipv6.conf.default.disable_ipv6=0`", Err: because(ErrNoIPv6, err)}
	case errors.Is(err, unix.EPERM):
		return netlinkError(op, err)
	}
	return &Error{Op: op, Cause: err.Error(), Next: "use an address that a host on this link may have", Err: because(ErrAddress, err)}
}

// netlinkError wraps err of the routing socket.
func netlinkError(op string, err error) error {
	if errors.Is(err, unix.EPERM) {
		return &Error{Op: op, Cause: "this needs CAP_NET_ADMIN", Next: nextCapability, Err: because(ErrPermission, err)}
	}
	return &Error{Op: op, Cause: err.Error(), Err: err}
}
