package stack

import (
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Netstack acknowledges each batch of segments at once, with a segment of its own. A
// request's answer comes right after it and says the same again, so the ACK of less than
// a full segment is held until it does (RFC 9293, 3.8.6.3): a kept-alive request costs
// one write to the device instead of two.
//
// What is held is the frame as netstack made it. It is dropped when any later segment of
// its connection leaves, which acknowledges as much, and sent
//
//   - when the service reads again and there is nothing: it has nothing to answer yet,
//     and the client may wait for the ACK before it sends the rest (RFC 896);
//   - when it closes and the FIN waits behind data;
//   - else after ackMost.
//
// An ACK is new when its number is higher than that of the connection's last segment.
// One that is not answers a duplicate, a keep-alive or a segment out of order, or opens
// the window, and leaves at once, as does a new one after it, which may fill the gap
// (RFC 5681, 4.2), one with SACK blocks, and the second new one in a row. For each that
// was not new one of the new ones goes at once.
//
// Netstack tells the link which connection a segment is of (the owner of the packet). It
// writes with that connection's lock held, but for what has waited for a link address.
type ack struct {
	c *Conn

	mu    sync.Mutex
	left  seqnum.Value // the last number that left
	known bool         // left is
	owed  int          // as many of the next ones as may fill a gap
	fin   bool         // the host's FIN has left, so there will be no answer

	held   atomic.Pointer[netstack.PacketBuffer]
	round  atomic.Uint64 // of acks, when it was held
	listed atomic.Bool   // it stands in acks
}

const (
	ackMost = 40 * time.Millisecond // Linux: TCP_DELACK_MIN
	ackTick = ackMost / 2
	// owedMost bounds what many keep-alives leave behind.
	owedMost = 8
	// fullSpare is more than the headers of a full segment.
	fullSpare = 100
)

// KUID and KGID make it the owner of packets, for netstack's packet filter, which we
// do not use.
func (a *ack) KUID() uint32 { return 0 }

// KGID belongs to KUID.
func (a *ack) KGID() uint32 { return 0 }

// own has the connection's segments come to the link with a as their owner.
func (a *ack) own(c *Conn) {
	a.c = c
	ep, ok := c.ep.(*tcp.Endpoint)
	if !ok {
		return
	}
	ep.LockUser()
	defer ep.UnlockUser()
	ep.SetOwner(a)
	if st, _ := sender(ep); st != nil {
		a.left, a.known = st.MaxSentAck, true
	}
}

// holds looks at a segment on its way out, and reports whether it stays here.
func (a *ack) holds(pkt *netstack.PacketBuffer, th header.TCP) bool {
	if len(th) < header.TCPMinimumSize || th.Flags()&header.TCPFlagAck == 0 {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	number := seqnum.Value(th.AckNumber())
	pure := th.Flags() == header.TCPFlagAck && pkt.Data().Size() == 0
	last := a.left
	was := a.held.Swap(nil)
	if was != nil {
		last = seqnum.Value(header.TCP(was.TransportHeader().Slice()).AckNumber())
		was.DecRef()
	}
	fresh := last.LessThan(number)
	sack := th.DataOffset() > header.TCPMinimumSize+header.TCPOptionTSLength+2
	a.fin = a.fin || th.Flags()&header.TCPFlagFin != 0
	wait := pure && fresh && was == nil && a.known && a.owed == 0 && !a.fin && !sack && th.WindowSize() > 0 &&
		int(last.Size(number)) < a.c.s.facts.MTU-fullSpare && !isClosed(a.c.closed)
	switch {
	case !pure:
	case !fresh:
		a.owed = min(a.owed+1, owedMost)
	case a.owed > 0:
		a.owed--
	}
	if !wait {
		a.left, a.known = number, true
		return false
	}
	pkt.IncRef()
	a.round.Store(a.c.s.acks.round.Load())
	a.held.Store(pkt)
	if !a.listed.Swap(true) {
		a.c.s.acks.add(a)
	}
	return true
}

// send lets go of an ACK that is held.
func (a *ack) send() {
	if a.held.Load() == nil {
		return
	}
	ep := a.c.ep.(*tcp.Endpoint)
	ep.LockUser()
	defer ep.UnlockUser()
	a.sendLocked(ep)
}

// endLocked is sendLocked for a connection that is closed here: its FIN has taken along
// what was held, unless it waits behind data. Netstack keeps some of these for a minute,
// in TIME-WAIT, and the Conn not with them.
func (a *ack) endLocked(ep *tcp.Endpoint) {
	a.sendLocked(ep)
	ep.SetOwner(nil)
}

// sendLocked needs the connection's lock.
func (a *ack) sendLocked(ep *tcp.Endpoint) {
	a.mu.Lock()
	pkt := a.held.Swap(nil)
	if pkt != nil {
		a.left = seqnum.Value(header.TCP(pkt.TransportHeader().Slice()).AckNumber())
	}
	a.mu.Unlock()
	if pkt == nil {
		return
	}
	switch ep.EndpointState() {
	case tcp.StateClose, tcp.StateError: // it has ended: the peer would answer with RST
	default:
		_ = a.c.s.link.writeOwn(pkt) // Out counts
	}
	pkt.DecRef()
}

// acks are the connections that have held an ACK of late. One goroutine looks at them
// every ackTick, as long as there are any.
type acks struct {
	round atomic.Uint64
	wake  chan struct{} // one token: the list is no longer empty

	mu   sync.Mutex
	list []*ack
}

func (k *acks) init() { k.wake = make(chan struct{}, 1) }

// add is called with the connection's lock held.
func (k *acks) add(a *ack) {
	k.mu.Lock()
	k.list = append(k.list, a)
	k.mu.Unlock()
	poke(k.wake)
}

// ackLoop sends what nothing else has, until the stack closes.
func (s *Stack) ackLoop() {
	tick := time.NewTicker(ackTick)
	tick.Stop()
	defer tick.Stop()
	running := false
	var list []*ack
	for {
		select {
		case <-s.closing:
			return
		case <-s.acks.wake:
			if !running {
				tick.Reset(ackTick)
				running = true
			}
		case <-tick.C:
			if list = s.acks.sweep(list); len(list) == 0 {
				tick.Stop()
				running = false // who stands in the list since then has put a token in wake
			}
		}
	}
}

// sweep sends what was held for a whole round. It keeps those in old that may have
// something in the next, and returns them.
func (k *acks) sweep(old []*ack) []*ack {
	k.mu.Lock()
	old = append(old, k.list...)
	clear(k.list)
	k.list = k.list[:0]
	k.mu.Unlock()
	now := k.round.Add(1) - 1
	kept := old[:0]
	for _, a := range old {
		if a.round.Load() < now {
			a.send()
			a.listed.Store(false)
			if a.held.Load() == nil || a.listed.Swap(true) {
				continue // it is back in the list when it has one again
			}
		}
		kept = append(kept, a)
	}
	clear(old[len(kept):])
	return kept
}

var _ tcpip.PacketOwner = (*ack)(nil)
