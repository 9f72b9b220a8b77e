package demux

import (
	"sync"
	"sync/atomic"

	"porthole/demux/packet"
	"porthole/impair"
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

// slot is one packet: a cache line of what is known of it, and the frame's first
// part right behind, so that its headers are the next line. 33 lines are odd, so the
// headers of many slots do not fall into the same cache sets. No pointer is in it.
type slot struct {
	next    uint32 // handle of the next packet in its chain, or 0
	charge  uint32 // what its queue was charged; of a free chain's head: the chain below
	headLen uint16
	l2      uint8 // bytes of link header before the IP header
	kind    Kind
	mark    impair.Fault // what impairment rules did to it
	off     Offload
	more    uint32 // bytes of memory that its tail holds; 0: it has none
	info    packet.Info
	depth   uint32 // packets that it found in its queue
	at      int64  // arrival of its batch, ns, when the table keeps times

	room [HeadSize]byte
}

// ref is a handle and where it leads, for who uses a slot several times.
type ref struct {
	s *slot
	h uint32
}

// Tail is the part of a packet that did not fit its slot. Owner is whatever the
// bytes belong to; who takes the tail out of the packet takes the owner with it.
type Tail struct {
	Bytes []byte
	Owner any
}

type (
	slotChunk [slotsPerChunk]slot
	tailChunk [slotsPerChunk]Tail
)

// pool hands out packet slots by handle (index+1; 0 is none). It grows by chunks
// up to its limit and never shrinks. What is lost at the limit has the fate no-buffer.
//
// Who frees packets puts them on one stack with one atomic step and waits for nobody;
// a reader takes the whole stack at once. Free slots are used again last in, first
// out, so that they are warm: the free list is a stack of such chains.
type pool struct {
	chunks []atomic.Pointer[slotChunk] // full length from the start; nil where not made
	tails  []atomic.Pointer[tailChunk]
	limit  int // slots

	returned atomic.Uint64 // stack of freed slots: how many, and the handle of the newest

	mu    sync.Mutex
	made  int    // slots made
	head  uint32 // newest chain of free slots
	below uint32 // head of the chain below it
	free  int    // in all chains; those on returned come on top

	tailBytes atomic.Int64 // held in tails
	tailLimit int64
}

func newPool(limit int, tailLimit int64) *pool {
	n := (limit + slotsPerChunk - 1) / slotsPerChunk
	return &pool{
		chunks: make([]atomic.Pointer[slotChunk], n), tails: make([]atomic.Pointer[tailChunk], n),
		limit: n * slotsPerChunk, tailLimit: tailLimit,
	}
}

func (p *pool) slot(h uint32) *slot {
	return &p.chunks[(h-1)/slotsPerChunk].Load()[(h-1)%slotsPerChunk]
}

func (p *pool) tail(h uint32) *Tail {
	return &p.tails[(h-1)/slotsPerChunk].Load()[(h-1)%slotsPerChunk]
}

// walk follows a chain. Each step waits for the one before; that the next slot is
// mostly in the same chunk is guessed by the processor, and then it waits for less.
type walk struct {
	p  *pool
	at uint32 // number of the chunk + 1
	c  *slotChunk
}

func (w *walk) slot(h uint32) *slot {
	if at := (h-1)/slotsPerChunk + 1; at != w.at {
		w.at, w.c = at, w.p.chunks[at-1].Load()
	}
	return &w.c[(h-1)%slotsPerChunk]
}

// take fills refs with free slots and returns how many there were, and whether the
// rest is scarce.
func (p *pool) take(refs []ref) (n int, scarce bool) {
	p.mu.Lock()
	p.collectLocked()
	w := walk{p: p}
	for n < len(refs) && (p.head != 0 || p.growLocked()) {
		h := p.head
		for ; h != 0 && n < len(refs); n++ {
			s := w.slot(h)
			refs[n] = ref{s, h}
			h = s.next
		}
		if p.head = h; h == 0 {
			p.descendLocked()
		}
	}
	p.free -= n
	scarce = p.scarceLocked()
	p.mu.Unlock()
	return n, scarce
}

// collectLocked puts what was freed on top of the free list.
func (p *pool) collectLocked() {
	if p.returned.Load() == 0 {
		return
	}
	w := p.returned.Swap(0)
	p.free += int(w >> 32)
	p.stackLocked(uint32(w))
}

// stackLocked puts a chain on top of the others.
func (p *pool) stackLocked(head uint32) {
	if p.head != 0 {
		p.slot(p.head).charge = p.below
		p.below = p.head
	}
	p.head = head
}

// descendLocked goes on to the chain below when the newest has come to its end.
func (p *pool) descendLocked() {
	if p.head = p.below; p.head != 0 {
		p.below = p.slot(p.head).charge
	}
}

func (p *pool) growLocked() bool {
	if p.made >= p.limit {
		return false
	}
	c := new(slotChunk)
	for i := range c[:slotsPerChunk-1] {
		c[i].next = uint32(p.made + i + 2)
	}
	p.tails[p.made/slotsPerChunk].Store(new(tailChunk))
	p.chunks[p.made/slotsPerChunk].Store(c)
	p.stackLocked(uint32(p.made + 1))
	p.made += slotsPerChunk
	p.free += slotsPerChunk
	return true
}

// give takes back a chain of n packets from first to last, whose tails are gone.
func (p *pool) give(first uint32, last *slot, n int) {
	if n == 0 {
		return
	}
	for {
		old := p.returned.Load()
		last.next = uint32(old)
		if p.returned.CompareAndSwap(old, (old>>32+uint64(n))<<32|uint64(first)) {
			return
		}
	}
}

// setTail hangs a tail on a packet that has none.
func (p *pool) setTail(r ref, t Tail) {
	r.s.more = uint32(max(cap(t.Bytes), 1))
	p.tailBytes.Add(int64(r.s.more))
	*p.tail(r.h) = t
}

// takeTail takes a packet's tail off it.
func (p *pool) takeTail(r ref) (t Tail) {
	if r.s.more != 0 {
		p.tailBytes.Add(-int64(r.s.more))
		r.s.more = 0
		t, *p.tail(r.h) = *p.tail(r.h), Tail{}
	}
	return t
}

// dropTail lets go of a packet's tail, if it has one.
func (p *pool) dropTail(r ref) {
	if r.s.more != 0 {
		p.takeTail(r)
	}
}

// littlePackets is what a port may hold although memory is scarce; of tails it may
// hold littleTails of their limit.
const (
	littlePackets = 64
	littleTails   = 64
)

// scarceLocked reports whether the pool is so low that only ports that hold little may
// queue more: below an eighth, or tails above seven eighths. So a few flooded ports
// cannot take the memory of all.
func (p *pool) scarceLocked() bool {
	return p.free+p.limit-p.made < p.limit/8 || p.tailBytes.Load() > p.tailLimit/8*7
}

// grantsTail reports whether a queue of so many bytes may take one more packet with a
// tail. Tails never cross their limit but for those in readers' hands.
func (p *pool) grantsTail(bytes uint32, scarce bool) bool {
	return p.tailBytes.Load() <= p.tailLimit && !(scarce && int64(bytes) >= p.tailLimit/littleTails)
}

// inUse is the number of slots that are not free.
func (p *pool) inUse() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.collectLocked()
	return p.made - p.free
}
