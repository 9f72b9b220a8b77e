package stack

import (
	"time"

	"porthole/demux"
	"porthole/demux/packet"
)

// A segment for a port that nobody has is answered with RST (RFC 9293, 3.10.7.1). Netstack
// would make it from a whole packet buffer; here it costs a header, so that a flood of
// closed ports leaves the others their time. What netstack knows of is netstack's all
// the same: a connection in TIME-WAIT has a port that nobody has.

// The most resets that closed ports send. A flood gets no more, as it gets no more ICMP
// errors (FreeBSD: net.inet.icmp.icmplim); a scan of all ports stays below.
const (
	resetsPerSecond = 20000
	resetBurst      = 2000
)

// strange reports whether a segment is for nobody, netstack included.
func (s *Stack) strange(p demux.Packet) bool {
	i := p.Info()
	return i.Kind == packet.TCP && (!s.reap.had(i.DstPort) || s.find(i.DstPort, keyOf(p)) == nil)
}

// resetStranger answers such a segment, unless it is a RST itself, or one too many.
func (s *Stack) resetStranger(p demux.Packet) {
	i := p.Info()
	if i.TCPFlags&flagRST != 0 {
		return
	}
	if !s.resets.Take(s.arrival(p)) {
		s.link.out.limited.Add(1)
		return
	}
	seq, ack, _, _ := i.TCP(p.IP())
	h := packet.TCPHeader{Flags: flagRST, Seq: ack}
	if i.TCPFlags&flagACK == 0 {
		long := uint32(i.PayloadLen())
		for _, f := range []uint8{flagSYN, flagFIN} {
			if i.TCPFlags&f != 0 {
				long++
			}
		}
		h = packet.TCPHeader{Flags: flagRST | flagACK, Ack: seq + long}
	}
	s.reply(p, h, demux.FromStack)
}

// serve is inject for the reader: netstack answers some of what is closed on the goroutine
// that brings it, and may wait for the device, so all but strangers is left to a worker.
func (s *Stack) serve(port demux.Port, p demux.Packet) demux.Fate {
	if port != demux.LaneClosed {
		return s.inject(port, p)
	}
	if !s.strange(p) {
		return demux.NoFate
	}
	s.carryOut(port, nil, p, demux.Closed, resetStranger)
	return demux.Closed
}

// arrival is when a packet was read, by the batch's clock where there is one.
func (s *Stack) arrival(p demux.Packet) int64 {
	if s.now == nil {
		return time.Now().UnixNano()
	}
	return p.At()
}
