package tun

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Node is the device node that makes TUN and TAP devices.
const Node = "/dev/net/tun"

const nextCapability = "run as root, or inside a user and network namespace of your own (`porthole exec`)"

// tunExcl is IFF_TUN_EXCL: fail rather than attach to an interface that exists.
// Without it a persistent device of somebody else's would be taken over in silence.
const tunExcl = 0x8000

// attach makes the interface that o names and returns one non-blocking,
// close-on-exec descriptor for each queue, and the name it got. mode is IFF_TUN
// or IFF_TAP, offload the TUN_F flags that are to pass.
func attach(o Options, mode uint16, offload int) (name string, fds []int, err error) {
	defer func() {
		if err != nil {
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
			fds = nil
		}
	}()
	name = o.Name
	if name == "" {
		name = "ph%d"
	}
	flags := mode | unix.IFF_NO_PI | unix.IFF_VNET_HDR | tunExcl
	if o.Queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	for range o.Queues {
		fd, err := openNode(o)
		if err != nil {
			return name, fds, err
		}
		fds = append(fds, fd)
		if name, err = attachQueue(o, fd, name, flags); err != nil {
			return name, fds, err
		}
		flags &^= tunExcl // the further queues join the interface just made
	}
	// Both settings belong to the interface; one queue sets them for all.
	if err := unix.IoctlSetPointerInt(fds[0], unix.TUNSETVNETHDRSZ, vnetSize); err != nil {
		return name, fds, noOffload(o, "it refuses the header of offloaded frames (TUNSETVNETHDRSZ)", err)
	}
	if err := unix.IoctlSetInt(fds[0], unix.TUNSETOFFLOAD, offload); err != nil {
		return name, fds, noOffload(o, "it refuses super-packets and checksums (TUNSETOFFLOAD)", err)
	}
	return name, fds, nil
}

func openNode(o Options) (int, error) {
	for {
		fd, err := unix.Open(Node, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			return fd, nil
		}
		if err != unix.EINTR {
			return -1, nodeError(o, err)
		}
	}
}

func attachQueue(o Options, fd int, name string, flags uint16) (string, error) {
	have, err := unix.IoctlGetUint32(fd, unix.TUNGETFEATURES)
	if err != nil {
		return name, nodeError(o, err)
	}
	if have&unix.IFF_VNET_HDR == 0 {
		return name, noOffload(o, "it knows no IFF_VNET_HDR", nil)
	}
	if flags&unix.IFF_MULTI_QUEUE != 0 && have&unix.IFF_MULTI_QUEUE == 0 {
		return name, &Error{Op: o.op(), Cause: "this kernel's TUN has one queue", Next: "ask for 1 queue", Err: ErrOptions}
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return name, &Error{Op: o.op(), Cause: "that is no interface name", Err: because(ErrOptions, err)}
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return name, attachError(o, name, err)
	}
	return ifr.Name(), nil
}

func noOffload(o Options, cause string, err error) error {
	return &Error{Op: o.op(), Cause: "this kernel has no TUN offload: " + cause,
		Next: "use the water device", Err: because(ErrNoOffload, err)}
}

// nodeError says why /dev/net/tun could not be opened.
func nodeError(o Options, err error) error {
	e := &Error{Op: o.op()}
	switch {
	case errors.Is(err, unix.ENOENT):
		e.Cause, e.Err = Node+" is missing", because(ErrNoNode, err)
		e.Next = "`modprobe tun`, or in a container `mkdir -p /dev/net && mknod -m 666 " + Node + " c 10 200`"
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		e.Cause, e.Err = "the kernel's tun module is not loaded", because(ErrNoNode, err)
		e.Next = "`modprobe tun`"
	case errors.Is(err, unix.EACCES):
		e.Cause, e.Err = "no permission for "+Node, because(ErrNodePermission, err)
		if st, serr := os.Stat(Node); serr == nil {
			e.Cause += fmt.Sprintf(" (mode %04o)", st.Mode().Perm())
		}
		e.Next = "run as root, or `chmod 666 " + Node + "` (making interfaces stays a privilege)"
	case errors.Is(err, unix.EPERM):
		e.Cause, e.Err = "the device policy of this container or unit forbids "+Node, because(ErrNodePermission, err)
		e.Next = "allow it (docker: --device " + Node + ", systemd: DeviceAllow=" + Node + ")"
	default:
		e.Cause, e.Err = "open "+Node+": "+err.Error(), err
	}
	return e
}

// attachError says why TUNSETIFF failed.
func attachError(o Options, name string, err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return &Error{Op: o.op(), Cause: "making an interface needs CAP_NET_ADMIN",
			Next: nextCapability, Err: because(ErrPermission, err)}
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return nameInUse(o, name, err)
	case errors.Is(err, syscall.EINVAL):
		return &Error{Op: o.op(), Cause: "the kernel refuses the name or the flags of the interface",
			Next: "choose another name", Err: because(ErrOptions, err)}
	}
	return &Error{Op: o.op(), Cause: "make interface: " + err.Error(), Err: err}
}

// nameInUse says who has the interface that was to be made.
func nameInUse(o Options, name string, err error) error {
	e := &Error{Op: o.op(), Cause: "an interface of that name exists", Next: "choose another name", Err: because(ErrNameInUse, err)}
	link, lerr := netlink.LinkByName(name)
	if lerr != nil {
		return e
	}
	dev, ok := link.(*netlink.Tuntap)
	if !ok {
		e.Cause = fmt.Sprintf("an interface of that name exists and is no TUN device (%s)", link.Type())
		return e
	}
	holders := Holders(name)
	switch {
	case len(holders) > 0:
		e.Cause = "the name is held by " + holders[0].String()
		if holders[0].PID != os.Getpid() {
			e.Next = "choose another name, or end that process"
		}
	case dev.NonPersist:
		e.Cause = "the name is held by a process that this user may not look into"
		e.Next = "choose another name, or look for it as root"
	default:
		e.Cause = "a persistent TUN device of that name exists and nobody holds it"
		e.Next = "choose another name, or `ip link delete " + name + "`"
	}
	return e
}
