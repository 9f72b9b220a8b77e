package rig

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// far is the kernel's side: a network namespace that one thread holds, joined to this
// process's by a veth pair. What is opened on the thread belongs to the namespace.
type far struct {
	server, client netip.Addr
	work           chan func()
	done           chan struct{}
}

// openFar makes the namespace and the pair k0 (here) and k1 (there).
func openFar(mtu int) (*far, error) {
	f := &far{
		server: netip.MustParseAddr("10.78.0.1"), client: netip.MustParseAddr("10.78.0.2"),
		work: make(chan func()), done: make(chan struct{}),
	}
	made := make(chan error)
	var ns *os.File
	go func() {
		defer close(f.done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns, err = os.Open("/proc/thread-self/ns/net")
		}
		made <- err
		if err != nil {
			return
		}
		for w := range f.work {
			w()
		}
	}()
	if err := <-made; err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	defer func() { _ = ns.Close() }()
	err := netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "k0", MTU: mtu},
		PeerName:  "k1", PeerNamespace: netlink.NsFd(int(ns.Fd())),
	})
	if err == nil {
		err = errors.Join(up("k0", f.client), f.do(func() error { return errors.Join(up("lo", netip.Addr{}), up("k1", f.server)) }))
	}
	if err != nil {
		_ = f.close() // there may be no pair
		return nil, fmt.Errorf("make a veth pair: %w", err)
	}
	return f, nil
}

// up brings a link of the present thread's namespace up, with an address.
func up(name string, a netip.Addr) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if a.IsValid() {
		addr, err := netlink.ParseAddr(netip.PrefixFrom(a, 24).String())
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(l)
}

// do calls w in the server's namespace.
func (f *far) do(w func() error) error {
	errc := make(chan error, 1)
	f.work <- func() { errc <- w() }
	return <-errc
}

// close takes the pair away and lets the namespace go, which ends with its last socket.
func (f *far) close() error {
	l, err := netlink.LinkByName("k0")
	if err == nil {
		err = netlink.LinkDel(l)
	}
	close(f.work)
	<-f.done
	return err
}

func (f *far) socket(kind int, port uint16, ready func(fd int) error) (*os.File, error) {
	var file *os.File
	err := f.do(func() error {
		fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), "kernel socket")
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(port)}); err != nil {
			return fmt.Errorf("bind %d: %w", port, err)
		}
		return ready(fd)
	})
	if err != nil && file != nil {
		_ = file.Close()
	}
	return file, err
}

func (f *far) listen(port uint16, backlog int) (net.Listener, error) {
	file, err := f.socket(unix.SOCK_STREAM, port, func(fd int) error { return unix.Listen(fd, backlog) })
	if err != nil {
		return nil, fmt.Errorf("kernel listener: %w", err)
	}
	defer func() { _ = file.Close() }()
	return net.FileListener(file)
}

func (f *far) listenPacket(port uint16, bytes int) (net.PacketConn, error) {
	file, err := f.socket(unix.SOCK_DGRAM, port, func(fd int) error {
		if bytes == 0 {
			return nil
		}
		// The kernel doubles what it is told. The forced one needs CAP_NET_ADMIN over
		// the first namespace; the other stops at net.core.rmem_max.
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes/2) == nil {
			return nil
		}
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes/2)
	})
	if err != nil {
		return nil, fmt.Errorf("kernel socket: %w", err)
	}
	defer func() { _ = file.Close() }()
	return net.FilePacketConn(file)
}

// Drops is what the kernel has dropped at a socket of a kernel target (sk_drops):
// refused SYNs and final ACKs of a listener, datagrams of a UDP socket.
func Drops(s syscall.Conn) (uint64, error) {
	m, err := socketMemory(s)
	return uint64(m[8]), err
}

// ReceiveCharge is what waits in a socket of a kernel target, in bytes of memory
// (sk_rmem_alloc).
func ReceiveCharge(s syscall.Conn) (int, error) {
	m, err := socketMemory(s)
	return int(m[0]), err
}

// ReceiveBuffer is the bound of that (sk_rcvbuf): twice the SO_RCVBUF that was granted.
func ReceiveBuffer(s syscall.Conn) (int, error) {
	m, err := socketMemory(s)
	return int(m[1]), err
}

// socketMemory is the kernel's SK_MEMINFO_* (linux/sock_diag.h).
func socketMemory(s syscall.Conn) (info [9]uint32, err error) {
	rc, err := s.SyscallConn()
	if err != nil {
		return info, err
	}
	var errno syscall.Errno
	err = rc.Control(func(fd uintptr) {
		size := uint32(unsafe.Sizeof(info))
		_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	})
	if err == nil && errno != 0 {
		err = errno
	}
	if err != nil {
		return info, fmt.Errorf("ask for a socket's memory: %w", err)
	}
	return info, nil
}

// Sysctl sets a value of this side's network, "net.ipv4.tcp_syn_linear_timeouts".
func Sysctl(name, value string) error {
	return os.WriteFile("/proc/sys/"+strings.ReplaceAll(name, ".", "/"), []byte(value), 0)
}

// FarSysctl sets one of the kernel server's network.
func (g *Rig) FarSysctl(name, value string) error {
	if g.far == nil {
		return nil
	}
	return g.far.do(func() error { return Sysctl(name, value) })
}
