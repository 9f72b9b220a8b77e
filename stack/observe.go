package stack

import (
	"net"
	"net/netip"

	"porthole/demux"
	"porthole/demux/flow"
	"porthole/demux/packet"
)

// This file tells the timelines (demux/flow) what passes: it looks on, and holds
// nothing up. Without timelines none of it is called.

// queued is demux's tap: a packet that its queue refused, or a datagram that it took.
func (s *Stack) queued(_ demux.Port, p demux.Packet, f demux.Fate, depth, limit, bytes, maxBytes uint32) {
	if f == demux.NoFate { // the timelines want to know what it found
		depth--
		bytes -= demux.Overhead + uint32(p.Info().PayloadLen())
	}
	s.flows.In(p.At(), p.IP(), p.Info(), flow.Decision{
		Fate: f, Depth: depth, Limit: limit, Bytes: bytes, LimitBytes: maxBytes,
	})
}

// observe tells of a segment whose fate a worker has found.
func (s *Stack) observe(port demux.Port, p demux.Packet, f demux.Fate) {
	i := p.Info()
	if i.Version == 0 || i.Kind != packet.TCP && i.Kind != packet.UDP {
		return
	}
	d := flow.Decision{Fate: f}
	opens := i.TCPFlags&(flagSYN|flagACK) == flagSYN && f == demux.ToStack
	if port.IsTCP() && (opens || f == demux.AcceptQueueFull || f == demux.SynQueueFull) {
		if st, ok := s.Door(port.Number()); ok {
			d.Depth, d.Limit = uint32(st.Waiting+st.Reserved), uint32(st.Backlog)
			if f == demux.SynQueueFull {
				d.Depth, d.Limit = uint32(st.HalfOpen), uint32(st.SynQueue)
			}
		}
	}
	s.flows.In(p.At(), p.IP(), i, d)
	if opens && port.IsTCP() {
		k := demux.FlowKey{Remote: p.From(), Local: p.To().Addr()}
		s.flows.Admitted(p.At(), flow.TCPKey(k, port.Number()), d.Depth, d.Limit)
	}
}

// sent tells of a frame that leaves; head holds all its headers, size is of the
// whole frame.
func (s *Stack) sent(head []byte, size int) {
	if s.ethernet() {
		if len(head) < packet.EthernetSize {
			return
		}
		head, size = head[packet.EthernetSize:], size-packet.EthernetSize
	}
	var i packet.Info
	if i.Parse(head, size) == packet.None && (i.Kind == packet.TCP || i.Kind == packet.UDP) {
		s.flows.Out(s.now(), head, &i)
	}
}

// flowKey names an accepted connection.
func (c *Conn) flowKey() flow.Key {
	return flow.TCPKey(demux.FlowKey{Remote: c.remote.AddrPort(), Local: localAddr(c.local)}, c.port)
}

func localAddr(a *net.TCPAddr) netip.Addr { return a.AddrPort().Addr().Unmap() }
