package demux

import (
	"sync"
	"sync/atomic"

	"porthole/demux/packet"
)

// HeadSize is the room of a slot: what is longer keeps its rest in a tail.
const HeadSize = 2048

// slotsPerChunk slots are made at once, so that an idle host is small.
const slotsPerChunk = 256

// Offload is what the device left undone on a frame: struct virtio_net_hdr.
type Offload struct {
	Flags                                  uint8 // 1: checksum is partial; 2: checksum is known good
	GSO                                    uint8
	HdrLen, SegSize, CsumStart, CsumOffset uint16
}

// slot is the pointer-free part of one packet.
type slot struct {
	next    uint32 // handle of the next packet in its chain, or 0
	charge  uint32 // what its queue was charged
	headLen uint16
	l2      uint16 // bytes of link header before the IP header
	kind    Kind
	off     Offload
	more    uint32 // bytes of memory that its tail holds; 0: it has none
	info    packet.Info
	at      int64 // arrival of its batch, ns, when the table keeps times
}

// chunk is a block of slots, their bytes, and their tails.
type chunk struct {
	slots [slotsPerChunk]slot
	heads [slotsPerChunk][HeadSize + 64]byte // the odd line keeps headers out of one cache set
	tails [slotsPerChunk]Tail
}

// Tail is the part of a packet that did not fit its slot. Owner is whatever the
// bytes belong to; who takes the tail out of the packet takes the owner with it.
type Tail struct {
	Bytes []byte
	Owner any
}

// pool hands out packet slots by handle (index+1; 0 is none). It grows by chunks
// up to its limit and never shrinks. Chains pass through one mutex; the freelist is
// last in, first out, so that warm memory is used again. What is lost at the limit
// has the fate no-buffer.
type pool struct {
	chunks []atomic.Pointer[chunk] // full length from the start; nil where not made
	limit  int                     // slots

	mu   sync.Mutex
	made int    // slots made
	head uint32 // freelist
	free int    // its length

	tailBytes atomic.Int64 // held in tails
	tailLimit int64
}

func newPool(limit int, tailLimit int64) *pool {
	n := (limit + slotsPerChunk - 1) / slotsPerChunk
	return &pool{chunks: make([]atomic.Pointer[chunk], n), limit: n * slotsPerChunk, tailLimit: tailLimit}
}

func (p *pool) slot(h uint32) *slot {
	return &p.chunks[(h-1)/slotsPerChunk].Load().slots[(h-1)%slotsPerChunk]
}

func (p *pool) room(h uint32) []byte {
	return p.chunks[(h-1)/slotsPerChunk].Load().heads[(h-1)%slotsPerChunk][:HeadSize]
}

func (p *pool) tail(h uint32) *Tail {
	return &p.chunks[(h-1)/slotsPerChunk].Load().tails[(h-1)%slotsPerChunk]
}

// take fills hs with free handles and returns how many there were.
func (p *pool) take(hs []uint32) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range hs {
		if p.head == 0 && !p.growLocked() {
			return i
		}
		h := p.head
		p.head = p.slot(h).next
		p.free--
		hs[i] = h
	}
	return len(hs)
}

func (p *pool) growLocked() bool {
	if p.made >= p.limit {
		return false
	}
	c := new(chunk)
	p.chunks[p.made/slotsPerChunk].Store(c)
	for i := slotsPerChunk - 1; i >= 0; i-- {
		c.slots[i].next = p.head
		p.head = uint32(p.made + i + 1)
	}
	p.made += slotsPerChunk
	p.free += slotsPerChunk
	return true
}

// give takes back a chain of n packets from first to last, whose tails are gone.
func (p *pool) give(first, last uint32, n int) {
	if n == 0 {
		return
	}
	p.mu.Lock()
	p.slot(last).next = p.head
	p.head = first
	p.free += n
	p.mu.Unlock()
}

// setTail hangs a tail on a packet that has none.
func (p *pool) setTail(h uint32, s *slot, t Tail) {
	s.more = uint32(max(cap(t.Bytes), 1))
	p.tailBytes.Add(int64(s.more))
	*p.tail(h) = t
}

// takeTail takes a packet's tail off it.
func (p *pool) takeTail(h uint32, s *slot) (t Tail) {
	if s.more != 0 {
		p.tailBytes.Add(-int64(s.more))
		s.more = 0
		t, *p.tail(h) = *p.tail(h), Tail{}
	}
	return t
}

// dropTail lets go of a packet's tail, if it has one.
func (p *pool) dropTail(h uint32, s *slot) {
	if s.more != 0 {
		p.takeTail(h, s)
	}
}

// littlePackets is what a port may hold although memory is scarce; of tails it may
// hold littleTails of their limit.
const (
	littlePackets = 64
	littleTails   = 64
)

// scarce reports whether the pool is so low that only ports that hold little may
// queue more: below an eighth, or tails above seven eighths. So a few flooded ports
// cannot take the memory of all.
func (p *pool) scarce() bool {
	p.mu.Lock()
	left := p.free + p.limit - p.made
	p.mu.Unlock()
	return left < p.limit/8 || p.tailBytes.Load() > p.tailLimit/8*7
}

// grants reports whether a line may queue one more packet, as far as the host's
// memory goes. Tails never cross their limit but for those in readers' hands.
func (p *pool) grants(l *line, s *slot, scarce bool) bool {
	if scarce && l.n >= littlePackets {
		return false
	}
	return s.more == 0 || p.tailBytes.Load() <= p.tailLimit &&
		!(scarce && int64(l.bytes) >= p.tailLimit/littleTails)
}

// inUse is the number of slots that are not free.
func (p *pool) inUse() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.made - p.free
}
