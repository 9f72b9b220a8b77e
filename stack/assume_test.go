package stack_test

import (
	"bytes"
	"context"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/faketime"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/ports"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"porthole/demux/packet"
	"porthole/stack/stacktest"
)

// What package stack takes for granted of netstack, each as a test of netstack
// alone: an update that changes one of these facts fails here, by its name.

// netRig is a bare netstack on a channel, on a clock that only the test moves.
type netRig struct {
	t     *testing.T
	s     *netstack.Stack
	link  *channel.Endpoint
	clock *faketime.ManualClock
}

type trusting struct{ *channel.Endpoint } // as our link is: it vouches for checksums

func (trusting) Capabilities() netstack.LinkEndpointCapabilities {
	return netstack.CapabilityRXChecksumOffload
}

func newNetRig(t *testing.T, wrap func(*channel.Endpoint) netstack.LinkEndpoint) *netRig {
	r := &netRig{t: t, link: channel.New(4096, 1500, ""), clock: faketime.NewManualClock()}
	r.s = netstack.New(netstack.Options{
		NetworkProtocols:   []netstack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []netstack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		Clock:              r.clock,
	})
	var ep netstack.LinkEndpoint = r.link
	if wrap != nil {
		ep = wrap(r.link)
	}
	require.Nil(t, r.s.CreateNIC(1, ep))
	for _, p := range []netip.Prefix{stacktest.Host4, stacktest.Host6} {
		a := tcpip.ProtocolAddress{Protocol: ipv6.ProtocolNumber, AddressWithPrefix: tcpip.AddressWithPrefix{
			Address: tcpip.AddrFromSlice(p.Addr().AsSlice()), PrefixLen: p.Bits()}}
		if p.Addr().Is4() {
			a.Protocol = ipv4.ProtocolNumber
		}
		require.Nil(t, r.s.AddProtocolAddress(1, a, netstack.AddressProperties{}))
	}
	r.s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}, {Destination: header.IPv6EmptySubnet, NIC: 1}})
	t.Cleanup(func() {
		r.link.Close()
		r.s.Destroy()
	})
	return r
}

// listen is how listen.go opens a port.
func (r *netRig) listen(port uint16, backlog int) (tcpip.Endpoint, *waiter.Queue) {
	wq := new(waiter.Queue)
	ep, err := r.s.NewEndpoint(tcp.ProtocolNumber, ipv6.ProtocolNumber, wq)
	require.Nil(r.t, err)
	ep.SocketOptions().SetReuseAddress(true)
	ep.SocketOptions().SetV6Only(false)
	require.Nil(r.t, ep.Bind(tcpip.FullAddress{Port: port}))
	require.Nil(r.t, ep.Listen(backlog))
	r.t.Cleanup(ep.Close)
	return ep, wq
}

func (r *netRig) inject(frame []byte) {
	proto := tcpip.NetworkProtocolNumber(ipv4.ProtocolNumber)
	if frame[0]>>4 == 6 {
		proto = ipv6.ProtocolNumber
	}
	pkt := netstack.NewPacketBuffer(netstack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
	r.link.InjectInbound(proto, pkt)
	pkt.DecRef()
}

func segment(from, to netip.AddrPort, h packet.TCPHeader, data ...byte) []byte {
	b := make([]byte, 120)
	if h.Window == 0 {
		h.Window = 65535
	}
	n := packet.PutTCP(b, from, to, 64, 1, h, data)
	return append(b[:n:n], data...)
}

var (
	host80 = netip.MustParseAddrPort("10.77.0.1:80")
	peer4  = stacktest.Peer4.Addr()
)

func peerPort(n int) netip.AddrPort { return netip.AddrPortFrom(peer4, uint16(n)) }

// next is the next packet out.
func (r *netRig) next() sent {
	r.t.Helper()
	c, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	pkt := r.link.ReadContext(c)
	require.NotNil(r.t, pkt, "nothing was sent")
	defer pkt.DecRef()
	return readSent(r.t, pkt.ToView().AsSlice())
}

// none says that nothing more came of what was sent to the listener on port 80: it
// takes its segments in order, and it answers a stray ACK with RST.
func (r *netRig) none() {
	r.t.Helper()
	r.inject(segment(peerPort(9), host80, packet.TCPHeader{Flags: packet.ACK, Ack: 4711}))
	s := r.next()
	require.Equal(r.t, packet.RST, s.flags, "%+v", s)
	require.EqualValues(r.t, 4711, s.seq, "%+v", s)
}

type sent struct {
	info     packet.Info
	raw      []byte
	seq, ack uint32
	flags    uint8
}

func readSent(t testing.TB, b []byte) sent {
	t.Helper()
	i, p := packet.Parse(b, len(b))
	require.Equal(t, packet.None, p, "% x", b)
	s := sent{info: i, raw: b, flags: i.TCPFlags}
	if i.Kind == packet.TCP {
		h := header.TCP(b[i.L4:])
		s.seq, s.ack = h.SequenceNumber(), h.AckNumber()
	}
	return s
}

// handshake opens a connection from a port of the peer and gives our ISS.
func (r *netRig) handshake(from netip.AddrPort, irs uint32) (iss uint32) {
	r.t.Helper()
	r.inject(segment(from, host80, packet.TCPHeader{Flags: packet.SYN, Seq: irs}))
	s := r.next()
	require.Equal(r.t, packet.SYN|packet.ACK, s.flags)
	require.Equal(r.t, irs+1, s.ack)
	r.inject(segment(from, host80, packet.TCPHeader{Flags: packet.ACK, Seq: irs + 1, Ack: s.seq + 1}))
	return s.seq
}

func (r *netRig) find(from, to netip.AddrPort) netstack.TransportEndpoint {
	proto := tcpip.NetworkProtocolNumber(ipv4.ProtocolNumber)
	if to.Addr().Is6() {
		proto = ipv6.ProtocolNumber
	}
	return r.s.FindTransportEndpoint(proto, tcp.ProtocolNumber, netstack.TransportEndpointID{
		LocalPort: to.Port(), LocalAddress: tcpip.AddrFromSlice(to.Addr().AsSlice()),
		RemotePort: from.Port(), RemoteAddress: tcpip.AddrFromSlice(from.Addr().AsSlice()),
	}, 1)
}

func (r *netRig) state(from netip.AddrPort) tcp.EndpointState {
	if ep, ok := r.find(from, host80).(*tcp.Endpoint); ok {
		return ep.EndpointState()
	}
	return tcp.StateClose
}

func (r *netRig) until(what string, f func() bool) {
	r.t.Helper()
	require.Eventually(r.t, f, patience, time.Millisecond, what)
}

// Listen(1<<20) never decides: no SYN is dropped and no cookie sent, however many
// are half-open or wait, and the endpoint of each is found by its four-tuple.
func TestAssumeBacklogNeverDecides(t *testing.T) {
	r := newNetRig(t, nil)
	ep, _ := r.listen(80, 1<<20)
	const n = 2000
	for i := range n {
		require.Equal(t, ep, r.find(peerPort(1000+i), host80).(tcpip.Endpoint), "nobody yet: the listener is found")
		r.inject(segment(peerPort(1000+i), host80, packet.TCPHeader{Flags: packet.SYN, Seq: 1}))
		s := r.next()
		require.Equal(t, packet.SYN|packet.ACK, s.flags)
		require.Equal(t, tcp.StateSynRecv, r.state(peerPort(1000+i)))
		if i%2 == 0 {
			r.inject(segment(peerPort(1000+i), host80, packet.TCPHeader{Flags: packet.ACK, Seq: 2, Ack: s.seq + 1}))
		}
	}
	st := r.s.Stats().TCP
	r.until("established", func() bool { return st.PassiveConnectionOpenings.Value() == n/2 })
	require.Zero(t, st.ListenOverflowSynDrop.Value()+st.ListenOverflowSynCookieSent.Value()+st.ListenOverflowAckDrop.Value())
	require.Equal(t, tcp.StateEstablished, r.state(peerPort(1000)))
	require.Nil(t, r.find(peerPort(1000), netip.AddrPortFrom(host80.Addr(), 81)), "no listener: nothing is found")
	for range n / 2 {
		_, _, err := ep.Accept(nil)
		require.Nil(t, err)
	}
	_, _, err := ep.Accept(nil)
	require.IsType(t, &tcpip.ErrWouldBlock{}, err)
}

// The listener's queue is notified once for each connection that can be accepted,
// and for nothing else.
func TestAssumeReadiness(t *testing.T) {
	r := newNetRig(t, nil)
	_, wq := r.listen(80, 1<<20)
	ready := make(chan struct{}, 100)
	e := waiter.NewFunctionEntry(waiter.ReadableEvents, func(waiter.EventMask) { ready <- struct{}{} })
	wq.EventRegister(&e)
	defer wq.EventUnregister(&e)
	r.inject(segment(peerPort(1), host80, packet.TCPHeader{Flags: packet.SYN, Seq: 1}))
	r.next()
	for i := range 20 {
		r.handshake(peerPort(1000+i), 7)
	}
	for range 20 {
		<-ready
	}
	r.none()
	require.Empty(t, ready)
}

// blocked is a link whose writes wait until it is opened.
type blocked struct {
	*channel.Endpoint
	entered, open chan struct{}
}

func (b *blocked) WritePackets(p netstack.PacketBufferList) (int, tcpip.Error) {
	b.entered <- struct{}{}
	<-b.open
	return b.Endpoint.WritePackets(p)
}

// Whoever delivers a segment to a port with a listener, or to a connection, never
// writes: netstack answers on goroutines of its own. The reader relies on it when it
// serves such a port itself. That a closed port is answered on the deliverer's
// goroutine is why it must not serve that.
func TestAssumeDeliveryNeverWrites(t *testing.T) {
	var b *blocked
	r := newNetRig(t, func(c *channel.Endpoint) netstack.LinkEndpoint {
		b = &blocked{c, make(chan struct{}, 1000), make(chan struct{})}
		return b
	})
	r.listen(80, 1<<20)
	deliver := func(f []byte) {
		t.Helper()
		done := make(chan struct{})
		go func() { r.inject(f); close(done) }()
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatal("the delivery waits for a write")
		}
	}
	// Everything that a listener or a connection can answer, while every write waits.
	for i := range 64 {
		for _, flags := range []uint8{packet.SYN, packet.ACK, packet.RST, packet.SYN | packet.ACK, packet.FIN | packet.ACK, 0, 0x29, 0xff} {
			deliver(segment(peerPort(1000+i), host80, packet.TCPHeader{Flags: flags, Seq: 1, Ack: 1}, 'x'))
		}
	}
	<-b.entered // somebody else writes
	close(b.open)
}

func TestAssumeClosedPortWrites(t *testing.T) {
	var b *blocked
	r := newNetRig(t, func(c *channel.Endpoint) netstack.LinkEndpoint {
		b = &blocked{c, make(chan struct{}, 1000), make(chan struct{})}
		return b
	})
	for name, f := range map[string][]byte{
		"tcp": segment(peerPort(1), host80, packet.TCPHeader{Flags: packet.SYN}),
		"udp": datagram(peerPort(1), host80, nil),
	} {
		done := make(chan struct{})
		go func() { r.inject(f); close(done) }()
		<-b.entered
		select {
		case <-done:
			t.Errorf("%s: delivered before its answer was written", name)
		default:
		}
		b.open <- struct{}{}
		<-done
	}
}

// A half-open connection sends SYN+ACK again 1, 2, 4... seconds later, six times, and
// is gone after 127 s: TCPSynRetries, which would make it 63 as in Linux, is not
// asked for passive opens. The door's own clock therefore ends it at 63 s.
func TestAssumeHalfOpenLife(t *testing.T) {
	r := newNetRig(t, nil)
	r.listen(80, 1<<20)
	from := peerPort(1000)
	r.inject(segment(from, host80, packet.TCPHeader{Flags: packet.SYN, Seq: 1}))
	first := r.next()
	var again []int
	gone := 0
	for sec := 1; sec <= 200 && gone == 0; sec++ {
		r.clock.Advance(time.Second)
		if pkt := r.link.Read(); pkt != nil {
			s := readSent(t, pkt.ToView().AsSlice())
			pkt.DecRef()
			require.Equal(t, packet.SYN|packet.ACK, s.flags)
			require.Equal(t, first.seq, s.seq)
			again = append(again, sec)
		}
		if r.state(from) == tcp.StateListen {
			gone = sec
		}
	}
	require.Equal(t, []int{1, 3, 7, 15, 31, 63}, again)
	require.Equal(t, 127, gone)
}

// Abort ends a half-open connection silently and an established one with RST.
func TestAssumeAbort(t *testing.T) {
	r := newNetRig(t, nil)
	r.listen(80, 1<<20)
	r.inject(segment(peerPort(1000), host80, packet.TCPHeader{Flags: packet.SYN, Seq: 1}))
	r.next()
	r.find(peerPort(1000), host80).(*tcp.Endpoint).Abort()
	require.Equal(t, tcp.StateListen, r.state(peerPort(1000)))
	r.none()
	iss := r.handshake(peerPort(1001), 1)
	r.until("established", func() bool { return r.state(peerPort(1001)) == tcp.StateEstablished })
	r.find(peerPort(1001), host80).(*tcp.Endpoint).Abort()
	s := r.next()
	require.Equal(t, packet.RST|packet.ACK, s.flags)
	require.Equal(t, iss+1, s.seq)
}

// A SYN that comes again gets a bare ACK at most, not the SYN+ACK that its client
// waits for; the door sends that.
func TestAssumeRepeatedSyn(t *testing.T) {
	r := newNetRig(t, nil)
	r.listen(80, 1<<20)
	syn := segment(peerPort(1000), host80, packet.TCPHeader{Flags: packet.SYN, Seq: 1})
	r.inject(syn)
	require.Equal(t, packet.SYN|packet.ACK, r.next().flags)
	r.clock.Advance(600 * time.Millisecond) // beyond TCPInvalidRateLimit
	r.inject(syn)
	require.Equal(t, packet.ACK, r.next().flags)
}

// With TCPAlwaysUseSynCookies a SYN leaves nothing behind, and its ACK makes the
// connection; without window scale and SACK, which a cookie has no room for.
func TestAssumeCookies(t *testing.T) {
	r := newNetRig(t, nil)
	r.listen(80, 1<<20)
	o := tcpip.TCPAlwaysUseSynCookies(true)
	require.Nil(t, r.s.SetTransportProtocolOption(tcp.ProtocolNumber, &o))
	opts := []byte{2, 4, 5, 0xb4, 4, 2, 1, 3, 3, 7}
	r.inject(segment(peerPort(1000), host80, packet.TCPHeader{Flags: packet.SYN, Seq: 1, Options: opts}))
	s := r.next()
	require.Equal(t, packet.SYN|packet.ACK, s.flags)
	require.Equal(t, []byte{2, 4, 0x05, 0xb4}, bytes.TrimRight(s.raw[40:s.info.Payload], "\x01\x00"))
	require.Equal(t, tcp.StateListen, r.state(peerPort(1000)))
	o = false
	require.Nil(t, r.s.SetTransportProtocolOption(tcp.ProtocolNumber, &o))
	r.inject(segment(peerPort(1000), host80, packet.TCPHeader{Flags: packet.ACK, Seq: 2, Ack: s.seq + 1}))
	r.until("established", func() bool { return r.state(peerPort(1000)) == tcp.StateEstablished })
	// A cookie is good for its own pair alone.
	r.inject(segment(peerPort(1001), host80, packet.TCPHeader{Flags: packet.ACK, Seq: 2, Ack: s.seq + 1}))
	require.Equal(t, packet.RST, r.next().flags)
}

// TIME-WAIT is 60 s, and so long is the pair found. A SYN that is no later than what
// came before is ignored, where RFC 5961, 4 has an ACK for it: the README says so.
func TestAssumeTimeWait(t *testing.T) {
	r := newNetRig(t, nil)
	ep, _ := r.listen(80, 1<<20)
	iss := r.handshake(peerPort(1000), 1)
	var c tcpip.Endpoint
	r.until("accept", func() bool { e, _, err := ep.Accept(nil); c = e; return err == nil })
	c.Close()
	require.Equal(t, packet.FIN|packet.ACK, r.next().flags)
	r.inject(segment(peerPort(1000), host80, packet.TCPHeader{Flags: packet.FIN | packet.ACK, Seq: 2, Ack: iss + 2}))
	require.Equal(t, packet.ACK, r.next().flags)
	r.until("time-wait", func() bool { return r.state(peerPort(1000)) == tcp.StateTimeWait })
	r.inject(segment(peerPort(1000), host80, packet.TCPHeader{Flags: packet.SYN, Seq: 1}))
	r.inject(segment(peerPort(1000), host80, packet.TCPHeader{Flags: packet.FIN | packet.ACK, Seq: 2, Ack: iss + 2}))
	require.Equal(t, packet.ACK, r.next().flags)
	require.Zero(t, r.link.NumQueued(), "to the FIN alone")
	c.GetLocalAddress() // takes the endpoint's lock: its timer runs by then
	r.clock.Advance(59 * time.Second)
	require.Equal(t, tcp.StateTimeWait, r.state(peerPort(1000)))
	r.clock.Advance(time.Second)
	r.until("gone", func() bool { return r.state(peerPort(1000)) == tcp.StateListen })
}

// One wildcard IPv6 endpoint takes IPv4 and IPv6; an accepted IPv4 connection has
// four-byte addresses.
func TestAssumeDualStack(t *testing.T) {
	r := newNetRig(t, nil)
	ep, _ := r.listen(80, 1<<20)
	for _, x := range []struct {
		from, to netip.AddrPort
		size     int
	}{
		{peerPort(1000), host80, 4},
		{netip.AddrPortFrom(stacktest.Peer6.Addr(), 1000), netip.AddrPortFrom(stacktest.Host6.Addr(), 80), 16},
	} {
		r.inject(segment(x.from, x.to, packet.TCPHeader{Flags: packet.SYN, Seq: 1}))
		s := r.next()
		r.inject(segment(x.from, x.to, packet.TCPHeader{Flags: packet.ACK, Seq: 2, Ack: s.seq + 1}))
		var c tcpip.Endpoint
		r.until("accept", func() bool { e, _, err := ep.Accept(nil); c = e; return err == nil })
		i := c.Info().(*netstack.TransportEndpointInfo)
		require.Len(t, i.ID.LocalAddress.AsSlice(), x.size)
		require.Len(t, i.ID.RemoteAddress.AsSlice(), x.size)
		c.Close()
		r.next() // FIN
	}
}

// After its peer's RST an endpoint knows its addresses by Info alone.
func TestAssumeInfoAfterReset(t *testing.T) {
	r := newNetRig(t, nil)
	ep, _ := r.listen(80, 1<<20)
	r.handshake(peerPort(1000), 1)
	r.inject(segment(peerPort(1000), host80, packet.TCPHeader{Flags: packet.RST, Seq: 2}))
	var c tcpip.Endpoint
	r.until("accept", func() bool { e, _, err := ep.Accept(nil); c = e; return err == nil })
	defer c.Close()
	r.until("reset", func() bool { _, err := c.GetRemoteAddress(); return err != nil })
	require.EqualValues(t, 1000, c.Info().(*netstack.TransportEndpointInfo).ID.RemotePort)
}

// Without CapabilityRXChecksumOffload netstack verifies, with it it believes: demux
// has verified. A mark on the packet itself would be overwritten.
func TestAssumeChecksums(t *testing.T) {
	for name, x := range map[string]struct {
		wrap func(*channel.Endpoint) netstack.LinkEndpoint
		want bool
	}{
		"verifies": {nil, false},
		"believes": {func(c *channel.Endpoint) netstack.LinkEndpoint { return trusting{c} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newNetRig(t, x.wrap)
			r.listen(80, 1<<20)
			f := segment(peerPort(1000), host80, packet.TCPHeader{Flags: packet.SYN, Seq: 1})
			f[37]++
			r.inject(f)
			if x.want {
				require.Equal(t, packet.SYN|packet.ACK, r.next().flags)
			} else {
				r.none()
				require.EqualValues(t, 1, r.s.Stats().TCP.ChecksumErrors.Value())
			}
		})
	}
}

// The defaults that DESIGN wants are netstack's.
func TestAssumeDefaults(t *testing.T) {
	r := newNetRig(t, nil)
	var sack tcpip.TCPSACKEnabled
	require.Nil(t, r.s.TransportProtocolOption(tcp.ProtocolNumber, &sack))
	require.True(t, bool(sack))
	var moderate tcpip.TCPModerateReceiveBufferOption
	require.Nil(t, r.s.TransportProtocolOption(tcp.ProtocolNumber, &moderate))
	require.True(t, bool(moderate))
	var recovery tcpip.TCPRecovery
	require.Nil(t, r.s.TransportProtocolOption(tcp.ProtocolNumber, &recovery))
	require.Equal(t, tcpip.TCPRACKLossDetection, recovery)
	var tw tcpip.TCPTimeWaitTimeoutOption
	require.Nil(t, r.s.TransportProtocolOption(tcp.ProtocolNumber, &tw))
	require.Equal(t, time.Minute, time.Duration(tw))
	require.EqualValues(t, 1000, r.s.ICMPLimit())
	require.Equal(t, 50, r.s.ICMPBurst())
}

// gsoLink takes super-packets.
type gsoLink struct{ *channel.Endpoint }

func (gsoLink) GSOMaxSize() uint32                  { return 65535 - 60 }
func (gsoLink) SupportedGSO() netstack.SupportedGSO { return netstack.HostGSOSupported }

// With host GSO a data segment is longer than the MTU and its checksum is partial:
// GSOOptions say where; control segments are complete.
func TestAssumeGSO(t *testing.T) {
	r := newNetRig(t, func(c *channel.Endpoint) netstack.LinkEndpoint { return gsoLink{c} })
	ep, _ := r.listen(80, 1<<20)
	r.inject(segment(peerPort(1000), host80, packet.TCPHeader{Flags: packet.SYN, Seq: 1, Options: []byte{2, 4, 5, 0xb4}}))
	c, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	pkt := r.link.ReadContext(c)
	require.Equal(t, netstack.GSO{}, pkt.GSOOptions)
	s := readSent(t, pkt.ToView().AsSlice())
	pkt.DecRef()
	require.True(t, packet.VerifyTransport(&s.info, s.raw, nil))
	r.inject(segment(peerPort(1000), host80, packet.TCPHeader{Flags: packet.ACK, Seq: 2, Ack: s.seq + 1}))
	var conn tcpip.Endpoint
	r.until("accept", func() bool { e, _, err := ep.Accept(nil); conn = e; return err == nil })
	defer conn.Close()
	data := bytes.Repeat([]byte("x"), 8000)
	_, err := conn.Write(bytes.NewReader(data), tcpip.WriteOptions{})
	require.Nil(t, err)
	pkt = r.link.ReadContext(c)
	defer pkt.DecRef()
	g := pkt.GSOOptions
	require.Equal(t, netstack.GSOTCPv4, g.Type)
	require.True(t, g.NeedsCsum)
	require.EqualValues(t, 16, g.CsumOffset)
	require.EqualValues(t, 20, g.L3HdrLen)
	require.EqualValues(t, 1460, g.MSS)
	require.Equal(t, 8000, pkt.Data().Size())
	sum := header.TCP(pkt.TransportHeader().Slice()).Checksum()
	n := pkt.Network()
	require.Equal(t, header.PseudoHeaderChecksum(tcp.ProtocolNumber, n.SourceAddress(), n.DestinationAddress(),
		uint16(len(pkt.TransportHeader().Slice())+8000)), sum)
}

// A delivered packet stays the caller's: its reference is neither taken nor given.
func TestAssumeOwnership(t *testing.T) {
	r := newNetRig(t, nil)
	r.listen(80, 1<<20)
	pkt := netstack.NewPacketBuffer(netstack.PacketBufferOptions{
		Payload: buffer.MakeWithData(segment(peerPort(9), host80, packet.TCPHeader{Flags: packet.ACK, Ack: 1}))})
	r.link.InjectInbound(ipv4.ProtocolNumber, pkt)
	r.next()
	r.until("one reference left", func() bool { return pkt.ReadRefs() == 1 })
	pkt.DecRef()
}

// Many connections leave from one local port when both flags are set, and do so
// again while the first ones are in TIME-WAIT.
func TestAssumeManyFromOnePort(t *testing.T) {
	r := newNetRig(t, nil)
	dial := func(to netip.AddrPort) (tcpip.Endpoint, tcpip.Error) {
		ep, err := r.s.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, new(waiter.Queue))
		require.Nil(t, err)
		ep.SocketOptions().SetReuseAddress(true)
		ep.SocketOptions().SetReusePort(true)
		if err := ep.Bind(tcpip.FullAddress{Port: 20}); err != nil {
			return nil, err
		}
		return ep, ep.Connect(tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFromSlice(to.Addr().AsSlice()), Port: to.Port()})
	}
	for i := range 10 {
		ep, err := dial(peerPort(5000 + i))
		require.IsType(t, &tcpip.ErrConnectStarted{}, err)
		defer ep.Close()
		s := r.next()
		require.EqualValues(t, 20, s.info.SrcPort)
	}
	ep, err := dial(peerPort(5000)) // the same pair again
	if ep != nil {
		defer ep.Close()
	}
	require.NotNil(t, err)
}

// endpoint is a transport endpoint of ours.
type endpoint struct {
	got chan string
}

func (e *endpoint) HandlePacket(id netstack.TransportEndpointID, pkt *netstack.PacketBuffer) {
	b, _ := io.ReadAll(pkt.Data().AsRange().ToView())
	e.got <- string(b)
}
func (e *endpoint) HandleError(te netstack.TransportError, pkt *netstack.PacketBuffer) {
	b, _ := pkt.Data().PullUp(8)
	e.got <- "error " + string(b[2:4])
}
func (e *endpoint) Abort() {}
func (e *endpoint) Wait()  {}

// A registered endpoint gets datagrams whole, after reassembly, on the deliverer's
// goroutine; one registered by its whole name gets its peer's alone.
func TestAssumeReassembly(t *testing.T) {
	r := newNetRig(t, nil)
	e := &endpoint{make(chan string, 10)}
	id := netstack.TransportEndpointID{LocalPort: 53}
	protos := []tcpip.NetworkProtocolNumber{ipv4.ProtocolNumber, ipv6.ProtocolNumber}
	require.Nil(t, r.s.RegisterTransportEndpoint(protos, udp.ProtocolNumber, id, e, ports.Flags{}, 0))
	whole := datagram(peerPort(1000), netip.AddrPortFrom(host80.Addr(), 53), bytes.Repeat([]byte("abcdefgh"), 300))
	for _, f := range fragments4(whole, 7, 1200) {
		r.inject(f)
	}
	require.Equal(t, string(whole[28:]), <-e.got)
	r.s.UnregisterTransportEndpoint(protos, udp.ProtocolNumber, id, e, ports.Flags{}, 0)

	id = netstack.TransportEndpointID{LocalPort: 53, LocalAddress: tcpip.AddrFromSlice(host80.Addr().AsSlice()),
		RemotePort: 1000, RemoteAddress: tcpip.AddrFromSlice(peer4.AsSlice())}
	require.Nil(t, r.s.RegisterTransportEndpoint(protos, udp.ProtocolNumber, id, e, ports.Flags{}, 0))
	r.inject(datagram(peerPort(1001), netip.AddrPortFrom(host80.Addr(), 53), nil))
	require.EqualValues(t, 3, r.next().info.ICMPType, "a stranger is told that nobody is there")
	r.inject(datagram(peerPort(1000), netip.AddrPortFrom(host80.Addr(), 53), []byte("peer")))
	require.Equal(t, "peer", <-e.got)
}

// ICMP errors for closed UDP ports are limited: 50 at once, then 1,000 a second.
func TestAssumeICMPLimit(t *testing.T) {
	r := newNetRig(t, nil)
	for range 200 {
		r.inject(datagram(peerPort(1000), netip.AddrPortFrom(host80.Addr(), 54), nil))
	}
	count := func() (n int) {
		for pkt := r.link.Read(); pkt != nil; pkt = r.link.Read() {
			pkt.DecRef()
			n++
		}
		return n
	}
	require.Equal(t, 50, count())
	r.clock.Advance(10 * time.Millisecond)
	for range 200 {
		r.inject(datagram(peerPort(1000), netip.AddrPortFrom(host80.Addr(), 54), nil))
	}
	require.InDelta(t, 10, count(), 1)
}

// Netstack's own UDP socket charges nothing for an empty datagram. Ours are charged.
func TestAssumeEmptyDatagramsAreFree(t *testing.T) {
	r := newNetRig(t, nil)
	wq := new(waiter.Queue)
	ep, err := r.s.NewEndpoint(udp.ProtocolNumber, ipv4.ProtocolNumber, wq)
	require.Nil(t, err)
	defer ep.Close()
	ep.SocketOptions().SetReceiveBufferSize(8<<10, true)
	require.Nil(t, ep.Bind(tcpip.FullAddress{Port: 53}))
	for range 10000 {
		r.inject(datagram(peerPort(1000), netip.AddrPortFrom(host80.Addr(), 53), nil))
	}
	n := 0
	for {
		if _, err := ep.Read(io.Discard, tcpip.ReadOptions{}); err != nil {
			break
		}
		n++
	}
	require.Equal(t, 10000, n)
}

func datagram(from, to netip.AddrPort, data []byte) []byte {
	b := make([]byte, 48)
	n := packet.PutUDP(b, from, to, 64, 1, data)
	return append(b[:n:n], data...)
}

// fragments4 cuts an IPv4 packet without options into fragments of at most size
// payload bytes.
func fragments4(b []byte, id uint16, size int) (fs [][]byte) {
	size &^= 7
	for at := 20; at < len(b); at += size {
		end := min(at+size, len(b))
		f := append(append([]byte(nil), b[:20]...), b[at:end]...)
		h := header.IPv4(f)
		h.SetTotalLength(uint16(len(f)))
		h.SetID(id)
		flags := uint8(0)
		if end < len(b) {
			flags = header.IPv4FlagMoreFragments
		}
		h.SetFlagsFragmentOffset(flags, uint16(at-20))
		h.SetChecksum(0)
		h.SetChecksum(^h.CalculateChecksum())
		fs = append(fs, f)
	}
	return fs
}
