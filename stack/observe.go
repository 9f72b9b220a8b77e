package stack

import (
	"net"
	"net/netip"

	"porthole/demux"
	"porthole/demux/flow"
	"porthole/demux/packet"
	"porthole/tun"
)

// This file tells the timelines (demux/flow) and captures (demux.Watcher) what passes:
// it looks on, and holds nothing up. Without either none of it is called.

// queued is demux's tap: a packet that its queue refused, or a datagram that it took,
// or one that it dropped after that.
func (s *Stack) queued(_ demux.Port, p demux.Packet, f demux.Fate, depth, limit, bytes, maxBytes uint32) {
	if f == demux.NoFate { // the timelines want to know what it found
		depth--
		bytes -= demux.Overhead + uint32(p.Info().PayloadLen())
	}
	d := flow.Decision{Fate: f, Depth: depth, Limit: limit, Bytes: bytes, LimitBytes: maxBytes, Rules: p.Fault()}
	if f == demux.FaultInjected { // no queue has decided
		d = flow.Decision{Fate: f, Rules: p.Fault()}
	}
	if f == demux.HeadDropped || f == demux.CoDelDropped {
		now := s.now()
		s.flows.Lost(now, p.IP(), p.Info(), d, now-p.At())
		return
	}
	s.flows.In(p.At(), p.IP(), p.Info(), d)
}

// doorSight is the queue behind the door that decided about a segment.
func (s *Stack) doorSight(ln *Listener, p demux.Packet, f demux.Fate) (d demux.DoorSight) {
	if ln == nil {
		return d
	}
	d.Queue = demux.DoorPassed
	if !opens(p, f) && f != demux.AcceptQueueFull && f != demux.SynQueueFull {
		return d
	}
	st := ln.door.Stats()
	if f == demux.SynQueueFull {
		return demux.DoorSight{Queue: demux.SynQueue, Depth: uint32(st.HalfOpen), Limit: uint32(st.SynQueue)}
	}
	return demux.DoorSight{Queue: demux.AcceptQueue, Depth: uint32(st.Waiting + st.Reserved), Limit: uint32(st.Backlog)}
}

// opens reports whether a packet is a SYN that may pass.
func opens(p demux.Packet, f demux.Fate) bool {
	return f == demux.ToStack && p.Info().TCPFlags&(flagSYN|flagACK) == flagSYN
}

// observe tells the timelines of a segment whose fate a worker has found, and hears
// whether it acknowledges what was never sent.
func (s *Stack) observe(port demux.Port, p demux.Packet, f demux.Fate, door demux.DoorSight) (unsent bool) {
	i := p.Info()
	if i.Version == 0 || i.Kind != packet.TCP && i.Kind != packet.UDP {
		return false
	}
	d := flow.Decision{Fate: f, Depth: door.Depth, Limit: door.Limit, Rules: p.Fault()}
	unsent = s.flows.In(p.At(), p.IP(), i, d)
	if port.IsTCP() && opens(p, f) {
		k := demux.FlowKey{Remote: p.From(), Local: p.To().Addr()}
		s.flows.Admitted(p.At(), flow.TCPKey(k, port.Number()), d.Depth, d.Limit)
	}
	return unsent
}

// leaves tells of a frame of size bytes that is about to leave.
func (s *Stack) leaves(pieces [][]byte, size int, o tun.Offload, from demux.Origin) {
	if s.flows != nil {
		s.sent(pieces[0], size)
	}
	if w := s.table.Watcher(); w != nil {
		w.Out(demux.Sent{Now: s.clock(), Pieces: pieces, Offload: demux.Offload(o), From: from})
	}
}

func (s *Stack) clock() int64 {
	if s.now == nil {
		return 0
	}
	return s.now()
}

// sent tells the timelines of a frame that leaves; head holds all its headers, size is of the
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
