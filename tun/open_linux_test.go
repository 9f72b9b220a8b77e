package tun

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var kernelKinds = []string{KindOffload, KindWater, KindTAP}

// Open leaves a link that is up, with the MTU and addresses that were asked for,
// and only the routes that these bring.
func TestOpen(t *testing.T) {
	for _, kind := range kernelKinds {
		t.Run(kind, func(t *testing.T) {
			netns(t)
			d := open(t, Options{Name: "ph7", Kind: kind, MTU: 1400, Peer4: machine4, Peer6: machine6})
			f := d.Facts()
			require.Equal(t, "ph7", f.Name)
			require.Equal(t, kind, f.Kind)
			require.Equal(t, 1400, f.MTU)
			require.Equal(t, 1, f.Queues)
			require.Equal(t, kind == KindOffload, f.GSO)
			require.Equal(t, kind == KindTAP, f.HW != nil)

			link, err := netlink.LinkByName("ph7")
			require.NoError(t, err)
			a := link.Attrs()
			require.Equal(t, 1400, a.MTU)
			require.NotZero(t, a.Flags&net.FlagUp)
			require.True(t, link.(*netlink.Tuntap).NonPersist)
			if kind == KindTAP {
				require.NotEqual(t, f.HW, a.HardwareAddr)
				require.Equal(t, peerHW(f), a.HardwareAddr)
				require.NotEqual(t, a.HardwareAddr, peerHW(Facts{Name: f.Name, HW: a.HardwareAddr}), "never the host's own")
			}
			for family, want := range map[int]netip.Prefix{netlink.FAMILY_V4: machine4, netlink.FAMILY_V6: machine6} {
				addrs, err := netlink.AddrList(link, family)
				require.NoError(t, err)
				var global []string
				for _, a := range addrs {
					if !a.IP.IsLinkLocalUnicast() {
						global = append(global, a.IPNet.String())
						require.Zero(t, a.Flags&unix.IFA_F_TENTATIVE, "usable at once")
					}
				}
				require.Equal(t, []string{want.String()}, global)
				routes, err := netlink.RouteList(nil, family) // table main
				require.NoError(t, err)
				var dst []string
				for _, r := range routes {
					if !r.Dst.IP.IsLinkLocalUnicast() {
						dst = append(dst, r.Dst.String())
					}
				}
				require.Equal(t, []string{want.Masked().String()}, dst)
			}
		})
	}
}

func TestOpenAutoAndNames(t *testing.T) {
	netns(t)
	a, b := open(t, Options{}), open(t, Options{})
	require.Equal(t, []string{"ph0", "ph1"}, []string{a.Facts().Name, b.Facts().Name})
	require.Equal(t, KindOffload, a.Facts().Kind)
	require.Equal(t, 1500, a.Facts().MTU)
	require.Equal(t, "ph2", open(t, Options{Kind: KindWater}).Facts().Name)
	require.Equal(t, "ph3", open(t, Options{Kind: KindTAP}).Facts().Name)
	largest := open(t, Options{Name: "big", MTU: 65520, Peer6: machine6})
	require.Equal(t, 65520, largest.Facts().MTU)
}

func TestOpenFailsCleanly(t *testing.T) {
	for _, kind := range kernelKinds {
		t.Run(kind, func(t *testing.T) {
			netns(t)
			require.NoError(t, os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0))
			_, err := Open(Options{Name: "ph0", Kind: kind, Peer4: machine4, Peer6: machine6})
			require.ErrorIs(t, err, ErrNoIPv6)
			require.Contains(t, err.Error(), "open device ph0: add address fd77::2/64: IPv6 is switched off here; ")
			gone(t, "ph0")
			open(t, Options{Name: "ph0", Kind: kind, Peer4: machine4}) // which needs none
			require.Empty(t, openNodes(t, 1), "no descriptor is left of those that failed")
		})
	}
}

// openNodes lists this process's descriptors of the device node beyond most.
func openNodes(t testing.TB, most int) []string {
	fds, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	var found []string
	for _, fd := range fds {
		if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasSuffix(to, "/tun") {
			found = append(found, fd.Name())
		}
	}
	if len(found) <= most {
		return nil
	}
	return found
}

func TestOpenWithoutPrivilege(t *testing.T) {
	for _, kind := range append(kernelKinds, KindAuto) {
		t.Run(kind+"/no capability", func(t *testing.T) {
			netns(t)
			var none [2]unix.CapUserData // of this thread, which ends with the test
			require.NoError(t, unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]))
			_, err := Open(Options{Name: "ph0", Kind: kind})
			require.ErrorIs(t, err, ErrPermission)
			require.EqualError(t, err, "open device ph0: making an interface needs CAP_NET_ADMIN; "+nextCapability)
			require.Empty(t, openNodes(t, 0))
		})
		t.Run(kind+"/no node permission", func(t *testing.T) {
			netns(t)
			own(t)
			require.NoError(t, unix.Chmod(Node, 0o600))
			_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534) // of this thread
			require.Zero(t, errno)
			_, err := Open(Options{Name: "ph0", Kind: kind})
			require.ErrorIs(t, err, ErrNodePermission)
			require.Contains(t, err.Error(), "open device ph0: no permission for /dev/net/tun (mode 0600); run as root, or `chmod 666")
		})
		t.Run(kind+"/no node", func(t *testing.T) {
			netns(t)
			own(t)
			require.NoError(t, unix.Unlink(Node))
			_, err := Open(Options{Name: "ph0", Kind: kind})
			require.ErrorIs(t, err, ErrNoNode)
			require.Contains(t, err.Error(), "open device ph0: /dev/net/tun is missing; `modprobe tun`")
		})
	}
}

// own gives the thread a /dev/net of its own.
func own(t testing.TB) {
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS))
	require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	require.NoError(t, unix.Mount("tmpfs", "/dev/net", "tmpfs", 0, "mode=755"))
	if err := unix.Mknod(Node, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); err != nil {
		t.Skip("only root of the whole machine may make device nodes: ", err)
	}
}

func TestNameInUse(t *testing.T) {
	for _, kind := range kernelKinds {
		t.Run(kind, func(t *testing.T) {
			netns(t)
			cmd := holder(t, kind)
			for _, mine := range kernelKinds {
				_, err := Open(Options{Name: "ph0", Kind: mine})
				require.ErrorIs(t, err, ErrNameInUse)
				require.Regexp(t, fmt.Sprintf(`^open device ph0: the name is held by process %d \(.+\); choose another name, or end that process$`, cmd.Process.Pid), err.Error())
			}
			require.Equal(t, cmd.Process.Pid, Holders("ph0")[0].PID)
			require.Empty(t, Holders("ph"))

			// kill -9 leaves nothing, and the name is free again.
			require.NoError(t, cmd.Process.Kill())
			_ = cmd.Wait()
			gone(t, "ph0")
			d := open(t, Options{Name: "ph0", Kind: kind})

			_, err := Open(Options{Name: "ph0", Queues: 2})
			require.ErrorIs(t, err, ErrNameInUse)
			require.Contains(t, err.Error(), "held by this process itself; choose another name")
			require.NoError(t, d.Close())

			// A name of this process's own: where nobody here holds a device, Holders
			// guesses at those who hold one of that name elsewhere.
			persistent := fmt.Sprint("ph", os.Getpid())
			require.NoError(t, netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: persistent}, Mode: netlink.TUNTAP_MODE_TUN}))
			for name, cause := range map[string]string{
				"lo":       "an interface of that name exists and is no TUN device (device); choose another name",
				persistent: "a persistent TUN device of that name exists and nobody holds it; choose another name, or `ip link delete " + persistent + "`",
			} {
				_, err := Open(Options{Name: name, Kind: kind})
				require.ErrorIs(t, err, ErrNameInUse)
				require.EqualError(t, err, "open device "+name+": "+cause)
				_, err = netlink.LinkByName(name)
				require.NoError(t, err, "and it is still there")
			}
		})
	}
}

// No program that this process starts gets the descriptor.
func TestCloseOnExec(t *testing.T) {
	for _, kind := range kernelKinds {
		t.Run(kind, func(t *testing.T) {
			netns(t)
			d := open(t, Options{Name: "ph0", Kind: kind})
			cmd := exec.Command("sleep", "60")
			require.NoError(t, cmd.Start())
			defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
			require.NoError(t, d.Close())
			gone(t, "ph0") // a descriptor in the child would keep it
		})
	}
}

func TestOverlap(t *testing.T) {
	netns(t)
	text, found, err := Overlap(host4)
	require.NoError(t, err)
	require.False(t, found, text)
	a, b, err := FreePrefixes(host4, host6)
	require.NoError(t, err)
	require.Equal(t, []netip.Prefix{host4, host6}, []netip.Prefix{a, b})

	open(t, Options{Name: "ph0", Peer4: machine4, Peer6: machine6})
	link, err := netlink.LinkByName("ph0")
	require.NoError(t, err)
	for _, dst := range []string{"0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1"} { // never count
		_, ipnet, _ := net.ParseCIDR(dst)
		require.NoError(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipnet}))
	}
	_, wide, _ := net.ParseCIDR("192.168.0.0/16")
	require.NoError(t, netlink.RouteAdd(&netlink.Route{Dst: wide, Gw: host4.Addr().AsSlice()}))
	_, black, _ := net.ParseCIDR("10.80.0.0/12")
	require.NoError(t, netlink.RouteAdd(&netlink.Route{Dst: black, Type: unix.RTN_UNREACHABLE}))
	_, other, _ := net.ParseCIDR("10.90.0.0/16")
	require.NoError(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: other, Table: 77}))

	for p, want := range map[string]string{
		"10.77.0.1/24":   "10.77.0.0/24 dev ph0",
		"10.0.0.0/8":     "10.77.0.0/24 dev ph0", // the more specific of two
		"10.78.0.1/24":   "",
		"10.85.0.1/24":   "unreachable 10.80.0.0/12",
		"192.168.5.1/24": "192.168.0.0/16 via 10.77.0.1 dev ph0",
		"172.20.0.1/24":  "",
		"127.0.0.5/32":   "local 127.0.0.0/8 dev lo",
		"fd77::9/64":     "fd77::/64 dev ph0",
		"fd78::1/64":     "",
	} {
		text, found, err := Overlap(netip.MustParsePrefix(p))
		require.NoError(t, err)
		require.Equal(t, want, text, p)
		require.Equal(t, want != "", found, p)
	}
	a, b, err = FreePrefixes(host4, host6)
	require.NoError(t, err)
	require.Equal(t, "10.78.0.1/24 fd78::1/64", a.String()+" "+b.String())
}
