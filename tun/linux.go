//go:build linux

package tun

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernelDev is a TUN or TAP device of the kernel. Every frame crosses with a
// struct virtio_net_hdr before it, which is what lets TCP super-packets and
// partial checksums through (IFF_VNET_HDR).
//
// A queue is one file descriptor, non-blocking and in Go's poller. Read takes
// frames until the kernel has none and parks only before the first one; its
// closure and vectors are made once, so a batch allocates nothing. Write hands
// each frame to the kernel from the caller's own pieces, without a copy of ours;
// the kernel runs its whole receive path inside that call and has practically
// always room, so waiting for it is the slow path. Bound: the kernel's own ring
// (txqueuelen, 500 frames) on the way in, which drops the newest (LinkStats
// counts them); on the way out nothing is kept. Close owns the descriptors: the
// poller frees a waiting Read or Write, and the last descriptor takes the
// interface with it, since it is never made persistent.
type kernelDev struct {
	facts  Facts
	queues []*queue
	close  sync.Once
	err    error // of Close
}

// vnetSize is the length of struct virtio_net_hdr, set explicitly when opening.
const vnetSize = 10

// maxVec is the number of vectors that a write keeps on its stack. A frame in
// more pieces is gathered first.
const maxVec = 32

// queue is one descriptor of the device.
type queue struct {
	name    string
	longest int  // frame, in bytes
	offload bool // super-packets and partial checksums may be written
	file    *os.File
	raw     syscall.RawConn
	fill    func(fd uintptr) bool // readBatch, bound once

	// The batch of the Read that is running; one goroutine reads a queue.
	frames []Frame
	tail   []byte
	n      int
	errno  syscall.Errno
	vec    [3]unix.Iovec // header, head, tail
	hdr    [vnetSize]byte

	// mu is held for reading while a write uses fd, so that no write meets a
	// descriptor that Close gave back. No one waits for the device under it.
	mu sync.RWMutex
	fd int // -1 once closed
}

// newKernelDev takes over fds, non-blocking and attached, one for each queue.
func newKernelDev(facts Facts, fds []int) (*kernelDev, error) {
	d := &kernelDev{facts: facts}
	longest := maxIP
	if facts.HW != nil {
		longest += etherRoom
	}
	for _, fd := range fds {
		q := &queue{
			name: facts.Name, longest: longest, offload: facts.GSO,
			file: os.NewFile(uintptr(fd), facts.Name), fd: fd,
		}
		raw, err := q.file.SyscallConn()
		if err != nil {
			_ = d.Close()
			return nil, fmt.Errorf("poll %s: %w", facts.Name, err)
		}
		q.raw, q.fill = raw, q.readBatch
		q.vec[0].Base = &q.hdr[0]
		q.vec[0].SetLen(vnetSize)
		d.queues = append(d.queues, q)
	}
	return d, nil
}

func (d *kernelDev) Facts() Facts { return d.facts }

func (d *kernelDev) queue(i int) (*queue, error) {
	if i < 0 || i >= len(d.queues) {
		return nil, fmt.Errorf("queue %d of %s: it has %d", i, d.facts.Name, len(d.queues))
	}
	return d.queues[i], nil
}

func (d *kernelDev) Read(queue int, frames []Frame, tail []byte) (int, error) {
	q, err := d.queue(queue)
	if err != nil {
		return 0, err
	}
	if err := room(frames, tail); err != nil {
		return 0, err
	}
	q.frames, q.tail, q.n, q.errno = frames, tail, 0, 0
	q.vec[2].Base = &tail[0]
	q.vec[2].SetLen(len(tail))
	err = q.raw.Read(q.fill)
	n := q.n
	q.frames, q.tail = nil, nil
	q.vec[1].Base, q.vec[2].Base = nil, nil
	switch {
	case n > 0: // an error after frames comes again with the next Read
		return n, nil
	case err != nil && q.closed():
		return 0, os.ErrClosed
	case err != nil: // the poller saw that the descriptor has no interface
		return 0, fmt.Errorf("read %s: %w", q.name, because(ErrGone, err))
	case q.errno == unix.EBADFD:
		return 0, fmt.Errorf("read %s: %w", q.name, ErrGone)
	default:
		return 0, fmt.Errorf("read %s: %w", q.name, q.errno)
	}
}

// readBatch is called by the poller, first at once and then whenever the
// descriptor turned readable, until it returns true.
func (q *queue) readBatch(fd uintptr) bool {
	for q.n < len(q.frames) {
		f := &q.frames[q.n]
		q.vec[1].Base = &f.Head[0]
		q.vec[1].SetLen(len(f.Head))
		// Raw: the descriptor never blocks, and the scheduler need not know.
		n, _, errno := syscall.RawSyscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(&q.vec[0])), uintptr(len(q.vec)))
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
			return q.n > 0
		case errno != 0:
			q.errno = errno
			return true
		case n <= vnetSize: // no frame in it; the kernel makes none such
			continue
		}
		q.n++
		if q.finish(f, int(n)-vnetSize) {
			return true
		}
	}
	return true
}

// finish cuts f to size and reads its header. It reports whether f used the tail.
func (q *queue) finish(f *Frame, size int) (tail bool) {
	f.Offload = decodeVnet(&q.hdr)
	f.Tail = nil
	if size <= len(f.Head) {
		f.Head = f.Head[:size]
	} else {
		f.Tail = q.tail[:size-len(f.Head)]
		tail = true
	}
	if f.GSO != GSONone {
		// The kernel's HdrLen is a hint: on forwarded frames it is the length of
		// the first buffer. The TCP header tells (RFC 9293, 3.1).
		if off := int(f.CsumStart) + 12; off < len(f.Head) {
			f.HdrLen = f.CsumStart + uint16(f.Head[off]>>4)*4
		}
	}
	return tail
}

func (d *kernelDev) Write(queue int, frames []Out, wait bool) (int, error) {
	q, err := d.queue(queue)
	if err != nil {
		return 0, err
	}
	for i := range frames {
		f := &frames[i]
		size := f.length()
		if size > q.longest {
			return i, fmt.Errorf("write %s: %d bytes, at most %d: %w", q.name, size, q.longest, ErrTooLong)
		}
		if !q.offload && (f.GSO != GSONone || f.Flags&NeedsCsum != 0) {
			return i, fmt.Errorf("write %s: %w", q.name, ErrOffloaded)
		}
		errno := q.write(f)
		if errno == unix.EAGAIN {
			if !wait {
				return i, ErrWouldBlock
			}
			errno = q.writeWaiting(f, size)
		}
		if errno != 0 {
			return i, q.refusal(errno, size)
		}
	}
	return len(frames), nil
}

// errClosed stands for os.ErrClosed among the kernel's numbers.
const errClosed = unix.EBADF

// write gives f to the kernel without waiting.
func (q *queue) write(f *Out) syscall.Errno {
	if len(f.Pieces) >= maxVec {
		return q.writeGathered(f)
	}
	var hdr [vnetSize]byte
	var vec [maxVec]unix.Iovec
	encodeVnet(&hdr, &f.Offload)
	vec[0].Base = &hdr[0]
	vec[0].SetLen(vnetSize)
	n := 1
	for _, p := range f.Pieces {
		if len(p) > 0 {
			vec[n].Base = &p[0]
			vec[n].SetLen(len(p))
			n++
		}
	}
	q.mu.RLock()
	defer q.mu.RUnlock()
	if q.fd < 0 {
		return errClosed
	}
	for {
		_, _, errno := syscall.Syscall(unix.SYS_WRITEV, uintptr(q.fd), uintptr(unsafe.Pointer(&vec[0])), uintptr(n))
		if errno != unix.EINTR {
			return errno
		}
	}
}

// gathered holds buffers for a header and the longest frame.
var gathered = sync.Pool{New: func() any { return new([vnetSize + maxIP + etherRoom]byte) }}

// writeGathered is write for a frame of very many pieces.
func (q *queue) writeGathered(f *Out) syscall.Errno {
	b := gathered.Get().(*[vnetSize + maxIP + etherRoom]byte)
	defer gathered.Put(b)
	one := Out{Pieces: [][]byte{b[:f.gather(b[:])]}, Offload: f.Offload}
	return q.write(&one)
}

// writeWaiting writes f as soon as the kernel has room. It copies f, so that the
// vectors of the quick path can stay on the stack.
func (q *queue) writeWaiting(f *Out, size int) syscall.Errno {
	b := make([]byte, vnetSize+size)
	encodeVnet((*[vnetSize]byte)(b), &f.Offload)
	f.gather(b[vnetSize:])
	var errno syscall.Errno
	err := q.raw.Write(func(fd uintptr) bool {
		for {
			_, _, errno = syscall.Syscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
			if errno != unix.EINTR {
				return errno != unix.EAGAIN
			}
		}
	})
	switch {
	case err != nil && q.closed():
		return errClosed
	case err != nil:
		return unix.EBADFD
	}
	return errno
}

func (q *queue) closed() bool {
	q.mu.RLock()
	defer q.mu.RUnlock()
	return q.fd < 0
}

// refusal says what errno means for a frame of size bytes.
func (q *queue) refusal(errno syscall.Errno, size int) error {
	switch errno {
	case errClosed:
		return os.ErrClosed
	case unix.EIO:
		return fmt.Errorf("write %s: %w", q.name, ErrDown)
	case unix.EBADFD:
		return fmt.Errorf("write %s: %w", q.name, ErrGone)
	case unix.EMSGSIZE:
		return fmt.Errorf("write %s: %d bytes: %w", q.name, size, ErrTooLong)
	case unix.EINVAL:
		return fmt.Errorf("write %s: %d bytes: %w", q.name, size, because(ErrMalformed, errno))
	}
	return fmt.Errorf("write %s: %d bytes: %w", q.name, size, errno)
}

// Close returns after the kernel has removed the interface. Closing again does nothing.
func (d *kernelDev) Close() error {
	d.close.Do(func() {
		for _, q := range d.queues {
			q.mu.Lock()
			q.fd = -1
			q.mu.Unlock()
			d.err = errors.Join(d.err, q.file.Close())
		}
	})
	return d.err
}
