package flow

import (
	"porthole/demux"
	"porthole/impair"
)

// A ladder is a flow's segments that mattered: its first Rungs and its last Rungs.
// Rungs stand in blocks of eight from a pool, whose memory grows with use and has a
// bound: each flow may have one block, and all flows together three more each on
// average (Options.Flows * 4). What finds no block is counted in the flow. Only
// holders of Table.mu touch it.
const (
	Rungs      = 32 // first ones kept, and last ones
	blockRungs = 8
	blocks     = Rungs / blockRungs
	rungSlab   = 256 // blocks allocated at once
)

// What says what a rung is: a segment, or what the door or the service did.
type What uint8

// What a rung can be.
const (
	Segment     What = iota // a packet, as its flags say
	Admitted                // the door let it in
	Refused                 // the door did not
	Established             // the connection stands in the accept queue
	Accepted                // the service took it
	FirstRead               // the service read its first byte, or datagram
	Resent                  // a segment that was seen before
	Gap                     // a segment whose predecessor was not seen
	Filled                  // a segment that fills a gap
	ZeroWindow              // a segment that closes its sender's window
	Opened                  // and the one that opens it again
	Data                    // not one segment: Bytes passed since the last rung
	numWhats
)

var whats = [numWhats]string{"segment", "admitted", "refused", "established", "accepted",
	"first-read", "resent", "gap", "filled", "zero-window", "window-open", "data"}

func (w What) String() string {
	if w < numWhats {
		return whats[w]
	}
	return "unknown"
}

type rung struct {
	at           int64
	seq, ack     uint32
	n            uint32 // payload bytes
	depth, limit uint32 // of the queue that decided; waited in ns over both for Accepted
	window       uint16
	flags        uint8
	what         What
	dir          Direction
	fate         demux.Fate
	opts         uint8
	rules        impair.Fault // what impairment rules did to it
}

type block [blockRungs]rung

// ladder is a flow's part: block numbers plus one, 0 for none.
type ladder struct {
	first, last  [blocks]uint32
	nFirst       uint8
	nLast        uint32 // ever put into last
	missed       uint32 // no block was free
	summarised   [2]uint64
	firstMissing bool
}

type rungs struct {
	slabs  []*[rungSlab]block
	free   []uint32 // blocks given back; its room grows with slabs
	made   uint32
	single int // flows that may still have their one block
	extra  int // further blocks that may be taken
}

func (p *rungs) init(flows int) { p.single, p.extra = flows, 3*flows }

func (p *rungs) block(b uint32) *block { return &p.slabs[(b-1)/rungSlab][(b-1)%rungSlab] }

func (p *rungs) take(first bool) uint32 {
	if first {
		p.single--
	} else if p.extra == 0 {
		return 0
	} else {
		p.extra--
	}
	if n := len(p.free); n > 0 {
		b := p.free[n-1]
		p.free = p.free[:n-1]
		return b
	}
	if p.made%rungSlab == 0 {
		p.slabs = append(p.slabs, new([rungSlab]block))
		if free := make([]uint32, len(p.free), int(p.made)+rungSlab); true {
			copy(free, p.free)
			p.free = free
		}
	}
	p.made++
	return p.made
}

// add puts a rung at the end of a ladder.
func (p *rungs) add(l *ladder, r rung) {
	var b *uint32
	i := uint32(l.nFirst)
	first := i < Rungs && !l.firstMissing
	if first {
		b = &l.first[i/blockRungs]
	} else {
		i = l.nLast % Rungs
		b = &l.last[i/blockRungs]
	}
	if *b == 0 {
		if *b = p.take(first && i == 0); *b == 0 {
			if !first {
				// Without a block of its own the newest takes the newest one's place.
				p.replaceNewest(l, r)
				return
			}
			l.firstMissing = true
			p.add(l, r)
			return
		}
	}
	p.block(*b)[i%blockRungs] = r
	if first {
		l.nFirst++
	} else {
		l.nLast++
	}
}

func (p *rungs) replaceNewest(l *ladder, r rung) {
	l.missed++
	if l.nLast == 0 {
		if l.nFirst > 0 {
			i := l.nFirst - 1
			p.block(l.first[i/blockRungs])[i%blockRungs] = r
		}
		return
	}
	i := (l.nLast - 1) % Rungs
	p.block(l.last[i/blockRungs])[i%blockRungs] = r
}

// drop gives a ladder's blocks back.
func (p *rungs) drop(l *ladder) {
	for i, b := range l.first {
		if b != 0 {
			p.free = append(p.free, b)
			if i == 0 {
				p.single++
			} else {
				p.extra++
			}
		}
	}
	for _, b := range l.last {
		if b != 0 {
			p.free = append(p.free, b)
			p.extra++
		}
	}
	*l = ladder{}
}

// copy appends the first rungs to buf, then the last; skipped is how many came between.
func (p *rungs) copy(buf []rung, l *ladder) (all []rung, first int, skipped uint32) {
	for i := range l.nFirst {
		buf = append(buf, p.block(l.first[i/blockRungs])[i%blockRungs])
	}
	from := l.nLast - min(l.nLast, Rungs)
	for i := from; i < l.nLast; i++ {
		k := i % Rungs
		buf = append(buf, p.block(l.last[k/blockRungs])[k%blockRungs])
	}
	return buf, int(l.nFirst), from + l.missed
}
