package tun

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
)

// Kinds of device that Options.Kind asks for.
const (
	KindAuto    = "auto"    // offload, or water where the kernel has no offload
	KindOffload = "offload" // Linux TUN with super-packets and checksum offload
	KindWater   = "water"   // portable TUN, one packet a read
	KindTAP     = "tap"     // Linux TAP: Ethernet frames, complete checksums
)

// MaxQueues is the most reader queues that Open takes.
const MaxQueues = 16

// Options is what Open needs to know. The zero value asks for the default device.
type Options struct {
	Name   string // of the interface, 1 to 15 characters; "" takes the next free ph0, ph1, ...
	Kind   string // one of the Kind constants; "" is KindAuto
	Queues int    // reader queues, 1 to MaxQueues; 0 is 1
	MTU    int    // bytes of IP in one packet; 0 is 1500

	// Peer4 and Peer6 are the machine's own addresses on the link, with the
	// prefix of the link: its only route. A zero Prefix leaves that family
	// without an address. On a TUN device no Peer6 also turns IPv6's automatic
	// addresses off (addrgenmode none), so that a link without IPv6 carries no
	// router solicitations and multicast reports.
	Peer4, Peer6 netip.Prefix

	// HW is the virtual host's own address on TAP; nil derives one.
	HW net.HardwareAddr
}

// withDefaults fills zero fields and refuses what no device can be.
func (o Options) withDefaults() (Options, error) {
	if o.Kind == "" {
		o.Kind = KindAuto
	}
	if o.Queues == 0 {
		o.Queues = 1
	}
	if o.MTU == 0 {
		o.MTU = 1500
	}
	refuse := func(cause, next string) (Options, error) {
		return o, &Error{Op: o.op(), Cause: cause, Next: next, Err: ErrOptions}
	}
	minMTU, why := 68, "IPv4 needs 68 (RFC 791)"
	if o.Peer6.IsValid() {
		minMTU, why = 1280, "IPv6 needs 1280 (RFC 8200)"
	}
	maxMTU := maxIP
	if o.Kind == KindTAP {
		maxMTU -= 14
	}
	switch {
	case o.Kind != KindAuto && o.Kind != KindOffload && o.Kind != KindWater && o.Kind != KindTAP:
		return refuse(fmt.Sprintf("%q is no kind of device", o.Kind), "use auto, offload, water or tap")
	case !validName(o.Name):
		return refuse("that is no interface name", "use 1 to 15 characters without / : % or space")
	case o.Queues < 1 || o.Queues > MaxQueues:
		return refuse(fmt.Sprintf("%d queues", o.Queues), fmt.Sprintf("use 1 to %d", MaxQueues))
	case o.Kind == KindWater && o.Queues > 1:
		return refuse("the water device has one queue", "use 1 queue, or the offload device")
	case o.MTU < minMTU || o.MTU > maxMTU:
		return refuse(fmt.Sprintf("MTU %d", o.MTU), fmt.Sprintf("use %d to %d (%s)", minMTU, maxMTU, why))
	case o.Peer4.IsValid() && !o.Peer4.Addr().Is4():
		return refuse(fmt.Sprintf("%v is no IPv4 address", o.Peer4), "")
	case o.Peer6.IsValid() && (!o.Peer6.Addr().Is6() || o.Peer6.Addr().Is4In6()):
		return refuse(fmt.Sprintf("%v is no IPv6 address", o.Peer6), "")
	case o.Peer4.IsValid() && !unicast(o.Peer4.Addr()):
		return refuse(fmt.Sprintf("%v is no address of a host", o.Peer4), "")
	case o.Peer6.IsValid() && !unicast(o.Peer6.Addr()):
		return refuse(fmt.Sprintf("%v is no address of a host", o.Peer6), "")
	case o.HW != nil && (len(o.HW) != 6 || o.HW[0]&1 != 0):
		return refuse(fmt.Sprintf("%v is no Ethernet address of a host", o.HW), "use six bytes, the first even")
	}
	return o, nil
}

func (o Options) op() string {
	if o.Name == "" {
		return "open device"
	}
	return "open device " + o.Name
}

// unicast reports whether a host on a link may have a. The kernel would take
// some that it may not.
func unicast(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && a.Zone() == "" &&
		!(a.Is4() && a.As4()[0] >= 240)
}

// validName takes what the kernel takes, without its "%d" patterns, and "".
func validName(s string) bool {
	return len(s) <= 15 && s != "." && s != ".." && !strings.ContainsAny(s, "/:% \t\r\n\v\f\x00")
}

// hardwareAddr derives a locally administered unicast address from the name of
// the interface and of this machine. It stays the same over restarts, so that a
// DHCP client on the link is known again and captures can be compared.
func hardwareAddr(role, name string) net.HardwareAddr {
	machine, _ := os.Hostname() // only to tell machines apart; none is as good as any
	sum := sha256.Sum256([]byte("porthole\x00" + role + "\x00" + machine + "\x00" + name))
	hw := net.HardwareAddr(sum[:6])
	hw[0] = hw[0]&^1 | 2
	return hw
}
