package flow

import (
	"porthole/demux"
	"porthole/demux/packet"
)

// cold is the part of a record that only segments that matter touch. Arrays of two
// are by direction: in, out.
type cold struct {
	id        ID
	k         key
	born      int64
	changed   uint64 // sequence number in changes
	hostFirst bool   // the host sent the first segment
	partial   bool   // the beginning was not seen
	ended     bool
	resetBy   uint8 // 1 + direction
	known     [2]bool
	isn       [2]uint32
	halves    [2]uint32 // times that half the number space was crossed
	fin       [2]bool
	syns      [2]uint16
	resent    [2]uint32
	gaps      [2]uint32
	hole      uint32 // where the oldest gap of what came begins
	holed     bool
	mss       [2]uint16
	scale     [2]uint8
	opts      [2]uint8
	drops     uint32 // arrived, not handed on
	refusals  uint32 // of those, by a queue
	lastDrop  demux.Fate
	zeros     [2]uint32
	zeroSince [2]int64
	zeroFor   [2]int64
	handshook int64 // times; 0: not yet
	accepted  int64
	waited    int64
	read      int64
	firstData [2]int64
	endedAt   int64
	ladder    ladder
}

const coldSlab = 256

func (t *Table) coldLocked(slot uint32) *cold {
	return &t.cold[slot/coldSlab][slot%coldSlab]
}

// completes reports whether the segment is a final ACK: from who began, of the other's
// SYN+ACK.
func (c *cold) completes(s *segment) bool {
	other := 1 - s.d
	return (s.d == Out) == c.hostFirst && s.flags&packet.ACK != 0 && c.known[other] && s.ack == c.isn[other]+1
}

// feint reports whether a segment is a RST to a half-open connection that does not have
// the number its client's would: it ends nothing (RFC 9293, 3.10.7.4).
func (c *cold) feint(s *segment) bool {
	return s.d == In && s.flags&packet.RST != 0 && !c.hostFirst && c.handshook == 0 && c.syns[Out] > 0 &&
		c.known[In] && s.seq != c.isn[In]+1
}

func (c *cold) end(now int64) {
	if !c.ended {
		c.ended, c.endedAt = true, max(now, 1)
	}
}

// bytes is how much of a direction's numbers has been seen: data, less SYN and FIN.
func (c *cold) bytes(r *hot, d Direction) uint64 {
	if !c.known[d] && c.k.isTCP() {
		return 0
	}
	n := c.whole(r.next(d), d)
	if !c.k.isTCP() {
		return n
	}
	n--
	if c.fin[d] && n > 0 {
		n--
	}
	return n
}

// whole unwraps a sequence number by the halves that were crossed on the way to it.
func (c *cold) whole(next uint32, d Direction) uint64 {
	h := uint64(c.isn[d]>>31) + uint64(c.halves[d])
	return h/2<<32 + uint64(next) - uint64(c.isn[d])
}

// options notes what a SYN offers.
func (c *cold) options(d Direction, flags uint8, b []byte) {
	o, _ := packet.ParseOptions(b)
	c.mss[d], c.scale[d] = o.MSS, o.WindowScale
	c.opts[d] = optionBits(flags, b)
}

func optionBits(flags uint8, b []byte) (bits uint8) {
	o, ok := packet.ParseOptions(b)
	set := func(on bool, bit uint8) {
		if on {
			bits |= bit
		}
	}
	set(o.MSS != 0, optMSS)
	set(o.HasWindowScale, optScale)
	set(o.SACKPermitted, optSACK)
	set(o.HasTimestamps, optTimestamps)
	set(o.HasFastOpen, optFastOpen)
	set(len(o.FastOpen) > 0, optFastOpenCookie)
	// RFC 3168, 6.1.1: a SYN asks with both flags, the SYN+ACK agrees with ECE alone.
	ecn := flags & (packet.ECE | packet.CWR)
	set(ecn == packet.ECE|packet.CWR && flags&packet.ACK == 0 || ecn == packet.ECE && flags&packet.ACK != 0, optECN)
	set(!ok, optBad)
	return bits
}
