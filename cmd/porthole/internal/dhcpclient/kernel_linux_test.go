package dhcpclient

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"porthole/internal/netns"
	"porthole/services"
	"porthole/services/dhcp"
	"porthole/services/servicestest"
)

// The kernel tests run the real server and real clients, ours and stock ones, in
// network namespaces of their own: over a veth pair (Ethernet) and over a TUN
// device, both without any address on the client's side and with strict rp_filter.
// They need root; without, they skip, unless PORTHOLE_E2E=require.

// patience is for what comes at once unless something is broken.
const patience = time.Minute

func skip(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("PORTHOLE_E2E") == "require" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return string(out)
}

func makeNS(t *testing.T) string {
	t.Helper()
	ns := fmt.Sprintf("phtest-%08x", rand.Uint32())
	if out, err := exec.Command("ip", "netns", "add", ns).CombinedOutput(); err != nil {
		skip(t, "no network namespace: %v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
	in(t, ns, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.default.rp_filter=1")
	in(t, ns, "sysctl", "-eqw", "net.ipv6.conf.all.disable_ipv6=1") // where there is any
	in(t, ns, "ip", "link", "set", "lo", "up")
	return ns
}

func in(t *testing.T, ns string, args ...string) string {
	t.Helper()
	return command(t, "ip", append([]string{"netns", "exec", ns}, args...)...)
}

// rig is a running server and the interface at the clients' end.
type rig struct {
	ns, ifname string
	ethernet   bool
	dir        string
	log        *servicestest.Log
}

func (r *rig) serve(t *testing.T, pc net.PacketConn, link services.Net, hw net.HardwareAddr) {
	cfg := dhcp.Service.Config().(*dhcp.Config)
	cfg.MinLeaseTime = 10 * time.Second
	r.log = &servicestest.Log{}
	env := &services.Env{
		Host:   services.Host{Zone: "porthole.test", MTU: 1500, Addr4: netip.MustParsePrefix("10.77.0.1/24"), HW: hw},
		Config: cfg, Log: slog.New(slog.NewTextHandler(r.log, nil)), Now: time.Now, DataDir: t.TempDir(),
		UDP: []net.PacketConn{pc}, Net: link,
		Ports: func() []services.PortInfo { return []services.PortInfo{{Port: services.UDP(53)}} },
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- dhcp.Service.Serve(ctx, env) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		if t.Failed() {
			t.Log(r.log.String())
		}
	})
}

// vethRig has the server on a kernel UDP socket and a packet socket.
func vethRig(t *testing.T) *rig {
	if os.Getuid() != 0 {
		skip(t, "needs root")
	}
	server, client := makeNS(t), makeNS(t)
	command(t, "ip", "link", "add", "ve0", "netns", server, "type", "veth", "peer", "name", "ve1", "netns", client)
	in(t, server, "ip", "addr", "add", "10.77.0.1/24", "dev", "ve0")
	in(t, server, "ip", "link", "set", "ve0", "up")
	in(t, client, "ip", "link", "set", "ve1", "up")
	var (
		pc  net.PacketConn
		raw vethNet
	)
	require.NoError(t, netns.Do(server, func() error {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
				unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "ve0")
			})
		}}
		var err error
		if pc, err = lc.ListenPacket(context.Background(), "udp4", "0.0.0.0:67"); err != nil {
			return err
		}
		ifi, err := net.InterfaceByName("ve0")
		if err != nil {
			return err
		}
		raw.index, raw.hw = ifi.Index, ifi.HardwareAddr
		raw.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	t.Cleanup(func() { unix.Close(raw.fd) })
	r := &rig{ns: client, ifname: "ve1", ethernet: true, dir: t.TempDir()}
	r.serve(t, pc, raw, raw.hw)
	return r
}

type vethNet struct {
	services.Net
	fd, index int
	hw        net.HardwareAddr
}

func (v vethNet) SendLink(hw net.HardwareAddr, from, to netip.AddrPort, b []byte) error {
	sa := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: v.index, Halen: 6}
	copy(sa.Addr[:], hw)
	return unix.Sendto(v.fd, serverDatagram(b, from, to), 0, sa)
}

// serverDatagram is datagram from the server's port.
func serverDatagram(b []byte, from, to netip.AddrPort) []byte {
	p := datagram(b, from.Addr(), to)
	binary.BigEndian.PutUint16(p[ipHead:], from.Port())
	p[ipHead+6], p[ipHead+7] = 0, 0 // no UDP checksum
	return p
}

// tunRig has the server behind a TUN device that the test reads and writes itself.
func tunRig(t *testing.T) *rig {
	if os.Getuid() != 0 {
		skip(t, "needs root")
	}
	ns := makeNS(t)
	var dev *os.File
	err := netns.Do(ns, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		ifr, _ := unix.NewIfreq("tu0")
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			unix.Close(fd)
			return err
		}
		dev = os.NewFile(uintptr(fd), "tun") // after TUNSETIFF, when it can be polled
		return nil
	})
	if err != nil {
		skip(t, "no TUN device: %v", err)
	}
	in(t, ns, "ip", "link", "set", "tu0", "up")
	r := &rig{ns: ns, ifname: "tu0", dir: t.TempDir()}
	r.serve(t, &tunPort{dev: dev}, vethNet{}, nil)
	return r
}

// tunPort is 67/udp of a host that is nothing else.
type tunPort struct {
	port // deadlines
	dev  *os.File
}

func (p *tunPort) ReadFrom(b []byte) (int, net.Addr, error) {
	raw := make([]byte, 65535)
	for {
		n, err := p.dev.Read(raw)
		if err != nil {
			return 0, nil, net.ErrClosed
		}
		raw := raw[:n]
		if n < 28 || raw[0] != 0x45 || raw[9] != 17 || binary.BigEndian.Uint16(raw[22:]) != 67 {
			continue
		}
		if sum(0, raw[:ipHead]) != 0xffff || raw[26]|raw[27] != 0 && sum(pseudo(raw, n-ipHead), raw[ipHead:]) != 0xffff {
			continue // the client's checksums must be right
		}
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte(raw[12:16])), binary.BigEndian.Uint16(raw[20:]))
		return copy(b, raw[28:]), net.UDPAddrFromAddrPort(from), nil
	}
}

func (p *tunPort) WriteTo(b []byte, to net.Addr) (int, error) {
	return p.dev.Write(serverDatagram(b, netip.MustParseAddrPort("10.77.0.1:67"), to.(*net.UDPAddr).AddrPort()))
}

func (p *tunPort) Close() error { return p.dev.Close() }

var rigs = map[string]func(*testing.T) *rig{"veth": vethRig, "tun": tunRig}

func (r *rig) own(t *testing.T, o Options) ([]string, error) {
	var out bytes.Buffer
	o.Interface, o.Timeout = r.ifname, patience
	err := netns.Do(r.ns, func() error { return Run(t.Context(), o, &out) })
	return strings.Split(strings.TrimSpace(out.String()), "\n"), err
}

func TestKernelOwnClient(t *testing.T) {
	for name, open := range rigs {
		t.Run(name, func(t *testing.T) {
			r := open(t)
			out, err := r.own(t, Options{Then: []string{"renew", "rebind", "inform", "release"}})
			require.NoError(t, err)
			for _, want := range []string{"lease      10.77.0.2/24", "renew      10.77.0.2/24", "rebind     10.77.0.2/24", "inform     10.77.0.2/24", "release    10.77.0.2/24", "router     10.77.0.1", "mtu        1500"} {
				require.Contains(t, out, want)
			}
			require.NotContains(t, in(t, r.ns, "ip", "-4", "addr", "show", "dev", r.ifname), "inet ", "nothing is configured unless asked")
		})
	}
}

func TestKernelApply(t *testing.T) {
	for name, open := range rigs {
		t.Run(name, func(t *testing.T) {
			r := open(t)
			_, err := r.own(t, Options{Apply: true, LeaseTime: 10 * time.Minute})
			require.NoError(t, err)
			show := in(t, r.ns, "ip", "-4", "addr", "show", "dev", r.ifname)
			require.Contains(t, show, "inet 10.77.0.2/24")
			require.Regexp(t, "valid_lft (600|5[0-9][0-9])sec", show)
			_, err = r.own(t, Options{Apply: true, Reboot: netip.MustParseAddr("10.77.0.2"), Then: []string{"renew", "release"}})
			require.NoError(t, err)
			require.NotContains(t, in(t, r.ns, "ip", "-4", "addr", "show", "dev", r.ifname), "inet ")
		})
	}
}

func TestKernelMany(t *testing.T) {
	for name, open := range rigs {
		t.Run(name, func(t *testing.T) {
			r := open(t)
			out, err := r.own(t, Options{Count: 200, Parallel: 16, Then: []string{"renew", "release"}})
			require.NoError(t, err)
			require.Contains(t, out[0], "200 leases, 0 failed")
			t.Log(out[0])
		})
	}
}

func TestKernelDown(t *testing.T) {
	r := vethRig(t)
	in(t, r.ns, "ip", "link", "set", "ve1", "down")
	_, err := r.own(t, Options{})
	require.ErrorContains(t, err, "ip link set ve1 up")
}

// stock is a client process in the rig's namespace whose output is watched. Its
// script configures the interface and writes nothing else, /etc least of all.
type stock struct {
	t    *testing.T
	cmd  *exec.Cmd
	mu   sync.Mutex
	all  []string
	line chan string
	done chan struct{}
}

func (r *rig) start(t *testing.T, args ...string) *stock {
	t.Helper()
	s := &stock{t: t, line: make(chan string, 1024), done: make(chan struct{})}
	s.cmd = exec.Command("ip", append([]string{"netns", "exec", r.ns}, args...)...)
	s.cmd.WaitDelay = 5 * time.Second
	pr, pw, err := os.Pipe()
	require.NoError(t, err)
	s.cmd.Stdout, s.cmd.Stderr = pw, pw
	require.NoError(t, s.cmd.Start())
	pw.Close()
	go func() {
		defer close(s.done)
		defer pr.Close()
		for sc := bufio.NewScanner(pr); sc.Scan(); {
			s.mu.Lock()
			s.all = append(s.all, sc.Text())
			s.mu.Unlock()
			select {
			case s.line <- sc.Text():
			default:
			}
		}
	}()
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		r.sweep(t)
		<-s.done
		if t.Failed() {
			t.Log(strings.Join(s.all, "\n"))
		}
	})
	return s
}

// sweep ends what is left in the namespace that this test made: dhcpcd's helpers
// outlive it when it is killed.
func (r *rig) sweep(t *testing.T) {
	out, err := exec.Command("ip", "netns", "pids", r.ns).Output()
	require.NoError(t, err)
	for _, f := range strings.Fields(string(out)) {
		if pid, err := strconv.Atoi(f); err == nil && pid != os.Getpid() {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// expect waits for a line that begins with want.
func (s *stock) expect(want string) {
	s.t.Helper()
	late := time.After(patience)
	for {
		select {
		case l := <-s.line:
			if strings.HasPrefix(l, want) {
				return
			}
		case <-late:
			s.mu.Lock()
			defer s.mu.Unlock()
			s.t.Fatalf("no line %q; there were:\n%s", want, strings.Join(s.all, "\n"))
		}
	}
}

func (r *rig) script(t *testing.T, text string) string {
	path := filepath.Join(r.dir, "script")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755))
	return path
}

func need(t *testing.T, name string) {
	if _, err := exec.LookPath(name); err != nil {
		skip(t, "%s is not installed", name)
	}
}

func TestKernelUdhcpc(t *testing.T) {
	need(t, "udhcpc")
	for name, open := range rigs {
		t.Run(name, func(t *testing.T) {
			r := open(t)
			script := r.script(t, `
case $1 in
bound|renew) ip addr replace $ip/$mask dev $interface; echo "EVENT $1 $ip/$mask router $router dns $dns domain $domain lease $lease" ;;
*) ip -4 addr flush dev $interface; echo "EVENT $1" ;;
esac`)
			s := r.start(t, "udhcpc", "-f", "-i", r.ifname, "-s", script, "-t", "30", "-T", "2")
			s.expect("EVENT bound 10.77.0.2/24 router 10.77.0.1 dns 10.77.0.1 domain porthole.test lease 3600")
			require.NoError(t, s.cmd.Process.Signal(unix.SIGUSR1))
			s.expect("EVENT renew 10.77.0.2/24")
			require.NoError(t, s.cmd.Process.Signal(unix.SIGUSR2))
			s.expect("EVENT deconfig")
			require.NoError(t, s.cmd.Process.Signal(unix.SIGTERM))
			<-s.done
			r.logged(t, "request=DHCPRELEASE result=released")
		})
	}
}

// logged waits for a line of the server's log.
func (r *rig) logged(t *testing.T, want string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(r.log.String(), want) }, patience, 10*time.Millisecond, want)
}

func TestKernelDhclient(t *testing.T) {
	need(t, "dhclient")
	r := vethRig(t)
	script := r.script(t, `
case $reason in
BOUND|RENEW|REBIND|REBOOT) ip addr replace $new_ip_address/24 dev $interface; echo "EVENT $reason $new_ip_address mask $new_subnet_mask router $new_routers mtu $new_interface_mtu" ;;
EXPIRE|FAIL|RELEASE|STOP) ip -4 addr flush dev $interface; echo "EVENT $reason" ;;
*) echo "EVENT $reason" ;;
esac`)
	conf := filepath.Join(r.dir, "conf")
	require.NoError(t, os.WriteFile(conf, []byte("request subnet-mask, routers, interface-mtu;\nsend dhcp-lease-time 12;\ntimeout 60;\n"), 0o644))
	args := []string{"-4", "-cf", conf, "-lf", filepath.Join(r.dir, "leases"), "-pf", filepath.Join(r.dir, "pid"), "-sf", script}
	s := r.start(t, append(append([]string{"dhclient", "-d", "-v"}, args...), r.ifname)...)
	s.expect("EVENT BOUND 10.77.0.2 mask 255.255.255.0 router 10.77.0.1 mtu 1500")
	s.expect("EVENT RENEW 10.77.0.2") // within 6 s
	s.cmd.Process.Signal(unix.SIGKILL)
	s.cmd.Wait()
	again := r.start(t, append(append([]string{"dhclient", "-d", "-v", "-1"}, args...), r.ifname)...)
	again.expect("EVENT REBOOT 10.77.0.2")
	again.cmd.Process.Signal(unix.SIGKILL)
	again.cmd.Wait()
	rel := r.start(t, append(append([]string{"dhclient", "-d", "-v", "-r"}, args...), r.ifname)...)
	rel.expect("EVENT RELEASE")
	r.logged(t, "request=DHCPRELEASE result=released")
}

func TestKernelDhcpcd(t *testing.T) {
	need(t, "dhcpcd")
	need(t, "unshare")
	for name, open := range rigs {
		t.Run(name, func(t *testing.T) {
			r := open(t)
			script := r.script(t, `
case $reason in
BOUND|RENEW|REBIND|REBOOT) echo "EVENT $reason $new_ip_address/$new_subnet_cidr router $new_routers" >&2 ;;
*) echo "EVENT $reason" >&2 ;;
esac`)
			conf := filepath.Join(r.dir, "conf")
			require.NoError(t, os.WriteFile(conf, []byte("ipv4only\nnoarp\nnogateway\noption routers, domain_name_servers\nscript "+script+"\ninterface "+r.ifname+"\ndhcp\n"), 0o644))
			// Its state directories are private to the process.
			sh := "mount -t tmpfs none /run && mount -t tmpfs none /var/lib/dhcpcd && mkdir -p /var/lib/dhcpcd/dev && exec dhcpcd -B -d -f " + conf + " -t 60 " + r.ifname
			s := r.start(t, "unshare", "-m", "sh", "-c", sh)
			s.expect("EVENT BOUND 10.77.0.2/24")
			require.Eventually(t, func() bool {
				return strings.Contains(in(t, r.ns, "ip", "-4", "addr", "show", "dev", r.ifname), "inet 10.77.0.2/24")
			}, patience, 50*time.Millisecond)
			require.NoError(t, s.cmd.Process.Signal(unix.SIGALRM)) // release
			r.logged(t, "request=DHCPRELEASE result=released")
		})
	}
}
