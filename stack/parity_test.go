package stack_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"porthole/demux"
	"porthole/demux/packet"
	"porthole/stack"
	"porthole/stack/stacktest"
	"porthole/tun"
)

// bare is a host whose link the test reads itself.
type bare struct {
	t    *testing.T
	host *stack.Stack
	wire tun.Device
	buf  []tun.Frame
	tail []byte
}

func newBare(t *testing.T, o tun.PipeOptions, addrs ...netip.Prefix) *bare {
	p := o
	if o.HW != nil {
		p.HW = []byte{2, 0, 0, 0, 0, 2}
	}
	a, b := tun.Pipe(o, p)
	host, err := stack.New(stack.Config{Device: a, Table: demux.New(demux.Options{}), Addrs: addrs})
	require.NoError(t, err)
	stop := run(t, host)
	t.Cleanup(func() { b.Close(); stop() })
	return &bare{t: t, host: host, wire: b, tail: make([]byte, tun.TailSize)}
}

// next is the next frame of the host.
func (r *bare) next() []byte {
	r.t.Helper()
	if len(r.buf) == 0 {
		r.buf = []tun.Frame{{Head: make([]byte, tun.HeadSize)}}
		_, err := r.wire.Read(0, r.buf, r.tail)
		require.NoError(r.t, err)
	}
	f := r.buf[0]
	r.buf = nil
	return append(append([]byte(nil), f.Head...), f.Tail...)
}

func (r *bare) send(b []byte) {
	r.t.Helper()
	_, err := r.wire.Write(0, []tun.Out{{Pieces: [][]byte{b}}}, true)
	require.NoError(r.t, err)
}

// plain blanks what differs between the two senders: IPv4's id, its DF and its sum,
// and the id of an IPv6 fragment. Netstack's socket sets DF, heeds no "fragmentation
// needed" that comes of it, and sends all fragments with the id 0. Ours sends what a
// router may cut (RFC 1191, 3 asks no more of it), with an id, as BIND does.
func plain(t *testing.T, b []byte, ours bool) []byte {
	b = append([]byte(nil), b...)
	i, p := packet.Parse(b, len(b))
	require.Equal(t, packet.None, p)
	require.True(t, packet.VerifyHeader(&i, b))
	if i.Kind == packet.UDP {
		require.True(t, packet.VerifyTransport(&i, b, nil))
	}
	switch {
	case b[0]>>4 == 4:
		if ours {
			require.Zero(t, b[6]&0x40)
			require.NotZero(t, binary.BigEndian.Uint16(b[4:]), "DF is not set, so the id means something (RFC 6864)")
		}
		copy(b[4:], []byte{0, 0, b[6] &^ 0x40})
		copy(b[10:], []byte{0, 0})
	case b[6] == 44:
		require.NotZero(t, binary.BigEndian.Uint32(b[44:]))
		copy(b[44:], []byte{0, 0, 0, 0})
	}
	return b
}

// TestUDPParity: what a peer sees of our sockets is, byte by byte, what it would see
// of netstack's own: header fields, checksums, fragments and their sizes.
func TestUDPParity(t *testing.T) {
	for name, o := range map[string]tun.PipeOptions{"plain": {}, "gso": {GSO: true}} {
		for _, x := range []struct{ host, peer netip.Addr }{
			{stacktest.Host4.Addr(), stacktest.Peer4.Addr()}, {stacktest.Host6.Addr(), stacktest.Peer6.Addr()},
		} {
			t.Run(name+"/"+x.host.String(), func(t *testing.T) {
				r, ref := newBare(t, o, stacktest.Host4, stacktest.Host6), newNetRig(t, nil)
				ours, err := r.host.ListenPacket(53, stack.PacketConfig{})
				require.NoError(t, err)
				defer ours.Close()
				proto := tcpip.NetworkProtocolNumber(ipv4.ProtocolNumber)
				if x.host.Is6() {
					proto = ipv6.ProtocolNumber
				}
				theirs, terr := ref.s.NewEndpoint(udp.ProtocolNumber, proto, new(waiter.Queue))
				require.Nil(t, terr)
				defer theirs.Close()
				require.Nil(t, theirs.Bind(tcpip.FullAddress{Port: 53}))
				to := netip.AddrPortFrom(x.peer, 1000)
				for _, size := range []int{0, 1, 2, 511, 1451, 1452, 1453, 1471, 1472, 1473, 1480, 2960, 3000, 30001, 65507} {
					data := bytes.Repeat([]byte{byte(size), 3, 0xff}, size/3+1)[:size]
					_, err := ours.WriteToUDPAddrPort(data, to)
					require.NoError(t, err)
					_, terr := theirs.Write(bytes.NewReader(data), tcpip.WriteOptions{To: &tcpip.FullAddress{
						NIC: 1, Addr: tcpip.AddrFromSlice(x.peer.AsSlice()), Port: 1000}})
					require.Nil(t, terr)
					n := 0
					for pkt := ref.link.Read(); pkt != nil; pkt = ref.link.Read() {
						want := plain(t, pkt.ToView().AsSlice(), false)
						pkt.DecRef()
						require.Equal(t, want, plain(t, r.next(), true), "%d bytes, packet %d", size, n)
						n++
					}
					require.NotZero(t, n)
				}
				// A sum of zero is sent as 0xffff (RFC 768): find such a datagram.
				if o.GSO {
					return // the same code, and 65,536 more datagrams
				}
				found := false
				for v := range 1 << 16 {
					_, err := ours.WriteToUDPAddrPort([]byte{byte(v >> 8), byte(v)}, to)
					require.NoError(t, err)
					b := r.next()
					sum := binary.BigEndian.Uint16(b[len(b)-4:])
					require.NotZero(t, sum)
					plain(t, b, true) // the id is never 0, DF never set
					found = found || sum == 0xffff
				}
				require.True(t, found)
			})
		}
	}
}

// TestUDPSource: the address that a socket speaks from is of the peer's family and
// scope.
func TestUDPSource(t *testing.T) {
	local4, local6 := netip.MustParsePrefix("169.254.1.1/16"), netip.MustParsePrefix("fe80::1/64")
	r := newBare(t, tun.PipeOptions{}, stacktest.Host4, local4, stacktest.Host6, local6)
	s, err := r.host.ListenPacket(53, stack.PacketConfig{})
	require.NoError(t, err)
	defer s.Close()
	for _, x := range []struct {
		to, from string
		hops     uint8
	}{
		{"10.77.0.2", "10.77.0.1", 64}, {"8.8.8.8", "10.77.0.1", 64}, {"169.254.9.9", "169.254.1.1", 64},
		{"255.255.255.255", "10.77.0.1", 64}, {"224.0.0.251", "169.254.1.1", 1},
		{"fd77::2", "fd77::1", 64}, {"2001:db8::1", "fd77::1", 64}, {"fe80::2", "fe80::1", 64},
		{"ff02::fb", "fe80::1", 1}, {"ff0e::1", "fd77::1", 1},
	} {
		_, err := s.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(netip.MustParseAddr(x.to), 9))
		require.NoError(t, err, x.to)
		b := r.next()
		i, p := packet.Parse(b, len(b))
		require.Equal(t, packet.None, p)
		require.Equal(t, x.from, i.Src(b).String(), "to %s", x.to)
		hops := b[8]
		if i.Version == 6 {
			hops = b[7]
		}
		require.Equal(t, x.hops, hops, "to %s", x.to)
	}
}

// TestUDPRefused: a datagram to a port that nobody has gets the ICMP error that
// quotes it, and one to a broadcast address gets nothing.
func TestUDPRefused(t *testing.T) {
	r := newBare(t, tun.PipeOptions{}, stacktest.Host4, stacktest.Host6)
	broadcast := netip.MustParseAddrPort("10.77.0.255:54")
	d4 := datagram(peerPort(1000), netip.AddrPortFrom(host80.Addr(), 54), []byte("hello"))
	d6 := datagram(netip.AddrPortFrom(stacktest.Peer6.Addr(), 1000), netip.AddrPortFrom(stacktest.Host6.Addr(), 54), []byte("hello"))
	r.send(datagram(peerPort(1000), broadcast, []byte("hello")))
	r.send(d4)
	b := r.next()
	require.Equal(t, []byte{3, 3}, b[20:22])
	require.Equal(t, d4, b[28:])
	require.Equal(t, host80.Addr().AsSlice(), b[12:16])
	r.send(d6)
	b = r.next()
	require.Equal(t, []byte{1, 4}, b[40:42])
	require.Equal(t, d6, b[48:])
}
