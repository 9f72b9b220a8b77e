package tun

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// complete finishes the checksum that the kernel left to the device.
func complete(g got) []byte {
	if g.Flags&NeedsCsum != 0 {
		at := g.b[int(g.CsumStart)+int(g.CsumOffset):]
		binary.BigEndian.PutUint16(at, ^uint16(sum(0, g.b[g.CsumStart:])))
	}
	return g.b
}

// A kernel socket asks, the device sees the question, answers, and the socket
// gets the answer: both families, all kinds.
func TestUDPRoundTrip(t *testing.T) {
	for _, kind := range kernelKinds {
		t.Run(kind, func(t *testing.T) {
			netns(t)
			d := open(t, Options{Name: "ph0", Kind: kind, Peer4: machine4, Peer6: machine6})
			link, err := netlink.LinkByName("ph0")
			require.NoError(t, err)
			for _, pair := range [][2]netip.Addr{{machine4.Addr(), host4.Addr()}, {machine6.Addr(), host6.Addr()}} {
				me, host := netip.AddrPortFrom(pair[0], 4000), netip.AddrPortFrom(pair[1], 9)
				if kind == KindTAP {
					require.NoError(t, netlink.NeighAdd(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT,
						IP: host.Addr().AsSlice(), HardwareAddr: d.Facts().HW}))
				}
				sock, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(me))
				require.NoError(t, err)
				for _, n := range []int{0, 1, 1400} {
					question := pattern(n, n)
					_, err = sock.WriteToUDPAddrPort(question, host)
					require.NoError(t, err)
					want := udp(me, host, question)
					g := readWhere(t, d, func(g got) bool {
						b := payload(d, complete(g))
						return len(b) == len(want) && b[0] == want[0] && string(b[len(b)-n-8:len(b)-n-2]) == string(want[len(b)-n-8:len(b)-n-2])
					})
					b := payload(d, g.b)
					require.Equal(t, want[len(b)-n-8:], b[len(b)-n-8:], "the datagram, its checksum complete")
					if kind == KindTAP {
						require.Equal(t, []byte(d.Facts().HW), g.b[:6])
						require.Equal(t, Offload{}, g.Offload)
					}

					answer := udp(host, me, pattern(n+1, n))
					if kind == KindTAP {
						answer = etherHeader(link.Attrs().HardwareAddr, d.Facts().HW, answer)
					}
					_, err = d.Write(0, out(answer), true)
					require.NoError(t, err)
					in := make([]byte, 2000)
					require.NoError(t, sock.SetReadDeadline(time.Now().Add(patience)))
					k, from, err := sock.ReadFromUDPAddrPort(in)
					require.NoError(t, err)
					require.Equal(t, host, from)
					require.Equal(t, pattern(n+1, n), in[:k])
				}
				require.NoError(t, sock.Close())
			}
		})
	}
}

// segment is a TCP segment whose checksum holds only the pseudo-header's sum when
// partial.
func segment(from, to netip.AddrPort, seq, ack uint32, flags byte, options, data []byte, partial bool) []byte {
	h := make([]byte, 20, 20+len(options)+len(data))
	binary.BigEndian.PutUint16(h[0:], from.Port())
	binary.BigEndian.PutUint16(h[2:], to.Port())
	binary.BigEndian.PutUint32(h[4:], seq)
	binary.BigEndian.PutUint32(h[8:], ack)
	h[12], h[13] = byte(20+len(options))/4<<4, flags
	binary.BigEndian.PutUint16(h[14:], 65535)
	h = append(append(h, options...), data...)
	s := pseudo(from.Addr(), to.Addr(), 6, len(h))
	if partial {
		binary.BigEndian.PutUint16(h[16:], uint16(s))
	} else {
		binary.BigEndian.PutUint16(h[16:], ^uint16(sum(s, h)))
	}
	return ip(from.Addr(), to.Addr(), 6, h)
}

// A kernel TCP connection sends and gets super-packets.
func TestTCPSuperPackets(t *testing.T) {
	for name, tc := range map[string]struct {
		me, host netip.AddrPort
		gso      uint8
		ip       int // bytes of the IP header
		mss      uint16
	}{
		"IPv4": {netip.AddrPortFrom(machine4.Addr(), 0), netip.AddrPortFrom(host4.Addr(), 80), GSOTCP4, 20, 1460},
		"IPv6": {netip.AddrPortFrom(machine6.Addr(), 0), netip.AddrPortFrom(host6.Addr(), 80), GSOTCP6, 40, 1440},
	} {
		t.Run(name, func(t *testing.T) {
			netns(t)
			d := open(t, Options{Name: "ph0", Kind: KindOffload, Peer4: machine4, Peer6: machine6})
			family, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: 80, Addr: host4.Addr().As4()})
			if tc.ip == 40 {
				family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: 80, Addr: host6.Addr().As16()}
			}
			fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			require.NoError(t, err)
			defer unix.Close(fd)
			require.ErrorIs(t, unix.Connect(fd, to), unix.EINPROGRESS)
			isTCP := func(min int) func(got) bool {
				return func(g got) bool {
					return len(g.b) >= min && (g.b[9] == 6 && tc.ip == 20 || g.b[6] == 6 && tc.ip == 40)
				}
			}
			syn := readWhere(t, d, isTCP(40)).b[tc.ip:]
			me := netip.AddrPortFrom(tc.me.Addr(), binary.BigEndian.Uint16(syn))
			seq := binary.BigEndian.Uint32(syn[4:]) + 1
			options := []byte{2, 4, byte(tc.mss >> 8), byte(tc.mss), 1, 3, 3, 7}
			_, err = d.Write(0, out(segment(tc.host, me, 1000, seq, 0x12, options, nil, false)), true)
			require.NoError(t, err)
			waitFor(t, fd, unix.POLLOUT)

			// In: the kernel hands over a super-packet, its checksum left to us.
			sent := pattern(5, 40000)
			n, err := unix.Write(fd, sent)
			require.NoError(t, err)
			require.Equal(t, len(sent), n)
			g := readWhere(t, d, isTCP(tc.ip+20+int(tc.mss)+1))
			require.Equal(t, Offload{Flags: NeedsCsum, GSO: tc.gso, HdrLen: uint16(tc.ip + 20), SegSize: tc.mss,
				CsumStart: uint16(tc.ip), CsumOffset: 16}, g.Offload)
			data := g.b[g.HdrLen:]
			require.Greater(t, len(data), int(tc.mss))
			require.Equal(t, sent[:len(data)], data)
			tcp := complete(g)[tc.ip:]
			require.Equal(t, uint32(0xffff), sum(pseudo(me.Addr(), tc.host.Addr(), 6, len(tcp)), tcp), "the checksum of the whole can be completed")

			// Out: the kernel takes ours.
			reply := pattern(6, 30000)
			p := segment(tc.host, me, 1001, seq, 0x18, nil, reply, true)
			hdr := tc.ip + 20
			_, err = d.Write(0, []Out{{Pieces: [][]byte{p[:hdr], p[hdr:9000], p[9000:]}, Offload: Offload{Flags: NeedsCsum, GSO: tc.gso,
				HdrLen: uint16(hdr), SegSize: tc.mss, CsumStart: uint16(tc.ip), CsumOffset: 16}}}, true)
			require.NoError(t, err)
			var in []byte
			for b := make([]byte, 65536); len(in) < len(reply); {
				waitFor(t, fd, unix.POLLIN)
				n, err := unix.Read(fd, b)
				require.NoError(t, err)
				require.Positive(t, n)
				in = append(in, b[:n]...)
			}
			require.Equal(t, reply, in)
		})
	}
}

// The kernel sends a flow to the queue on which the host wrote to it last.
func TestMultiQueue(t *testing.T) {
	for _, kind := range []string{KindOffload, KindTAP} {
		t.Run(kind, func(t *testing.T) {
			netns(t)
			d := open(t, Options{Name: "ph0", Kind: kind, Queues: 3, Peer4: machine4})
			require.Equal(t, 3, d.Facts().Queues)
			link, err := netlink.LinkByName("ph0")
			require.NoError(t, err)
			if kind == KindTAP {
				require.NoError(t, netlink.NeighAdd(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT,
					IP: host4.Addr().AsSlice(), HardwareAddr: d.Facts().HW}))
			}
			sock, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(fromMachine))
			require.NoError(t, err)
			defer sock.Close()
			for q := range 3 {
				host := netip.AddrPortFrom(host4.Addr(), uint16(100+q))
				b := udp(host, fromMachine, []byte("hello"))
				if kind == KindTAP {
					b = etherHeader(link.Attrs().HardwareAddr, d.Facts().HW, b)
				}
				_, err := d.Write(q, out(b), true)
				require.NoError(t, err)
				require.NoError(t, sock.SetReadDeadline(time.Now().Add(patience)))
				in := make([]byte, 100)
				_, from, err := sock.ReadFromUDPAddrPort(in)
				require.NoError(t, err)
				_, err = sock.WriteToUDPAddrPort([]byte("answer"), from)
				require.NoError(t, err)
				for {
					g := read(t, d, q, 1)[0]
					if p := payload(d, g.b); len(p) == 34 && p[9] == 17 {
						require.Equal(t, uint16(100+q), binary.BigEndian.Uint16(p[22:]))
						break
					}
				}
			}
			ended := make(chan error)
			for q := range 3 {
				go func() {
					for {
						frames, tail := batch(4)
						if _, err := d.Read(q, frames, tail); err != nil {
							ended <- err
							return
						}
					}
				}()
			}
			require.NoError(t, d.Close())
			for range 3 {
				require.ErrorIs(t, <-ended, os.ErrClosed)
			}
			gone(t, "ph0")
		})
	}
}

// The counters say what was read and written, and what the kernel's ring lost.
func TestLinkStats(t *testing.T) {
	for _, kind := range []string{KindOffload, KindWater} { // TAP's link has a life of its own
		t.Run(kind, func(t *testing.T) {
			netns(t)
			d := open(t, Options{Name: "ph0", Kind: kind, Peer4: machine4})
			s, err := LinkStats("ph0")
			require.NoError(t, err)
			require.Equal(t, Stats{}, s, "a link without IPv6 is silent")

			sock, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(fromMachine))
			require.NoError(t, err)
			defer sock.Close()
			const sent = 700
			refused := 0
			for range sent {
				if _, err := sock.WriteToUDPAddrPort(make([]byte, 72), toHost); err != nil {
					require.ErrorIs(t, err, unix.ENOBUFS)
					refused++
				}
			}
			s, err = LinkStats("ph0")
			require.NoError(t, err)
			dropped := int(s.InDropped)
			require.Positive(t, dropped+refused)
			require.Zero(t, s.InPackets, "nothing was read yet")
			arrived := 0
			for want := sent - dropped - refused; arrived < want; {
				arrived += len(read(t, d, 0, 64))
			}
			reply := udp(toHost, fromMachine, make([]byte, 22))
			for range 5 {
				_, err = d.Write(0, out(reply), true)
				require.NoError(t, err)
			}
			_, err = d.Write(0, out(pattern(0x10, 40)), true)
			require.ErrorIs(t, err, ErrMalformed)
			s, err = LinkStats("ph0")
			require.NoError(t, err)
			require.Equal(t, Stats{
				InPackets: uint64(arrived), InBytes: uint64(arrived * 100), InDropped: uint64(dropped),
				OutPackets: 5, OutBytes: 250, OutDropped: 1,
			}, s)
		})
	}
	_, err := LinkStats("no-such-link")
	require.ErrorContains(t, err, "counters of no-such-link: ")
}
