package tun

import (
	"encoding/binary"
	"sync"

	"porthole/demux/packet"
	"porthole/impair"
)

// pkt is one packet of at most the MTU, with its link header and complete checksums,
// that a link rule looks at or holds.
type pkt struct {
	b     []byte
	fault impair.Fault
	flags uint8 // of its Offload: DataValid or 0
	queue int
	room  [HeadSize]byte
}

// pkts are free ones. What is longer than a pkt's room has memory of its own.
var pkts = sync.Pool{New: func() any { return new(pkt) }}

func newPkt(size int) *pkt {
	p := pkts.Get().(*pkt)
	p.fault, p.flags, p.queue = 0, 0, 0
	if size <= len(p.room) {
		p.b = p.room[:size]
	} else {
		p.b = make([]byte, size)
	}
	return p
}

func (p *pkt) free() {
	p.b = nil
	pkts.Put(p)
}

func (p *pkt) copy() *pkt {
	c := newPkt(len(p.b))
	copy(c.b, p.b)
	c.flags, c.queue = p.flags, p.queue
	return c
}

// cut makes packets of a frame, in order: one, or the pieces of a super-packet. l2 is
// the length of its link header. Partial checksums are completed.
func cut(head, tail []byte, o *Offload, l2 int, each func(*pkt)) {
	size := len(head) + len(tail)
	if o.GSO != GSONone && len(head) > l2 {
		var i packet.Info
		if i.Parse(head[l2:], size-l2) == packet.None && i.Kind == packet.TCP {
			var room [HeadSize]byte
			first := impair.Fault(0)
			packet.Segment(&i, head[l2:], tail, int(o.SegSize), room[:], func(seg []byte) bool {
				p := newPkt(l2 + len(seg))
				copy(p.b, head[:l2])
				copy(p.b[l2:], seg)
				p.flags, p.fault = DataValid, first
				first = impair.Segmented
				each(p)
				return true
			})
			return
		}
	}
	p := newPkt(size)
	copy(p.b[copy(p.b, head):], tail)
	if p.flags = o.Flags & DataValid; o.Flags&NeedsCsum != 0 && completeSum(p.b, o) {
		p.flags = DataValid // it never left the machine
	}
	each(p)
}

// completeSum fills in a partial checksum (virtio 1.2, 5.1.6.2): the field holds the sum
// of the pseudo-header. It reports whether the header makes sense.
func completeSum(b []byte, o *Offload) bool {
	from, at := int(o.CsumStart), int(o.CsumStart)+int(o.CsumOffset)
	if at+2 > len(b) {
		return false
	}
	s := ^packet.Sum(b[from:], 0)
	if s == 0 && o.CsumOffset == 6 {
		s = 0xffff // UDP's zero would mean none (RFC 768)
	}
	binary.BigEndian.PutUint16(b[at:], s)
	return true
}

// flip turns the bit that the line has drawn, behind the link header.
func (p *pkt) flip(l *impair.Line[*pkt], l2 int) {
	if len(p.b) > l2 {
		at, mask := l.Flip(len(p.b) - l2)
		p.b[l2+at] ^= mask
		p.flags = 0 // nobody vouches for its checksum any more
	}
}

// syn reports whether the packet is a TCP segment with the SYN flag.
func (p *pkt) syn(l2 int) bool {
	var i packet.Info
	return len(p.b) > l2 && i.Parse(p.b[l2:], len(p.b)-l2) == packet.None && i.Kind == packet.TCP && i.TCPFlags&packet.SYN != 0
}

// offer lets a packet into the line, and a copy when the line wants one. What is
// dropped goes to out; the line holds the rest. It reports whether there was a copy.
func (p *pkt) offer(l *impair.Line[*pkt], now int64, l2 int, out func(*pkt)) (copied bool) {
	r := l.Rules()
	v := l.Judge(r.DropSYN > 0 && p.syn(l2))
	if v.Fault.Dropped() {
		p.fault |= v.Fault
		out(p)
		return false
	}
	var twin *pkt
	if v.Copy {
		twin = p.copy()
	}
	if v.Fault&impair.Corrupted != 0 {
		p.flip(l, l2)
	}
	size := len(p.b) - l2
	p.push(l, now, size, p.fault|v.Fault, out)
	if twin != nil {
		twin.push(l, now, size, impair.Duplicated, out)
	}
	return twin != nil
}

func (p *pkt) push(l *impair.Line[*pkt], now int64, size int, f impair.Fault, out func(*pkt)) {
	if f = l.Push(now, p, size, f); f.Dropped() {
		p.fault = f
		out(p)
	}
}

// linkLen is the length of the link header of a device's frames.
func (f *Facts) linkLen() int {
	if f.HW != nil {
		return packet.EthernetSize
	}
	return 0
}
