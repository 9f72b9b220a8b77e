package stack

import (
	"math"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"porthole/demux"
	"porthole/tun"
)

// link is netstack's view of the device. What netstack writes goes out at once, on
// the caller's goroutine, which may wait for the device: closing the device frees
// it. Super-packets, and what follows them in their flow, have writers of their own
// (bulk.go). A packet to the host itself goes back into demux as kind self-test. Nothing
// is dropped unseen: what the device refuses is counted in Out.
type link struct {
	s    *Stack
	up   atomic.Pointer[netstack.NetworkDispatcher]
	out  counters
	outq outq
	bulk bulk

	ruled ruled
}

// zeroOffload is of a complete packet.
var zeroOffload tun.Offload

// counters are of the way out, in frames as handed to the device.
type counters struct {
	sent, bytes, looped, full, limited, refused, closed atomic.Uint64
}

// Out is what left the host.
type Out struct {
	Sent    uint64 // frames the device took; a super-packet counts once
	Bytes   uint64 // of those
	Looped  uint64 // packets of the host to itself
	Full    uint64 // device-full: answers of a reader that found the device and the queue before it full
	Limited uint64 // resets that closed ports owed and did not send: too many at once
	Refused uint64 // frames the device would not take (too long, interface down)
	Closed  uint64 // frames written after the device was closed
}

// Out is a snapshot of what left the host.
func (s *Stack) Out() Out {
	c := &s.link.out
	return Out{c.sent.Load(), c.bytes.Load(), c.looped.Load(), c.full.Load(), c.limited.Load(), c.refused.Load(), c.closed.Load()}
}

func newLink(s *Stack) *link {
	l := &link{s: s, outq: outq{wake: make(chan struct{}, 1)}}
	l.bulk.init(s.facts.GSO)
	return l
}

func (l *link) dispatcher() netstack.NetworkDispatcher {
	if d := l.up.Load(); d != nil {
		return *d
	}
	return nil
}

// WritePackets implements netstack's LinkWriter. The packets are only valid during the
// call, unless a reference is taken (post).
func (l *link) WritePackets(pkts netstack.PacketBufferList) (int, tcpip.Error) {
	n := 0
	for _, pkt := range pkts.AsSlice() {
		if pkt.TransportProtocolNumber == tcp.ProtocolNumber {
			th := header.TCP(pkt.TransportHeader().Slice())
			l.s.answered(pkt, th)
			l.s.sentAgain(pkt)
			if a, ok := pkt.Owner.(*ack); ok && a.holds(pkt, th) {
				n++
				continue
			}
		}
		if err := l.writeOwn(pkt); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// writeOwn sends one packet of netstack's.
func (l *link) writeOwn(pkt *netstack.PacketBuffer) tcpip.Error {
	if l.post(pkt) {
		return nil
	}
	return l.write(pkt.AsSlices(), offload(pkt), demux.FromStack, !byReader(pkt))
}

// byReader reports whether the reader may be the one who writes: an IPv4 parameter
// problem about a TCP segment that it delivers itself is answered on its goroutine. It
// must not wait, and an ICMP error may be lost. (Segments that it has in its hands while
// their port's listener closes get their RST from it, too, and may wait: 16 at most.)
func byReader(pkt *netstack.PacketBuffer) bool {
	h := pkt.TransportHeader().Slice()
	return pkt.TransportProtocolNumber == header.ICMPv4ProtocolNumber && len(h) > 0 &&
		header.ICMPv4Type(h[0]) == header.ICMPv4ParamProblem
}

// offload says what netstack left to the device: with host GSO its data segments
// carry a partial checksum and may be longer than the MTU; all else is complete.
func offload(pkt *netstack.PacketBuffer) (o tun.Offload) {
	g := &pkt.GSOOptions
	if g.Type == netstack.GSONone {
		return o
	}
	if g.NeedsCsum {
		o.Flags = tun.NeedsCsum
		o.CsumStart = uint16(len(pkt.LinkHeader().Slice())) + g.L3HdrLen
		o.CsumOffset = g.CsumOffset
	}
	if g.MSS != 0 && pkt.Data().Size() > int(g.MSS) {
		o.GSO, o.SegSize, o.HdrLen = tun.GSOTCP4, g.MSS, uint16(pkt.HeaderSize())
		if g.Type == netstack.GSOTCPv6 {
			o.GSO = tun.GSOTCP6
		}
	}
	return o
}

// write sends one frame in pieces to the device, or back to the host itself. Who may
// not wait sends complete frames only.
func (l *link) write(pieces [][]byte, o tun.Offload, from demux.Origin, wait bool) tcpip.Error {
	if l.loops(pieces[0]) {
		l.loop(pieces, o)
		return nil
	}
	q := 0
	if n := l.s.facts.Queues; n > 1 {
		q = l.queueOf(pieces) % n
	}
	size := 0
	for _, b := range pieces {
		size += len(b)
	}
	if l.s.paths.known.Load() > 0 {
		if mtu := l.narrow(pieces[0], size); mtu > 0 {
			return l.cut(pieces, mtu, from, wait)
		}
	}
	l.s.leaves(pieces, size, o, from) // before the answer to it can come
	if !wait {
		return l.offer(q, pieces, size)
	}
	w := outgoings.Get().(*outgoing)
	defer w.free()
	w.out[0] = tun.Out{Pieces: pieces, Offload: o}
	n, err := l.send(q, w.out[:], true)
	return l.wrote(n, size, err)
}

// wrote counts what became of one frame.
func (l *link) wrote(n, size int, err error) tcpip.Error {
	if n == 1 {
		l.out.sent.Add(1)
		l.out.bytes.Add(uint64(size))
		return nil
	}
	select {
	case <-l.s.closing:
		l.out.closed.Add(1)
		return &tcpip.ErrClosedForSend{}
	default:
	}
	l.out.refused.Add(1)
	l.s.log.Debug("device refused a frame", "error", err)
	return &tcpip.ErrNoBufferSpace{}
}

// queueOf keeps the frames of one flow on one queue: the kernel brings a flow in on
// the queue it last went out on, so changing it would let its packets overtake
// each other.
func (l *link) queueOf(pieces [][]byte) int {
	var b [14 + 40 + 4]byte
	n := 0
	for _, p := range pieces {
		n += copy(b[n:], p)
	}
	ip := b[:n]
	if l.s.ethernet() && n >= 14 {
		ip = ip[14:]
	}
	flow := ip[min(len(ip), 12):min(len(ip), 24)] // addresses and ports
	if len(ip) > 0 && ip[0]>>4 == 6 {
		flow = ip[min(len(ip), 8):]
	}
	h := uint32(2166136261) // FNV-1a
	for _, c := range flow {
		h = (h ^ uint32(c)) * 16777619
	}
	return int(h >> 1)
}

// loops reports whether a frame is addressed to the host itself.
func (l *link) loops(b []byte) bool {
	if l.s.ethernet() {
		return len(b) >= 14 && [6]byte(b) == [6]byte(l.s.facts.HW)
	}
	for _, p := range l.s.addrs {
		a := p.Addr()
		switch {
		case b[0]>>4 == 4 && a.Is4() && len(b) >= 20:
			if a.As4() == [4]byte(b[16:20]) {
				return true
			}
		case b[0]>>4 == 6 && a.Is6() && len(b) >= 40:
			if a.As16() == [16]byte(b[24:40]) {
				return true
			}
		}
	}
	return false
}

// loop brings a frame of the host to itself in again. It never left, so nobody
// could harm it: its checksums count as known good.
func (l *link) loop(pieces [][]byte, o tun.Offload) {
	l.out.looped.Add(1)
	o.Flags |= tun.DataValid
	if l.s.ethernet() {
		pieces = append([][]byte{pieces[0][14:]}, pieces[1:]...)
	}
	l.s.table.Inject(demux.SelfTest, demux.Offload(o), pieces...)
}

// MTU is of IP, or with the Ethernet header on an Ethernet device, which netstack
// takes off again.
func (l *link) MTU() uint32 {
	if l.s.ethernet() {
		return uint32(l.s.facts.MTU) + header.EthernetMinimumSize
	}
	return uint32(l.s.facts.MTU)
}

func (l *link) SetMTU(uint32)           {}
func (l *link) MaxHeaderLength() uint16 { return 0 }
func (l *link) LinkAddress() tcpip.LinkAddress {
	return tcpip.LinkAddress(l.s.facts.HW)
}
func (l *link) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities: demux has verified what comes in. What goes out has complete
// checksums unless it is a GSO packet; with the TX capability SYN+ACK, RST and UDP
// would leave without one.
func (l *link) Capabilities() netstack.LinkEndpointCapabilities {
	return netstack.CapabilityRXChecksumOffload
}

// Attach is called with nil when netstack removes the interface.
func (l *link) Attach(d netstack.NetworkDispatcher) {
	if d == nil {
		l.up.Store(nil)
		return
	}
	l.up.Store(&d)
}

func (l *link) IsAttached() bool { return l.up.Load() != nil }
func (l *link) Wait()            {}
func (l *link) Close()           {}
func (l *link) ARPHardwareType() header.ARPHardwareType {
	if l.s.ethernet() {
		return header.ARPHardwareEther
	}
	return header.ARPHardwareNone
}
func (l *link) AddHeader(*netstack.PacketBuffer)        {}
func (l *link) ParseHeader(*netstack.PacketBuffer) bool { return true }
func (l *link) SetOnCloseAction(func())                 {}

// GSOMaxSize leaves room for the largest headers in a 64 KiB packet.
func (l *link) GSOMaxSize() uint32 { return 65535 - 60 }

// fullSegment is the most that netstack puts into one super-packet; a longer write leaves
// in pieces of that size and a rest.
func (l *link) fullSegment() int {
	if !l.s.facts.GSO {
		return math.MaxInt32
	}
	return int(l.GSOMaxSize()) - header.TCPTotalHeaderMaximumSize - 1
}

// SupportedGSO is host GSO where the device cuts super-packets itself.
func (l *link) SupportedGSO() netstack.SupportedGSO {
	if l.s.facts.GSO {
		return netstack.HostGSOSupported
	}
	return netstack.GSONotSupported
}

var _ netstack.GSOEndpoint = (*link)(nil)
