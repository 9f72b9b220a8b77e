//go:build linux || darwin

package tun

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/songgao/water"
)

// waterDev is the portable device: one packet a read, one a write, complete
// checksums, frames of at most the MTU. songgao/water hides what differs between
// systems (on macOS it strips and adds the four bytes of utun's header). Bounds,
// losses and closing are the kernel's, as for kernelDev. A read is copied once:
// only so is a frame whole when somebody raises the MTU of the interface.
type waterDev struct {
	facts  Facts
	ifce   *water.Interface
	file   syscall.RawConn // nil where the descriptor is out of reach
	in     []byte          // of the Read that is running; one goroutine reads
	closed atomic.Bool
	close  sync.Once
	err    error // of Close
}

// newWater makes the interface; the caller has proved that it can be made.
func newWater(o Options) (*waterDev, error) {
	// water leaves the descriptor inheritable. The lock keeps every fork of this
	// process away until it is marked.
	syscall.ForkLock.RLock()
	cfg := water.Config{DeviceType: water.TUN}
	cfg.Name = o.Name
	ifce, err := water.New(cfg)
	if err == nil {
		err = closeOnExec(ifce)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		if ifce != nil {
			_ = ifce.Close()
		}
		return nil, err
	}
	d := &waterDev{
		facts: Facts{Name: ifce.Name(), Kind: KindWater, MTU: o.MTU, Queues: 1},
		ifce:  ifce,
		in:    make([]byte, maxIP+1),
	}
	if f, ok := ifce.ReadWriteCloser.(*os.File); ok {
		if d.file, err = f.SyscallConn(); err != nil {
			_ = ifce.Close()
			return nil, err
		}
	}
	return d, nil
}

func (d *waterDev) Facts() Facts { return d.facts }

func (d *waterDev) Read(queue int, frames []Frame, tail []byte) (int, error) {
	if queue != 0 {
		return 0, fmt.Errorf("queue %d of %s: it has 1", queue, d.facts.Name)
	}
	if err := room(frames, tail); err != nil {
		return 0, err
	}
	n := 0
	for n <= 0 { // on macOS an error counts -4 bytes
		var err error
		n, err = d.ifce.Read(d.in)
		if d.closed.Load() {
			return 0, os.ErrClosed
		}
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", d.facts.Name, waterErr(err))
		}
	}
	f := &frames[0]
	f.Offload, f.Tail = Offload{}, nil
	head := copy(f.Head, d.in[:n])
	f.Head = f.Head[:head]
	if head < n {
		f.Tail = tail[:copy(tail, d.in[head:n])]
	}
	return 1, nil
}

// waterWrite is one write in progress: the frame in one piece, and the call that
// tries it without waiting, made once.
type waterWrite struct {
	b   [maxIP]byte
	n   int
	err error
	try func(fd uintptr) bool
}

var waterWrites = sync.Pool{New: func() any {
	w := new(waterWrite)
	w.try = func(fd uintptr) bool {
		for {
			_, w.err = syscall.Write(int(fd), w.b[:w.n])
			if w.err != syscall.EINTR {
				return true
			}
		}
	}
	return w
}}

func (d *waterDev) Write(queue int, frames []Out, wait bool) (int, error) {
	if queue != 0 {
		return 0, fmt.Errorf("queue %d of %s: it has 1", queue, d.facts.Name)
	}
	w := waterWrites.Get().(*waterWrite)
	defer waterWrites.Put(w)
	for i := range frames {
		if err := d.write(w, &frames[i], wait); err != nil {
			return i, err
		}
	}
	return len(frames), nil
}

func (d *waterDev) write(w *waterWrite, f *Out, wait bool) error {
	if d.closed.Load() {
		return os.ErrClosed
	}
	if f.GSO != GSONone || f.Flags&NeedsCsum != 0 {
		return fmt.Errorf("write %s: %w", d.facts.Name, ErrOffloaded)
	}
	size := f.length()
	if size > d.facts.MTU {
		return fmt.Errorf("write %s: %d bytes, at most %d: %w", d.facts.Name, size, d.facts.MTU, ErrTooLong)
	}
	if size == 0 {
		return fmt.Errorf("write %s: empty: %w", d.facts.Name, ErrMalformed)
	}
	w.n, w.err = f.gather(w.b[:]), nil
	if !wait && d.file != nil {
		if err := d.file.Write(w.try); err != nil {
			w.err = err
		}
	} else {
		_, w.err = d.ifce.Write(w.b[:w.n])
	}
	switch {
	case w.err == nil:
		return nil
	case d.closed.Load():
		return os.ErrClosed
	// macOS says ENOBUFS where others say EAGAIN.
	case !wait && (errors.Is(w.err, syscall.EAGAIN) || errors.Is(w.err, syscall.ENOBUFS)):
		return ErrWouldBlock
	case errors.Is(w.err, syscall.EINVAL):
		return fmt.Errorf("write %s: %d bytes: %w", d.facts.Name, size, because(ErrMalformed, w.err))
	}
	return fmt.Errorf("write %s: %d bytes: %w", d.facts.Name, size, waterErr(w.err))
}

// Close frees a waiting Read and removes the interface. Closing again does nothing.
func (d *waterDev) Close() error {
	d.close.Do(func() {
		d.closed.Store(true)
		d.err = d.ifce.Close()
	})
	return d.err
}
