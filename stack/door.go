package stack

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"porthole/demux"
	"porthole/demux/packet"
	"porthole/tun"
)

// This file observes and commands netstack for demux.Door, which decides: segments
// on their way in are judged before netstack sees them, SYN+ACKs on their way out
// are read, and one goroutine settles what is in doubt and makes cookies. Netstack
// is never called with a door's mutex held: it answers on the caller's goroutine,
// and the answer comes back here.

// doors is the state that all listeners share.
type doors struct {
	start      time.Time
	unanswered atomic.Int64 // SYNs that netstack has and has not answered yet, of all doors
	heldQ      chan heldSyn
	synAcked   chan struct{} // one token: a SYN+ACK has left
	wake       chan struct{} // one token: a listener has become active
	gate       sync.RWMutex  // held for writing while netstack answers with cookies

	mu     sync.Mutex
	active map[*Listener]struct{} // whose doors have something that time may change
}

// heldSyn is a SYN, copied, that shall be answered with a cookie, or that came
// while another was being.
type heldSyn struct {
	ln     *Listener
	key    demux.FlowKey
	cookie bool
	info   packet.Info
	frame  []byte
	l2     int
}

const (
	doorTick     = 20 * time.Millisecond
	heldSyns     = 256                   // SYNs that wait for the door loop; more are dropped
	cookieWait   = 50 * time.Millisecond // for netstack to answer; it does in microseconds unless the machine is busy
	maxSynAckLen = 200                   // a SYN+ACK with link header and all options
)

func (d *doors) init() {
	d.start = time.Now()
	d.heldQ = make(chan heldSyn, heldSyns)
	d.synAcked, d.wake = make(chan struct{}, 1), make(chan struct{}, 1)
	d.active = map[*Listener]struct{}{}
}

func (d *doors) now() int64 { return int64(time.Since(d.start)) }

// activate makes the door loop look at a listener until nothing of it can change
// with time.
func (d *doors) activate(ln *Listener) {
	if ln.active.Swap(true) {
		return
	}
	d.mu.Lock()
	d.active[ln] = struct{}{}
	d.mu.Unlock()
	poke(d.wake)
}

// admit judges one segment of a listening port. When netstack shall not see it,
// done is true and fate is what became of it.
func (s *Stack) admit(ln *Listener, p demux.Packet) (fate demux.Fate, done bool) {
	i := p.Info()
	seq, ack, _, _ := i.TCP(p.IP())
	key := func() demux.FlowKey { return demux.FlowKey{Remote: p.From(), Local: p.To().Addr()} }
	seg := demux.Segment{Flags: i.TCPFlags, Seq: seq, Ack: ack}
	now := s.doors.now()
	v := ln.door.Judge(now, key, seg)
	if v == demux.AskStack {
		if ep, ok := s.find(ln.port, key()).(*tcp.Endpoint); ok && tcpip.Endpoint(ep) != ln.ep {
			return 0, false // a connection's own segment
		}
		v = ln.door.CookieAck(now, key())
	}
	switch v {
	case demux.Pass:
		if i.TCPFlags&flagSYN != 0 {
			s.doors.activate(ln)
			// Not while cookies are on; and the caller may be the reader, which
			// must not wait for one port's cookies with another port's SYN.
			if !s.doors.gate.TryRLock() {
				return s.later(ln, key(), p, false), true
			}
			s.deliver(p)
			s.doors.gate.RUnlock()
			return demux.ToStack, true
		}
		return 0, false
	case demux.PassCookie:
		s.doors.activate(ln)
		return s.later(ln, key(), p, true), true
	case demux.Repeat:
		if b, again := ln.door.SynAck(key()); again {
			s.link.tryWrite(b)
		}
		return demux.SynRepeated, true
	case demux.RefuseSyn:
		return demux.SynQueueFull, true
	case demux.Reset:
		s.overflowReset(ln, key(), ack)
	}
	return demux.AcceptQueueFull, true
}

// later leaves a SYN to the door loop.
func (s *Stack) later(ln *Listener, k demux.FlowKey, p demux.Packet, cookie bool) demux.Fate {
	c := heldSyn{ln, k, cookie, *p.Info(), append([]byte(nil), p.Frame()...), p.LinkLen()}
	select {
	case s.doors.heldQ <- c:
		return demux.ToStack
	default:
		if !cookie {
			ln.door.Forget(k)
		}
		return demux.SynQueueFull
	}
}

// overflowReset answers a final ACK with RST and ends its half-open connection
// (Linux: tcp_abort_on_overflow).
func (s *Stack) overflowReset(ln *Listener, k demux.FlowKey, ack uint32) {
	synAck, _ := ln.door.SynAck(k)
	if ep, ok := s.find(ln.port, k).(*tcp.Endpoint); ok && ep.EndpointState() == tcp.StateSynRecv {
		ep.Abort()
	}
	ln.door.Forget(k)
	if synAck == nil {
		return
	}
	l2 := 0
	if s.ethernet() {
		l2 = header.EthernetMinimumSize
	}
	var b [header.EthernetMinimumSize + 60]byte
	copy(b[:], synAck[:l2])
	n := packet.PutTCP(b[l2:], netip.AddrPortFrom(k.Local, ln.port), k.Remote, hopLimit, 0,
		packet.TCPHeader{Flags: rstFlag, Seq: ack})
	s.link.tryWrite(b[:l2+n])
}

const rstFlag = 0x04

// answered reads a SYN+ACK on its way out.
func (s *Stack) answered(pkt *netstack.PacketBuffer) {
	th := header.TCP(pkt.TransportHeader().Slice())
	if len(th) < header.TCPMinimumSize || th[13]&(flagSYN|flagACK) != flagSYN|flagACK {
		return
	}
	ln := s.listeners[th.SourcePort()].Load()
	if ln == nil {
		return
	}
	n := pkt.Network()
	k := demux.FlowKey{
		Remote: addrPort(tcpip.FullAddress{Addr: n.DestinationAddress(), Port: th.DestinationPort()}),
		Local:  addrPort(tcpip.FullAddress{Addr: n.SourceAddress()}).Addr(),
	}
	if ln.cookie.Load() != nil && *ln.cookie.Load() == k {
		ln.cookie.Store(nil) // stateless: the door keeps nothing of it
	} else {
		ln.door.Answered(s.doors.now(), k, th.SequenceNumber(), th.AckNumber()-1, th.WindowSize(), func() []byte {
			b := make([]byte, 0, maxSynAckLen)
			for _, p := range pkt.AsSlices() {
				b = append(b, p...)
			}
			return b
		})
	}
	poke(s.doors.synAcked)
}

// find looks a connection up in netstack: the connection, its listener, or nil.
func (s *Stack) find(port uint16, k demux.FlowKey) netstack.TransportEndpoint {
	return s.net.FindTransportEndpoint(netProto(k.Local), tcp.ProtocolNumber, netstack.TransportEndpointID{
		LocalPort: port, LocalAddress: address(k.Local),
		RemotePort: k.Remote.Port(), RemoteAddress: address(k.Remote.Addr()),
	}, nicID)
}

// state asks netstack what became of a connection.
func (s *Stack) state(ln *Listener, k demux.FlowKey) (demux.State, *tcp.Endpoint) {
	ep, ok := s.find(ln.port, k).(*tcp.Endpoint)
	if !ok || tcpip.Endpoint(ep) == ln.ep {
		return demux.Gone, nil
	}
	switch ep.EndpointState() {
	case tcp.StateConnecting, tcp.StateSynRecv:
		return demux.HalfOpen, ep
	case tcp.StateTimeWait, tcp.StateClose, tcp.StateError:
		return demux.Gone, ep
	}
	return demux.Established, ep
}

// doorLoop settles doubts, ends half-open connections that are too old, and makes
// cookies, until the stack closes.
func (s *Stack) doorLoop() {
	tick := time.NewTicker(doorTick)
	defer tick.Stop()
	tick.Stop()
	var ask, end []demux.FlowKey
	for {
		select {
		case <-s.closing:
			return
		case c := <-s.doors.heldQ:
			if c.cookie {
				s.sendCookie(c)
			} else {
				s.deliverBytes(&c.info, c.frame, c.l2)
			}
			continue
		case <-s.doors.wake:
			tick.Reset(doorTick)
			continue
		case <-tick.C:
		}
		if s.settle(&ask, &end) == 0 {
			tick.Stop()
			// A listener may have become active since: its token is in wake.
		}
	}
}

// settle looks at every active door once and returns how many stay active.
func (s *Stack) settle(ask, end *[]demux.FlowKey) int {
	s.doors.mu.Lock()
	lns := make([]*Listener, 0, len(s.doors.active))
	for ln := range s.doors.active {
		lns = append(lns, ln)
	}
	s.doors.mu.Unlock()
	left := 0
	for _, ln := range lns {
		now := s.doors.now()
		var again int64
		*ask, *end, again = ln.door.Due(now, (*ask)[:0], (*end)[:0])
		for _, k := range *ask {
			st, _ := s.state(ln, k)
			ln.door.Confirm(now, k, st)
		}
		for _, k := range *end {
			if st, ep := s.state(ln, k); st == demux.HalfOpen {
				ep.Abort() // silent, as in Linux
			}
		}
		if again != 0 || len(*ask) > 0 {
			left++
			continue
		}
		s.doors.mu.Lock()
		delete(s.doors.active, ln)
		s.doors.mu.Unlock()
		ln.active.Store(false)
		if ln.door.Busy() { // something came between Due and here
			s.doors.activate(ln)
			left++
		}
	}
	return left
}

// sendCookie has netstack answer one SYN with a cookie. Netstack's switch is for
// the whole stack, so no other SYN may be in its hands: new ones are held
// back, those on their way are waited for. One that still slips through gets a cookie too,
// which costs it its window scale and nothing else.
func (s *Stack) sendCookie(c heldSyn) {
	d := &s.doors
	if ep, ok := s.find(c.ln.port, c.key).(*tcp.Endpoint); ok && tcpip.Endpoint(ep) != c.ln.ep {
		s.deliverBytes(&c.info, c.frame, c.l2) // a live connection's: no cookie will come
		return
	}
	d.gate.Lock()
	defer d.gate.Unlock()
	timeout := time.NewTimer(cookieWait)
	defer timeout.Stop()
	for d.unanswered.Load() > 0 {
		select {
		case <-d.synAcked:
			continue
		case <-timeout.C:
		}
		break
	}
	s.setCookies(true)
	defer s.setCookies(false)
	c.ln.cookie.Store(&c.key)
	s.deliverBytes(&c.info, c.frame, c.l2)
	timeout.Reset(cookieWait)
	for c.ln.cookie.Load() != nil {
		select {
		case <-d.synAcked:
		case <-timeout.C:
			c.ln.cookie.Store(nil)
		}
	}
}

func (s *Stack) setCookies(on bool) {
	o := tcpip.TCPAlwaysUseSynCookies(on)
	if err := s.net.SetTransportProtocolOption(tcp.ProtocolNumber, &o); err != nil {
		panic(err) // netstack's TCP always knows the option
	}
}

// deliverBytes is deliver for a packet that was copied out of the pool.
func (s *Stack) deliverBytes(i *packet.Info, frame []byte, l2 int) {
	s.deliverBuffer(i, buffer.MakeWithData(frame), l2)
}

// tryWrite writes a complete frame if the device takes it at once: the reader may
// be the caller, and must not wait.
func (l *link) tryWrite(b []byte) {
	out := [1]tun.Out{{Pieces: [][]byte{b}}}
	if n, _ := l.s.dev.Write(0, out[:], false); n == 1 {
		l.out.sent.Add(1)
		l.out.bytes.Add(uint64(len(b)))
	} else {
		l.out.refused.Add(1)
	}
}
