package capture

import (
	"sync"
	"unsafe"
)

// buffer holds what has been recorded and not been taken. There are two halves: taps
// fill one, the reader empties the other and then swaps them, so that it writes
// without a lock. What finds a half full is missed, and counted. Nobody wakes the
// reader for a packet: it looks from time to time, and at once when a half is half
// full. shut ends the filling.
type buffer struct {
	hurry chan struct{} // one token: take it now

	mu       sync.Mutex
	fill     half
	spare    half
	open     bool
	told     bool // there is or was a token for this half
	accepted uint64
	missed   uint64
	lost     uint32 // missed since the last record
}

// half has the capacity that it is made with, for good.
type half struct {
	recs  []record
	bytes []byte
}

// init gives it size bytes: a third for the records, since a packet of the usual
// sizes needs about twice as much for its bytes.
func (b *buffer) init(size int) {
	b.hurry = make(chan struct{}, 1)
	b.open = true
	n := size / 2
	for _, h := range []*half{&b.fill, &b.spare} {
		h.recs = make([]record, 0, n/3/int(unsafe.Sizeof(record{})))
		h.bytes = make([]byte, 0, n-n/3)
	}
}

// put keeps a copy of a packet, in pieces; snaplen 0 is all of it. What needs its
// checksum completed, or is to be cut, is kept whole until then.
func (b *buffer) put(r record, pieces [][]byte, snaplen int) {
	for _, p := range pieces {
		r.whole += uint32(len(p))
	}
	r.size = r.whole
	if snaplen > 0 && r.off.GSO == 0 && r.off.Flags&needsCsum == 0 {
		r.size = min(r.whole, uint32(max(snaplen, leastKept)))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open {
		return
	}
	b.accepted++
	h := &b.fill
	at := len(h.bytes)
	if len(h.recs) == cap(h.recs) || cap(h.bytes)-at < int(r.size) {
		b.missed++
		b.lost++
		return
	}
	left := int(r.size)
	for _, p := range pieces {
		n := min(left, len(p))
		h.bytes = append(h.bytes, p[:n]...)
		left -= n
	}
	r.from, r.lost, b.lost = uint32(at), b.lost, 0
	h.recs = append(h.recs, r)
	if !b.told && (len(h.recs) > cap(h.recs)/2 || len(h.bytes) > cap(h.bytes)/2) {
		b.told = true
		select {
		case b.hurry <- struct{}{}:
		default:
		}
	}
}

// take gives the reader what has been recorded; it is the reader's until the next take.
func (b *buffer) take() half {
	b.mu.Lock()
	defer b.mu.Unlock()
	full := b.fill
	b.fill = half{b.spare.recs[:0], b.spare.bytes[:0]}
	b.spare = full
	b.told = false
	return full
}

func (b *buffer) shut() {
	b.mu.Lock()
	b.open = false
	b.mu.Unlock()
}

// free lets go of the memory.
func (b *buffer) free() {
	b.mu.Lock()
	b.fill, b.spare, b.open = half{}, half{}, false
	b.mu.Unlock()
}

func (b *buffer) counts() (accepted, missed uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.accepted, b.missed
}

// needsCsum is virtio's flag of a partial checksum.
const needsCsum = 1

// bytesOf are a record's bytes.
func (h *half) bytesOf(r *record) []byte { return h.bytes[r.from : r.from+r.size : r.from+r.size] }
