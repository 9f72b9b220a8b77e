package dhcpclient

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// packetLink is a Link on packet sockets, which send from 0.0.0.0 and hear
// broadcasts on an interface that has no address and with strict rp_filter, where
// a UDP socket does not. They work at IP level, so a TUN device is as good as an
// Ethernet one. Three sockets: DHCP, ARP (on Ethernet, for addresses that the
// machine does not have), and a UDP socket on port 68 that takes nothing and only
// keeps the kernel from answering unicasts with "port unreachable".
type packetLink struct {
	name  string
	index int
	htype byte
	hw    []byte

	dhcp, arp *os.File // arp is nil without link addresses
	hold      int      // the UDP socket, or -1
	done      chan struct{}

	mu    sync.Mutex
	owned map[netip.Addr]bool
	hops  map[netip.Addr]net.HardwareAddr // where DHCP servers were heard from; at most maxHops
}

const maxHops = 64

func packetError(name string, err error) error {
	next := ""
	if errors.Is(err, os.ErrPermission) {
		next = "; it needs root (CAP_NET_RAW)"
	}
	return fmt.Errorf("dhcp client: packet socket on %s: %w%s", name, err, next)
}

func openLink(name string) (Link, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		var oe *net.OpError
		if errors.As(err, &oe) {
			err = oe.Err
		}
		return nil, fmt.Errorf("dhcp client: interface %s: %w; --interface names another, or start a host: `porthole exec --peer-address none -- porthole client dhcp`", name, err)
	}
	if ifi.Flags&net.FlagUp == 0 {
		return nil, fmt.Errorf("dhcp client: interface %s is down; run: ip link set %s up", name, name)
	}
	l := &packetLink{
		name: name, index: ifi.Index, htype: 31, // a tunnel; RFC 3456 has its clients say so
		hold: -1, done: make(chan struct{}), owned: map[netip.Addr]bool{}, hops: map[netip.Addr]net.HardwareAddr{},
	}
	if len(ifi.HardwareAddr) == 6 {
		l.htype, l.hw = 1, ifi.HardwareAddr
	}
	if l.dhcp, err = packetSocket(ifi.Index, unix.ETH_P_IP, onlyDHCP); err != nil {
		return nil, packetError(name, err)
	}
	if l.hw != nil {
		if l.arp, err = packetSocket(ifi.Index, unix.ETH_P_ARP, nil); err != nil {
			l.dhcp.Close()
			return nil, packetError(name, err)
		}
		go l.answerARP()
	} else {
		close(l.done)
	}
	l.hold = holdPort(name)
	return l, nil
}

// onlyDHCP passes unfragmented UDP to port 68.
var onlyDHCP = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 9, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 17, SkipTrue: 6},
	bpf.LoadAbsolute{Off: 6, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff, SkipTrue: 4},
	bpf.LoadMemShift{Off: 0},
	bpf.LoadIndirect{Off: 2, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 68, SkipTrue: 1},
	bpf.RetConstant{Val: 65535},
	bpf.RetConstant{Val: 0},
}

// packetSocket is bound after its filter is in place, so that nothing else is ever
// queued. It is non-blocking, in the Go poller.
func packetSocket(index, proto int, filter []bpf.Instruction) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		setFilter(fd, filter),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20), // many clients at once; the kernel's limit caps it
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(proto), Ifindex: index}),
	)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "packet"), nil
}

func setFilter(fd int, prog []bpf.Instruction) error {
	if prog == nil {
		return nil
	}
	raw, err := bpf.Assemble(prog)
	if err != nil {
		return err
	}
	code := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		code[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]})
}

// holdPort is best effort: without it the kernel answers a renewal's ACK with an
// ICMP error once the address is applied, which servers ignore.
func holdPort(name string) int {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	err = errors.Join(
		setFilter(fd, []bpf.Instruction{bpf.RetConstant{Val: 0}}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, name),
		unix.Bind(fd, &unix.SockaddrInet4{Port: 68}),
	)
	if err != nil {
		unix.Close(fd)
		return -1
	}
	return fd
}

func (l *packetLink) HW() (byte, []byte) { return l.htype, l.hw }

func (l *packetLink) Send(payload []byte, from netip.Addr, to netip.AddrPort) error {
	hw := net.HardwareAddr{255, 255, 255, 255, 255, 255}
	l.mu.Lock()
	if hop := l.hops[to.Addr()]; hop != nil {
		hw = hop
	}
	l.mu.Unlock()
	if err := l.send(l.dhcp, unix.ETH_P_IP, datagram(payload, from, to), hw); err != nil {
		return fmt.Errorf("send on %s: %w", l.name, err)
	}
	return nil
}

func (l *packetLink) send(f *os.File, proto int, b []byte, hw net.HardwareAddr) error {
	sa := &unix.SockaddrLinklayer{Protocol: htons(proto), Ifindex: l.index}
	if l.hw != nil {
		sa.Halen = 6
		copy(sa.Addr[:], hw)
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := conn.Write(func(fd uintptr) bool {
		serr = unix.Sendto(int(fd), b, 0, sa)
		return serr != unix.EAGAIN
	}); err != nil {
		return err
	}
	return serr
}

func (l *packetLink) Receive(buf []byte) (int, error) {
	raw, oob := make([]byte, 65535), make([]byte, 128)
	for {
		n, vouched, from, err := receive(l.dhcp, raw, oob)
		if err != nil {
			return 0, err
		}
		data, ok := payload(raw[:n], vouched)
		if !ok {
			continue
		}
		if from != nil {
			src := netip.AddrFrom4([4]byte(raw[12:16]))
			l.mu.Lock()
			if len(l.hops) < maxHops || l.hops[src] != nil {
				l.hops[src] = from
			}
			l.mu.Unlock()
		}
		return copy(buf, data), nil
	}
}

// receive waits for a packet. vouched is whether its checksums are still to be
// made (it never left the machine).
func receive(f *os.File, b, oob []byte) (n int, vouched bool, from net.HardwareAddr, err error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, false, nil, err
	}
	var (
		rerr error
		oobn int
		sa   unix.Sockaddr
	)
	if err := conn.Read(func(fd uintptr) bool {
		n, oobn, _, sa, rerr = unix.Recvmsg(int(fd), b, oob, 0)
		return rerr != unix.EAGAIN && rerr != unix.EINTR
	}); err != nil {
		return 0, false, nil, os.ErrClosed
	}
	if rerr != nil {
		return 0, false, nil, rerr
	}
	if ll, ok := sa.(*unix.SockaddrLinklayer); ok && ll.Halen == 6 {
		from = append(from, ll.Addr[:6]...)
	}
	if msgs, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil {
		for _, m := range msgs {
			if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 4 {
				const notReady, valid = 1 << 3, 1 << 7 // TP_STATUS_CSUMNOTREADY, TP_STATUS_CSUM_VALID
				vouched = binary.NativeEndian.Uint32(m.Data)&(notReady|valid) != 0
			}
		}
	}
	return n, vouched, from, nil
}

func (l *packetLink) Own(a netip.Addr)    { l.mu.Lock(); l.owned[a] = true; l.mu.Unlock() }
func (l *packetLink) Disown(a netip.Addr) { l.mu.Lock(); delete(l.owned, a); l.mu.Unlock() }

// answerARP answers requests for owned addresses (RFC 826).
func (l *packetLink) answerARP() {
	defer close(l.done)
	b, oob := make([]byte, 128), make([]byte, 128)
	for {
		n, _, _, err := receive(l.arp, b, oob)
		if err != nil {
			return
		}
		// Ethernet, IPv4, lengths 6 and 4, request.
		if n < 28 || string(b[:8]) != "\x00\x01\x08\x00\x06\x04\x00\x01" {
			continue
		}
		target := netip.AddrFrom4([4]byte(b[24:28]))
		l.mu.Lock()
		ours := l.owned[target]
		l.mu.Unlock()
		if !ours {
			continue
		}
		asker := net.HardwareAddr(append([]byte(nil), b[8:14]...))
		re := append([]byte("\x00\x01\x08\x00\x06\x04\x00\x02"), l.hw...)
		re = append(append(re, b[24:28]...), b[8:18]...)
		l.send(l.arp, unix.ETH_P_ARP, re, asker) // a lost one is asked for again
	}
}

func (l *packetLink) Close() error {
	err := l.dhcp.Close()
	if l.arp != nil {
		l.arp.Close()
	}
	<-l.done
	if l.hold >= 0 {
		unix.Close(l.hold)
		l.hold = -1
	}
	return err
}

func htons(v int) uint16 { return uint16(v)<<8 | uint16(v)>>8 }

// addAddress puts p on the interface; the kernel takes it off when the lease ends
// without renewal.
func addAddress(name string, p netip.Prefix, lease time.Duration) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		secs := int(min(lease/time.Second, 1<<31-1))
		err = netlink.AddrReplace(link, &netlink.Addr{IPNet: ipnet(p), ValidLft: secs, PreferedLft: secs})
	}
	if err != nil {
		return fmt.Errorf("add %v to %s: %w", p, name, err)
	}
	return nil
}

func removeAddress(name string, p netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		if err = netlink.AddrDel(link, &netlink.Addr{IPNet: ipnet(p)}); errors.Is(err, unix.EADDRNOTAVAIL) {
			err = nil // the kernel was first
		}
	}
	if err != nil {
		return fmt.Errorf("remove %v from %s: %w", p, name, err)
	}
	return nil
}

func ipnet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}
