package tun

import (
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"porthole/impair"
)

// ImpairOptions are the rules of both directions, as the one sees them who has the
// device: In is what it reads.
type ImpairOptions struct {
	In, Out impair.Rules

	// ShowDropped hands packets that a rule has dropped to the reader, too, with their
	// Fault, so that they are counted where all others are. Only Impair looks at it.
	ShowDropped bool
}

// Impaired is a device whose link is under rules. While a direction has none, its calls
// are the device's own, for the price of one atomic load.
//
// Rules look at packets as a wire would carry them: super-packets are cut, partial
// checksums completed. Out is a Shaper. In, each queue with rules has a goroutine, the
// pump, that reads the device and puts packets into the line; the reader takes those
// whose time has come. The pump waits for the reader when readyMax packets lie ready;
// the kernel's own queue then fills, as without rules.
//
// When the rules go, what waits is let through in order, the pump ends with the next
// frame that it reads, and the reader goes back to the device.
//
// Close owns the end: it closes the device, which frees pumps and writes, waits for
// them, and counts what still waited (Held, Stopped).
type Impaired struct {
	dev   Device
	facts Facts
	out   *Shaper
	l2    int
	show  bool
	start time.Time
	quit  chan struct{}
	pumps sync.WaitGroup
	once  sync.Once
	err   error // of Close

	mu      sync.Mutex
	line    *impair.Line[*pkt]
	ends    []end
	held    Held
	stopped Held
	closed  bool
}

// readyMax is how many packets may lie ready for one reader before its pump pauses.
const readyMax = 512

// end is where one queue's reader takes its packets.
type end struct {
	direct atomic.Bool // the reader reads the device itself

	ready   []*pkt // for the reader, from first on; guarded by mu as all below
	first   int
	pumping bool
	err     error         // of the pump's last read
	wake    chan struct{} // one token: for the reader
	space   chan struct{} // one token: for the pump
	timer   *time.Timer   // the reader's
}

// Held counts packets that were read from the device and not yet by the reader.
type Held struct {
	Frames     int // frames of the device: whole, or the first piece of one
	Segmented  int // further pieces of super-packets
	Duplicated int // copies
}

func (h *Held) add(f impair.Fault, n int) {
	switch {
	case f&impair.Duplicated != 0:
		h.Duplicated += n
	case f&impair.Segmented != 0:
		h.Segmented += n
	default:
		h.Frames += n
	}
}

// Impair wraps a device, which it owns from then on. Rules may be zero and change
// later; those without a seed get a random one.
func Impair(dev Device, o ImpairOptions) *Impaired {
	d := &Impaired{dev: dev, facts: dev.Facts(), show: o.ShowDropped, start: time.Now(), quit: make(chan struct{})}
	d.l2 = d.facts.linkLen()
	d.out = NewShaper(dev, o.Out, rand.Uint64())
	d.ends = make([]end, d.facts.Queues)
	for i := range d.ends {
		e := &d.ends[i]
		e.wake, e.space = make(chan struct{}, 1), make(chan struct{}, 1)
	}
	d.SetIn(o.In)
	return d
}

// Facts are the device's.
func (d *Impaired) Facts() Facts { return d.facts }

// SetRules changes the rules of both directions while packets pass. What waits keeps
// its turn; without rules it is let through at once.
func (d *Impaired) SetRules(o ImpairOptions) {
	d.SetIn(o.In)
	d.SetOut(o.Out)
}

// SetOut changes the rules of what is written.
func (d *Impaired) SetOut(r impair.Rules) { d.out.SetRules(r, rand.Uint64()) }

// SetIn changes the rules of what is read.
func (d *Impaired) SetIn(r impair.Rules) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.line = renew(d.line, d.now(), r, rand.Uint64())
	for i := range d.ends {
		e := &d.ends[i]
		e.direct.Store(r.IsZero() && e.direct.Load())
		signal(e.wake)
	}
}

// ShowDropped makes packets that a rule drops come to the reader from now on.
func (d *Impaired) ShowDropped() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.show = true
}

// Rules are those in force.
func (d *Impaired) Rules() ImpairOptions {
	d.mu.Lock()
	defer d.mu.Unlock()
	return ImpairOptions{In: d.line.Rules(), Out: d.out.Rules(), ShowDropped: d.show}
}

// InStats and OutStats count what the rules did to each direction.
func (d *Impaired) InStats() impair.Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.line.Stats()
}

// OutStats are of the way out.
func (d *Impaired) OutStats() ShaperStats { return d.out.Stats() }

// Held is what waits for the reader now, and Stopped what waited when the device was
// closed.
func (d *Impaired) Held() (held, stopped Held) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.held, d.stopped
}

func (d *Impaired) now() int64 { return int64(time.Since(d.start)) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Read is Device.Read.
func (d *Impaired) Read(queue int, frames []Frame, tail []byte) (int, error) {
	if queue < 0 || queue >= len(d.ends) {
		return 0, fmt.Errorf("queue %d of %s: it has %d", queue, d.facts.Name, len(d.ends))
	}
	e := &d.ends[queue]
	for {
		if e.direct.Load() {
			n, err := d.dev.Read(queue, frames, tail)
			if err != nil || e.direct.Load() {
				return n, err
			}
			d.mu.Lock()   // rules came while it waited
			if d.closed { // what it read never arrived
				d.mu.Unlock()
				return 0, os.ErrClosed
			}
			d.admitLocked(queue, frames[:n])
			d.mu.Unlock()
			for i := range frames[:n] {
				frames[i] = Frame{Head: frames[i].Head[:HeadSize]} // what every reader offers
			}
		}
		if err := room(frames, tail); err != nil {
			return 0, err
		}
		if n, err := d.readReady(queue, e, frames, tail); n > 0 || err != nil {
			return n, err
		}
	}
}

// readReady waits for packets whose time has come. It returns nothing when the reader
// may read the device itself.
func (d *Impaired) readReady(queue int, e *end, frames []Frame, tail []byte) (int, error) {
	for {
		d.mu.Lock()
		if d.closed {
			d.mu.Unlock()
			return 0, os.ErrClosed
		}
		now := d.now()
		d.ripenLocked(queue, now)
		if n := d.takeLocked(e, frames, tail); n > 0 {
			d.mu.Unlock()
			signal(e.space)
			return n, nil
		}
		if err := e.err; err != nil && d.line.Len() == 0 {
			e.err = nil
			d.mu.Unlock()
			return 0, err
		}
		if !e.pumping && e.err == nil {
			if r := d.line.Rules(); r.IsZero() && d.line.Len() == 0 {
				e.direct.Store(true)
				d.mu.Unlock()
				return 0, nil
			}
			e.pumping = true
			d.pumps.Go(func() { d.pump(queue, e) })
		}
		next := d.line.Next()
		d.mu.Unlock()
		e.wait(next-now, d.quit)
	}
}

// wait returns after ns, or when there is something to look at.
func (e *end) wait(ns int64, quit chan struct{}) {
	if e.timer == nil {
		e.timer = time.NewTimer(time.Duration(ns))
	} else {
		e.timer.Reset(time.Duration(ns))
	}
	select {
	case <-e.wake:
	case <-e.timer.C:
	case <-quit:
	}
	e.timer.Stop()
}

// ripenLocked gives packets whose time has come to their readers; queue is the caller's.
func (d *Impaired) ripenLocked(queue int, now int64) {
	for it, ok := d.line.Pop(now); ok; it, ok = d.line.Pop(now) {
		it.V.fault = it.Fault
		q := it.V.queue // what is dropped is another's after readyLocked
		d.readyLocked(it.V)
		if q != queue {
			signal(d.ends[q].wake)
		}
	}
}

func (d *Impaired) readyLocked(p *pkt) {
	if p.fault.Dropped() && !d.show {
		d.held.add(p.fault, -1)
		p.free()
		return
	}
	e := &d.ends[p.queue]
	e.ready = append(e.ready, p)
}

// takeLocked moves ready packets into the reader's frames.
func (d *Impaired) takeLocked(e *end, frames []Frame, tail []byte) (n int) {
	for n < len(frames) && e.first < len(e.ready) {
		p := e.ready[e.first]
		e.ready[e.first] = nil
		e.first++
		f := &frames[n]
		n++
		k := copy(f.Head, p.b)
		f.Head, f.Tail = f.Head[:k], nil
		f.Offload, f.Fault = Offload{Flags: p.flags}, p.fault
		long := k < len(p.b)
		if long {
			f.Tail = tail[:copy(tail, p.b[k:])]
		}
		d.held.add(p.fault, -1)
		p.free()
		if long {
			break
		}
	}
	if e.first == len(e.ready) {
		e.ready, e.first = e.ready[:0], 0
	}
	return n
}

// admitLocked puts frames into the line.
func (d *Impaired) admitLocked(queue int, frames []Frame) {
	now := d.now()
	for i := range frames {
		f := &frames[i]
		cut(f.Head, f.Tail, &f.Offload, d.l2, func(p *pkt) {
			p.queue = queue
			d.held.add(p.fault, 1)
			if p.offer(d.line, now, d.l2, d.readyLocked) {
				d.held.Duplicated++
			}
			d.ripenLocked(queue, now) // dropped and passed keep their order
		})
	}
}

// pump reads the device for a queue under rules.
func (d *Impaired) pump(queue int, e *end) {
	frames := make([]Frame, burst)
	heads := make([]byte, burst*HeadSize)
	tail := make([]byte, TailSize)
	for {
		for i := range frames {
			frames[i] = Frame{Head: heads[i*HeadSize:][:HeadSize:HeadSize]}
		}
		n, err := d.dev.Read(queue, frames, tail)
		d.mu.Lock()
		d.admitLocked(queue, frames[:n])
		r := d.line.Rules()
		if err != nil || d.closed || r.IsZero() {
			e.pumping, e.err = false, err
			d.mu.Unlock()
			signal(e.wake)
			return
		}
		d.mu.Unlock()
		signal(e.wake)
		if !d.roomy(e) {
			continue // closed: the next read says so
		}
	}
}

// roomy waits until the reader has taken enough; false when the device was closed.
func (d *Impaired) roomy(e *end) bool {
	for {
		d.mu.Lock()
		n := len(e.ready) - e.first
		d.mu.Unlock()
		if n < readyMax {
			return true
		}
		select {
		case <-e.space:
		case <-d.quit:
			return false
		}
	}
}

// Write is Device.Write.
func (d *Impaired) Write(queue int, frames []Out, wait bool) (int, error) {
	return d.out.Write(queue, frames, wait)
}

// Close closes the device and drops what waits. Closing again does nothing.
func (d *Impaired) Close() error {
	d.once.Do(func() {
		d.mu.Lock()
		d.closed = true
		d.mu.Unlock()
		close(d.quit)
		d.err = d.dev.Close()
		d.out.Close()
		d.pumps.Wait()
		d.mu.Lock()
		defer d.mu.Unlock()
		for it, ok := d.line.Drain(); ok; it, ok = d.line.Drain() {
			it.V.fault = it.Fault
			d.readyLocked(it.V)
		}
		for i := range d.ends {
			e := &d.ends[i]
			for _, p := range e.ready[e.first:] {
				p.free()
			}
			e.ready, e.first = nil, 0
		}
		d.stopped, d.held = d.held, Held{}
	})
	return d.err
}
