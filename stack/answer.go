package stack

import (
	"net/netip"
	"sync"
	"time"

	"porthole/demux"
	"porthole/demux/packet"
	"porthole/tun"
)

// A service that never waits may have its datagrams answered where they are read, on
// the reader's goroutine: a round trip costs no wake-up then. The queue stays what it
// was. The table lends the reader a port's datagrams only while the queue is empty and
// the service waits in ReadFrom, a few of a batch at most; what finds the service busy,
// held or delayed, what came in pieces, and what Answer's function leaves, is queued
// for ReadFrom as ever, in order, within the same limits, with the same fates. So is
// all that comes for a while after answers were slow: others wait for the reader, too.

// AnswerFunc answers one datagram that was read from the device. It runs on the
// reader's goroutine, one call at a time per socket: it must not wait, close the
// socket or keep msg. reply sends without waiting; it is false, and nothing is sent,
// where one packet does not hold the answer. False, with nothing sent, leaves the
// datagram to ReadFrom, and those that follow it. One that takes more than 100 µs on
// average is not called for 64 times as long as it took, 10 s at most.
type AnswerFunc func(msg []byte, from netip.AddrPort, reply func(b []byte, to netip.AddrPort) (ok bool)) (done bool)

// answerer is a socket's part of it.
type answerer struct {
	mu    sync.Mutex // held while f runs: who has it knows that f does not
	f     AnswerFunc
	on    bool // f is set and the service is not held back
	reply func([]byte, netip.AddrPort) bool
	out   outgoing     // of f's answer
	now   demux.Packet // that f has
	fresh bool         // who looks on does not know that it was read

	calls uint
	took  time.Duration // by f, on average
	next  time.Time     // f is not called before; zero is any time
}

const (
	answerSlow    = 100 * time.Microsecond // more, on average, is for ReadFrom
	answerQuick   = answerSlow / 8         // as long as it is, one in answerTimed is timed
	answerTimed   = 8                      // reading the clock twice is 2 % of an answer
	answerOutlier = 16 * answerSlow        // counts in the average: who was preempted twice is not slow
	answerWeight  = 64                     // of the average against one answer
	answerShare   = 64                     // of the time is at least not for slow answers
	answerRest    = 10 * time.Second       // at most, between slow ones
)

// spent judges f by what an answer took.
func (a *answerer) spent(d time.Duration) {
	a.took += (min(d, answerOutlier) - a.took) / answerWeight
	if a.took > answerSlow {
		a.next = time.Now().Add(min(answerShare*d, answerRest))
	}
}

// rests reports whether f has been slow and is left alone.
func (a *answerer) rests() bool {
	if a.next.IsZero() {
		return false
	}
	if time.Now().Before(a.next) {
		return true
	}
	a.next = time.Time{}
	return false
}

// Answer has datagrams answered by f where they are read; nil ends that. When it
// returns, f's predecessor does not run and will not. On an Ethernet device, where an
// answer may wait for its next hop's link address, f is never called.
func (pc *PacketConn) Answer(f AnswerFunc) {
	a := &pc.answerer
	a.mu.Lock()
	if a.reply == nil {
		a.reply = pc.reply
	}
	a.f, a.took, a.next = f, 0, time.Time{}
	a.mu.Unlock()
	pc.settleAnswer()
}

// settleAnswer tells the table whether the reader may answer, and whether anybody may.
func (pc *PacketConn) settleAnswer() {
	a := &pc.answerer
	a.mu.Lock()
	defer a.mu.Unlock()
	a.on = a.f != nil && pc.pace.free() && !pc.s.ethernet()
	if !isClosed(pc.closed) { // else the port may be another's
		pc.s.table.SetInline(pc.port, a.on)
		_, hold := pc.pace.get()
		pc.s.table.Withhold(pc.port, hold)
	}
}

// answer is the reader's: NoFate is for the queue.
func (s *Stack) answer(port demux.Port, p demux.Packet) demux.Fate {
	pc := s.sockets[port.Number()].Load()
	if pc == nil || p.Rest() != nil {
		return demux.NoFate
	}
	a := &pc.answerer
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.on || isClosed(pc.closed) || a.rests() {
		return demux.NoFate
	}
	i := p.Info()
	a.now, a.fresh = p, true
	var begun time.Time
	a.calls++
	if a.calls%answerTimed == 0 || a.took > answerQuick {
		begun = time.Now()
	}
	done := a.f(p.IP()[i.Payload:int(i.Payload)+i.PayloadLen()], p.From(), a.reply)
	if !begun.IsZero() {
		a.spent(time.Since(begun))
	}
	if !done {
		return demux.NoFate
	}
	pc.answered()
	return demux.ToService
}

// answered tells who looks on that a datagram was read, once, before its answer.
func (pc *PacketConn) answered() {
	a := &pc.answerer
	if !a.fresh {
		return
	}
	a.fresh = false
	if w := pc.s.table.Watcher(); w != nil {
		w.In(a.now, demux.Sight{Line: pc.port, Fate: demux.ToService, Now: pc.s.clock()})
	}
	if pc.s.flows != nil {
		now := pc.s.now()
		pc.s.flows.Read(now, a.now.IP(), a.now.Info(), now-a.now.At())
	}
}

// reply sends one datagram from the reader, which waits for nothing. An address that
// nothing can be sent to is no reason to ask ReadFrom.
func (pc *PacketConn) reply(b []byte, to netip.AddrPort) bool {
	to = netip.AddrPortFrom(to.Addr().Unmap().WithZone(""), to.Port())
	if len(b)+headerLen(to.Addr()) > pc.s.facts.MTU {
		return false
	}
	if src, _ := pc.s.source(to.Addr()); checkUDP(src, to, b) == nil {
		pc.answered()
		o := &pc.answerer.out
		_ = pc.s.sendWhole(o, netip.AddrPortFrom(src, pc.port.Number()), to, b, &pc.ipID, false) // Out counts
		o.pieces[1] = nil
	}
	return true
}

// outgoing is what one write needs. All of it escapes into the device, so it is pooled.
type outgoing struct {
	hdr    [packet.EthernetSize + 64]byte // IPv6, TCP and 4 bytes of options at most
	pieces [2][]byte
	out    [1]tun.Out
}

var outgoings = sync.Pool{New: func() any { return new(outgoing) }}

func (o *outgoing) free() {
	o.pieces, o.out = [2][]byte{}, [1]tun.Out{}
	outgoings.Put(o)
}
