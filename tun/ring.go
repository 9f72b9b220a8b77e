package tun

import (
	"os"
	"sync"
)

// ring holds the frames of one direction and queue of a Pipe: a circle of slots,
// used from first on, of which used hold a frame. Many may push, one goroutine at
// a time pops. A push copies under the lock; a pop copies its frames without it,
// since slots that are used belong to the reader until it gives them back. Nobody
// waits with the lock held but in the two conditions, and closing either end wakes
// both.
type ring struct {
	mu      sync.Mutex
	arrived sync.Cond // a frame came, or the ring closed
	space   sync.Cond // slots were given back, or the ring closed
	slots   []slot
	first   int
	used    int
	reader  bool // the reading end closed: nothing passes any more
	writer  bool // the writing end closed: what is there may still be read
}

// slot is a place for one frame.
type slot struct {
	Offload
	size  int
	small []byte            // HeadSize bytes, made at first use and kept
	large *[maxIP + 32]byte // instead, while a longer frame waits here
}

// larges holds the buffers of frames that wait and are longer than HeadSize.
var larges = sync.Pool{New: func() any { return new([maxIP + 32]byte) }}

func newRing(frames int) *ring {
	r := &ring{slots: make([]slot, frames)}
	r.arrived.L, r.space.L = &r.mu, &r.mu
	return r
}

// push takes frames from end in order and returns how many.
func (r *ring) push(end *pipeEnd, frames []Out, wait bool) (n int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.arrived.Signal()
	for n < len(frames) {
		if r.reader || r.writer {
			return n, os.ErrClosed
		}
		f := &frames[n]
		size := f.length()
		if err := end.admit(f, size); err != nil {
			return n, err
		}
		if r.used == len(r.slots) {
			if !wait {
				return n, ErrWouldBlock
			}
			r.arrived.Signal()
			r.space.Wait()
			continue
		}
		r.slots[(r.first+r.used)%len(r.slots)].put(f, size)
		r.used++
		n++
	}
	return n, nil
}

// pop waits for frames and takes what is there, up to the first that needs tail.
func (r *ring) pop(frames []Frame, tail []byte) (int, error) {
	r.mu.Lock()
	for r.used == 0 && !r.reader && !r.writer {
		r.arrived.Wait()
	}
	if r.used == 0 || r.reader {
		r.mu.Unlock()
		return 0, os.ErrClosed
	}
	first, used := r.first, r.used
	r.mu.Unlock()

	n := 0
	for n < used && n < len(frames) {
		full := r.slots[(first+n)%len(r.slots)].take(&frames[n], tail)
		n++
		if full {
			break
		}
	}

	r.mu.Lock()
	r.first = (r.first + n) % len(r.slots)
	r.used -= n
	r.mu.Unlock()
	r.space.Broadcast()
	return n, nil
}

// shut closes the reading or the writing end.
func (r *ring) shut(reading bool) {
	r.mu.Lock()
	if reading {
		r.reader = true
	} else {
		r.writer = true
	}
	r.mu.Unlock()
	r.arrived.Broadcast()
	r.space.Broadcast()
}

func (s *slot) put(f *Out, size int) {
	s.Offload, s.size = f.Offload, size
	if size > HeadSize {
		s.large = larges.Get().(*[maxIP + 32]byte)
		f.gather(s.large[:])
		return
	}
	if s.small == nil {
		s.small = make([]byte, HeadSize)
	}
	f.gather(s.small)
}

// take moves the frame to f and tail, and reports whether it used tail.
func (s *slot) take(f *Frame, tail []byte) (full bool) {
	b := s.small
	if s.large != nil {
		b = s.large[:]
	}
	head := copy(f.Head, b[:s.size])
	f.Head, f.Tail, f.Offload = f.Head[:head], nil, s.Offload
	if head < s.size {
		f.Tail = tail[:copy(tail, b[head:s.size])]
		full = true
	}
	if s.large != nil {
		larges.Put(s.large)
		s.large = nil
	}
	return full
}
