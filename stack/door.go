package stack

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"porthole/demux"
	"porthole/demux/packet"
)

// This file observes and commands netstack for demux.Door, which decides: segments
// on their way in are judged before netstack sees them, SYN+ACKs on their way out
// are read, and one goroutine settles what is in doubt. Netstack is never called
// with a door's mutex held: it answers on the caller's goroutine, and the answer
// comes back here. Cookies are made in cookie.go, without netstack.
//
// Three things are not as in Linux. A SYN that comes again does not put off netstack's
// timer for SYN+ACK, so another may follow sooner, and the connection does not live
// longer for it. Netstack does not do ECN. And a connection that netstack completes
// more than a second after its final ACK passed, when its place has been given away,
// is reset where Linux would send SYN+ACK again (DoorStats.Late counts them).

// doors is the state that all listeners share.
type doors struct {
	start time.Time
	wake  chan struct{} // one token: a listener has become active

	mu     sync.Mutex
	active map[*Listener]struct{} // whose doors have something that time may change
}

const (
	doorTick     = 20 * time.Millisecond
	endEarly     = 50 * time.Millisecond // before netstack's own timer sends SYN+ACK once more
	maxSynAckLen = 200                   // a SYN+ACK with link header and all options
)

func (d *doors) init() {
	d.start = time.Now()
	d.wake = make(chan struct{}, 1)
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

// admit judges one segment of a listening port. The caller may be the reader:
// nothing here waits.
func (s *Stack) admit(ln *Listener, p demux.Packet) (demux.Fate, action) {
	i := p.Info()
	seq, ack, _, options := i.TCP(p.IP())
	key := func() demux.FlowKey { return keyOf(p) }
	seg := demux.Segment{Flags: i.TCPFlags, Seq: seq, Ack: ack}
	opens := i.TCPFlags&(flagSYN|flagACK|flagRST) == flagSYN
	if opens {
		// A SYN on a connection is the connection's: it is answered there with an
		// ACK (RFC 5961, 4), however full the queues are.
		switch ep, state := s.endpoint(ln, key()); {
		case ep == nil:
		case state == tcp.StateTimeWait:
			seg.Reopens = true
			reopen(ep, seq, options)
		case stateOf(state) == demux.Established:
			return demux.ToStack, deliver
		}
	}
	now := s.doors.now()
	switch ln.door.Judge(now, key, seg) {
	case demux.Pass:
		if opens {
			s.doors.activate(ln)
		} else if ln.crowded() {
			s.doors.activate(ln) // or nobody looks at the charge
			if ep, _ := s.endpoint(ln, key()); ep == nil {
				return demux.NoBuffer, drop
			}
		}
		return demux.ToStack, deliver
	case demux.AskStack:
		if ep, state := s.endpoint(ln, key()); ep != nil && stateOf(state) != demux.Gone {
			return demux.ToStack, deliver // the connection is there already
		}
		v := ln.door.CookieAck(now, key())
		s.doors.activate(ln)
		if v == demux.Pass {
			return demux.ToStack, deliver
		}
		return demux.AcceptQueueFull, drop
	case demux.SendCookie:
		return demux.SynCookie, sendCookie
	case demux.Repeat:
		return demux.SynRepeated, repeatSynAck
	case demux.Ignore:
		return demux.Malformed, drop
	case demux.Challenge:
		return demux.ToStack, challenge
	case demux.RefuseSyn:
		return demux.SynQueueFull, drop
	case demux.Reset:
		return demux.AcceptQueueFull, sendReset
	}
	return demux.AcceptQueueFull, drop
}

// tellFilled logs that a queue of a port has filled.
func (s *Stack) tellFilled(ln *Listener) {
	for f, n := ln.door.Filled(); f != demux.NoFate; f, n = ln.door.Filled() {
		s.table.Log().Add(demux.Event{Type: demux.QueueFilled, Port: demux.TCPPort(ln.port), Fate: f, Count: uint64(n)})
	}
}

func keyOf(p demux.Packet) demux.FlowKey {
	return demux.FlowKey{Remote: p.From(), Local: p.To().Addr()}
}

// repeatSynAck answers a SYN that came again, when the door lets it.
func (s *Stack) repeatSynAck(ln *Listener, p demux.Packet) {
	if b, again := ln.door.SynAck(keyOf(p)); again {
		s.link.write([][]byte{b}, zeroOffload, demux.FromDoor, false)
	}
}

// overflowReset answers a final ACK with RST and ends its half-open connection
// (Linux: tcp_abort_on_overflow).
func (s *Stack) overflowReset(ln *Listener, p demux.Packet) {
	k := keyOf(p)
	_, ack, _, _ := p.Info().TCP(p.IP())
	synAck, _ := ln.door.SynAck(k)
	if ep, state := s.endpoint(ln, k); ep != nil && state == tcp.StateSynRecv {
		ep.Abort()
	}
	ln.door.Forget(k)
	if synAck == nil { // it ended meanwhile, or was established
		return
	}
	s.reply(p, packet.TCPHeader{Flags: flagRST, Seq: ack}, demux.FromDoor)
}

// answered reads a SYN+ACK on its way out.
func (s *Stack) answered(pkt *netstack.PacketBuffer, th header.TCP) {
	if len(th) < header.TCPMinimumSize || th[13]&(flagSYN|flagACK) != flagSYN|flagACK {
		return
	}
	ln := s.listeners[th.SourcePort()].Load()
	if ln == nil {
		return
	}
	_, k := outgoingKey(pkt)
	ln.door.Answered(s.doors.now(), k, th.SequenceNumber(), th.AckNumber()-1, th.WindowSize(), func() []byte {
		b := make([]byte, 0, maxSynAckLen)
		for _, p := range pkt.AsSlices() {
			b = append(b, p...)
		}
		return b
	})
	s.doors.activate(ln)
}

// outgoingKey names the connection of a segment that leaves.
func outgoingKey(pkt *netstack.PacketBuffer) (port uint16, k demux.FlowKey) {
	n, th := pkt.Network(), header.TCP(pkt.TransportHeader().Slice())
	return th.SourcePort(), demux.FlowKey{
		Remote: addrPort(tcpip.FullAddress{Addr: n.DestinationAddress(), Port: th.DestinationPort()}),
		Local:  addrPort(tcpip.FullAddress{Addr: n.SourceAddress()}).Addr(),
	}
}

// find looks a connection up in netstack: the connection, its listener, or nil.
func (s *Stack) find(port uint16, k demux.FlowKey) netstack.TransportEndpoint {
	return s.net.FindTransportEndpoint(netProto(k.Local), tcp.ProtocolNumber, netstack.TransportEndpointID{
		LocalPort: port, LocalAddress: address(k.Local),
		RemotePort: k.Remote.Port(), RemoteAddress: address(k.Remote.Addr()),
	}, nicID)
}

// endpoint is netstack's connection of a port, or nil when there is none.
func (s *Stack) endpoint(ln *Listener, k demux.FlowKey) (*tcp.Endpoint, tcp.EndpointState) {
	ep, ok := s.find(ln.port, k).(*tcp.Endpoint)
	if !ok {
		return nil, 0
	}
	state := ep.EndpointState()
	if tcpip.Endpoint(ep) == ln.ep || state == tcp.StateListen || state == tcp.StateBound {
		return nil, 0
	}
	return ep, state
}

// stateOf is what a connection's state means to a door.
func stateOf(s tcp.EndpointState) demux.State {
	switch s {
	case tcp.StateConnecting, tcp.StateSynRecv:
		return demux.HalfOpen
	case tcp.StateTimeWait, tcp.StateClose, tcp.StateError:
		return demux.Gone
	}
	return demux.Established
}

// doorLoop settles doubts and ends half-open connections that are too old, until
// the stack closes. It rests while no port has any.
func (s *Stack) doorLoop() {
	tick := time.NewTicker(doorTick)
	tick.Stop()
	defer tick.Stop()
	running := false
	var ask, end []demux.FlowKey
	for {
		select {
		case <-s.closing:
			return
		case <-s.doors.wake:
			if !running {
				tick.Reset(doorTick)
				running = true
			}
		case <-tick.C:
			if s.settle(&ask, &end) == 0 {
				tick.Stop()
				running = false // a listener that has become active since has put its token in wake
			}
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
	active := 0
	for _, ln := range lns {
		now := s.doors.now()
		var left bool
		ln.discharge()
		*ask, *end, left = ln.door.Due(now, endEarly, (*ask)[:0], (*end)[:0])
		for _, k := range *ask {
			state := demux.Gone
			if ep, st := s.endpoint(ln, k); ep != nil {
				state = stateOf(st)
			}
			ln.door.Confirm(now, k, state)
		}
		for _, k := range *end {
			if ep, st := s.endpoint(ln, k); ep != nil && stateOf(st) == demux.HalfOpen {
				ep.Abort() // silent, as in Linux
			}
		}
		if left {
			active++
			continue
		}
		s.doors.mu.Lock()
		delete(s.doors.active, ln)
		s.doors.mu.Unlock()
		ln.active.Store(false)
		if ln.door.Pending() { // something came between Due and here
			s.doors.activate(ln)
			active++
		}
	}
	return active
}
