package tun

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// netns puts the test into a network namespace of its own, with lo up. The thread
// keeps it and ends with the test, so nothing is left and nothing of the machine's
// own network is touched. Only the test's own goroutine is inside.
func netns(t testing.TB) {
	t.Helper()
	skip := func(why string) {
		t.Helper()
		if os.Getenv("PORTHOLE_E2E") == "require" {
			require.Fail(t, why)
		}
		t.Skip(why)
	}
	if os.Getuid() != 0 {
		skip("needs root")
	}
	fd, err := unix.Open(Node, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		skip(Node + ": " + err.Error())
	}
	require.NoError(t, unix.Close(fd))
	runtime.LockOSThread() // and never unlocked: the thread dies with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		skip("unshare: " + err.Error())
	}
	lo, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetUp(lo))
}

// open opens a device that the test closes, and checks that nothing is left.
func open(t testing.TB, o Options) Device {
	t.Helper()
	d, err := Open(o)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, d.Close())
		gone(t, d.Facts().Name)
	})
	return d
}

// gone waits until there is no such interface. A process that looks at this one's
// descriptors (Holders in another) has each of them for an instant, and the kernel ends
// a device with the last who has it.
func gone(t testing.TB, name string) {
	t.Helper()
	for began := time.Now(); ; <-time.After(time.Millisecond) { // in this goroutine's namespace
		_, err := netlink.LinkByName(name)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return
		}
		require.NoError(t, err)
		require.Less(t, time.Since(began), patience, "interface %s is left", name)
	}
}

// rig is a device and the wire behind it.
type rig struct {
	Device
	put  func(t testing.TB, b []byte) // onto the wire, towards the device
	take func(t testing.TB) []byte    // what the device wrote next
}

// rigs are the devices that carry plain frames alike: one test body serves all.
var rigs = map[string]func(t testing.TB) rig{
	"pipe": func(t testing.TB) rig {
		a, b := Pipe(PipeOptions{GSO: true}, PipeOptions{GSO: true})
		t.Cleanup(func() { _ = a.Close() })
		return rig{a,
			func(t testing.TB, p []byte) {
				_, err := b.Write(0, out(p), true)
				require.NoError(t, err)
			},
			func(t testing.TB) []byte { return read(t, b, 0, 1)[0].b },
		}
	},
	"descriptor": descriptorRig,
	"offload":    func(t testing.TB) rig { return kernelRig(t, KindOffload) },
	"water":      func(t testing.TB) rig { return kernelRig(t, KindWater) },
	"tap":        func(t testing.TB) rig { return kernelRig(t, KindTAP) },
}

// descriptorRig runs the engine of the kernel device on a socket pair, which
// keeps message boundaries as a TUN descriptor does and can be full.
func descriptorRig(t testing.TB) rig {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	d, err := newKernelDev(Facts{Name: "pair", Kind: KindOffload, MTU: 1500, Queues: 1, GSO: true}, fds[:1])
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.Close(); _ = unix.Close(fds[1]) })
	return rig{d,
		func(t testing.TB, p []byte) {
			var hdr [vnetSize]byte
			_, err := unix.Write(fds[1], append(hdr[:], p...))
			require.NoError(t, err)
		},
		func(t testing.TB) []byte {
			b := make([]byte, vnetSize+maxIP+1)
			waitFor(t, fds[1], unix.POLLIN)
			n, err := unix.Read(fds[1], b)
			require.NoError(t, err)
			return b[vnetSize:n]
		},
	}
}

// kernelRig looks at a kernel device through a packet socket. The machine has no
// address there, so nothing else answers.
func kernelRig(t testing.TB, kind string) rig {
	netns(t)
	d := open(t, Options{Name: "ph0", Kind: kind, MTU: 3000})
	link, err := netlink.LinkByName("ph0")
	require.NoError(t, err)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	addr := &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: link.Attrs().Index} // ETH_P_ALL
	require.NoError(t, unix.Bind(fd, addr))
	ether := append(append(append([]byte{}, d.Facts().HW...), link.Attrs().HardwareAddr...), 8, 0)
	if kind != KindTAP {
		ether = nil
	}
	return rig{d,
		func(t testing.TB, p []byte) {
			addr.Protocol = 0x0008 // ETH_P_IP
			require.NoError(t, unix.Sendto(fd, append(append([]byte{}, ether...), p...), 0, addr))
		},
		func(t testing.TB) []byte {
			b := make([]byte, maxIP)
			for {
				waitFor(t, fd, unix.POLLIN)
				n, from, err := unix.Recvfrom(fd, b, 0)
				require.NoError(t, err)
				if from.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING {
					return b[:n]
				}
			}
		},
	}
}

// waitFor waits for an event on fd.
func waitFor(t testing.TB, fd int, events int16) {
	t.Helper()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, int(patience.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		require.NoError(t, err)
		require.Equal(t, 1, n, "nothing came")
		return
	}
}

// payload strips the Ethernet header of a device that has one.
func payload(d Device, b []byte) []byte {
	if d.Facts().HW != nil {
		return b[14:]
	}
	return b
}

func ours(d Device) func(got) bool {
	return func(g got) bool {
		b := payload(d, g.b)
		return len(b) > 28 && b[0]>>4 == 4 && netip.AddrFrom4([4]byte(b[16:20])) == host4.Addr()
	}
}

func etherHeader(dst, src net.HardwareAddr, b []byte) []byte {
	proto := []byte{8, 0}
	if b[0]>>4 == 6 {
		proto = []byte{0x86, 0xdd}
	}
	return append(append(append(append([]byte{}, dst...), src...), proto...), b...)
}
