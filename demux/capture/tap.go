package capture

import (
	"slices"

	"porthole/demux"
	"porthole/demux/packet"
	"porthole/impair"
)

// leastKept is how much of a packet is kept for the comment, whatever the snaplen:
// link header, IP header with extensions, ports.
const leastKept = 128

// record is a packet in a buffer.
type record struct {
	at, now    int64 // arrival (or departure) and fate, ns
	id         uint64
	info       packet.Info // zero Version: no IP packet
	off        demux.Offload
	door       demux.DoorSight
	port       demux.Port // its own, or its lane
	line       demux.Port
	depth      uint32
	lost       uint32 // packets that were missed right before it
	from, size uint32 // where its bytes are
	whole      uint32 // length of the frame
	l2         uint16 // bytes of link header
	fate       demux.Fate
	kind       demux.Kind
	fault      impair.Fault // what impairment rules did to it
	out        bool
	origin     demux.Origin
}

// in sees a packet that arrived, with its fate.
func (s *Set) in(p demux.Packet, v demux.Sight) {
	list := s.running.Load()
	if list == nil {
		return
	}
	i := p.Info()
	r := record{
		at: p.At(), now: v.Now, id: s.packets.Add(1), info: *i, off: p.Offload(), door: v.Door,
		port: v.Line, line: v.Line, depth: uint32(p.Depth()), l2: uint16(p.LinkLen()), fate: v.Fate, kind: p.Kind(), fault: p.Fault(),
	}
	if i.Version != 0 && i.Kind <= packet.UDP {
		r.port = portOf(i, i.DstPort)
	}
	pieces := [3][]byte{nil, p.Frame(), p.Rest()}
	if r.kind == demux.SelfTest || r.kind == demux.Reassembled { // it was never on the link
		pieces[0] = s.header(i)
		r.l2 = uint16(len(pieces[0]))
	}
	for _, c := range *list {
		if len(c.o.Fates) > 0 && !c.fates[v.Fate] {
			continue
		}
		if c.wants(&r) {
			c.buf.put(r, pieces[:], c.o.Snaplen)
		}
	}
}

// header is the link header of a packet that has none: from the host to itself.
func (s *Set) header(i *packet.Info) []byte {
	switch {
	case s.cfg.HW == nil:
		return nil
	case i.Version == 6:
		return s.own6[:]
	}
	return s.own4[:]
}

// out sees a frame that leaves.
func (s *Set) out(v demux.Sent) {
	list := s.running.Load()
	if list == nil || len(v.Pieces) == 0 {
		return
	}
	r := record{at: v.Now, now: v.Now, id: s.packets.Add(1), off: v.Offload, port: demux.LaneICMP, out: true, origin: v.From}
	head, size := v.Pieces[0], 0
	for _, b := range v.Pieces {
		size += len(b)
	}
	isIP := true
	if s.cfg.HW != nil {
		_, _, kind, n, _ := packet.ParseEthernet(head)
		r.l2, head, size = uint16(n), head[n:], size-n
		isIP = kind == packet.EtherIPv4 || kind == packet.EtherIPv6
	}
	if !isIP || r.info.Parse(head, size) != packet.None {
		r.info = packet.Info{}
	}
	switch i := &r.info; {
	case i.Version == 0 || i.Kind == packet.Link:
		r.port = demux.LaneLink
	case i.Kind <= packet.UDP:
		r.port = portOf(i, i.SrcPort)
	}
	r.line = r.port
	for _, c := range *list {
		if len(c.o.Fates) == 0 && c.wants(&r) {
			c.buf.put(r, v.Pieces, c.o.Snaplen)
		}
	}
}

// portOf names a port of a TCP or UDP packet.
func portOf(i *packet.Info, n uint16) demux.Port {
	if i.Kind == packet.TCP {
		return demux.TCPPort(n)
	}
	return demux.UDPPort(n)
}

// wants reports whether a packet is of the capture's ports.
func (c *Capture) wants(r *record) bool {
	return len(c.o.Ports) == 0 || slices.Contains(c.o.Ports, r.port) || r.line != r.port && slices.Contains(c.o.Ports, r.line)
}
