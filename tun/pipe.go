package tun

import (
	"fmt"
	"net"
)

// PipeOptions describe one end of a Pipe.
type PipeOptions struct {
	Name   string           // a label; "" is "pipe"
	MTU    int              // bytes of IP in one packet that this end writes; 0 is 1500
	Queues int              // reader queues; 0 is 1
	Frames int              // most frames that wait for each of this end's readers; 0 is PipeFrames
	GSO    bool             // this end takes super-packets and partial checksums
	HW     net.HardwareAddr // this end's own address: the pipe carries Ethernet
}

// PipeFrames is the default bound of a Pipe's queue, about that of the kernel's
// own TUN ring.
const PipeFrames = 512

// Pipe joins two devices in memory: what one end writes, the other reads, in
// order. It is a wire with two ends, for tests and for a host without a kernel
// device. Offload passes when both ends take it; else a super-packet or a partial
// checksum is refused, and so is always an ordinary frame longer than the MTU.
// Frames are copied in and out, so no buffer is ever shared.
//
// Each reader queue is a ring of at most Frames frames. A writer to a full ring
// waits, or gets ErrWouldBlock; nothing is lost. Frames written on queue i arrive
// on the other end's queue i modulo its Queues, as the kernel keeps a flow on the
// queue it was last written on. A ring keeps HeadSize bytes for each place once
// used, and borrows more only while a longer frame waits.
//
// Closing one end ends its own calls at once and drops what waits for it. The
// other end reads what was written before, then os.ErrClosed; its writes fail
// with os.ErrClosed at once.
func Pipe(a, b PipeOptions) (Device, Device) {
	gso, ethernet := a.GSO && b.GSO, a.HW != nil || b.HW != nil
	x, y := newPipeEnd(a, gso, ethernet), newPipeEnd(b, gso, ethernet)
	x.peer, y.peer = y, x
	return x, y
}

type pipeEnd struct {
	facts Facts
	whole int     // longest ordinary frame, in bytes
	super int     // longest super-packet; 0 when none may pass
	in    []*ring // what waits for this end's readers, by queue
	peer  *pipeEnd
}

func newPipeEnd(o PipeOptions, gso, ethernet bool) *pipeEnd {
	if o.Name == "" {
		o.Name = "pipe"
	}
	if o.MTU <= 0 {
		o.MTU = 1500
	}
	if o.Queues <= 0 {
		o.Queues = 1
	}
	if o.Frames <= 0 {
		o.Frames = PipeFrames
	}
	link := 0
	if ethernet {
		link = etherRoom
	}
	e := &pipeEnd{
		facts: Facts{Name: o.Name, Kind: "pipe", MTU: o.MTU, Queues: o.Queues, HW: o.HW, GSO: gso},
		whole: min(o.MTU, maxIP) + link,
	}
	if gso {
		e.super = maxIP + link
	}
	for range o.Queues {
		e.in = append(e.in, newRing(o.Frames))
	}
	return e
}

func (e *pipeEnd) Facts() Facts { return e.facts }

func (e *pipeEnd) Read(queue int, frames []Frame, tail []byte) (int, error) {
	if err := e.check(queue); err != nil {
		return 0, err
	}
	if err := room(frames, tail); err != nil {
		return 0, err
	}
	return e.in[queue].pop(frames, tail)
}

func (e *pipeEnd) Write(queue int, frames []Out, wait bool) (int, error) {
	if err := e.check(queue); err != nil {
		return 0, err
	}
	return e.peer.in[queue%len(e.peer.in)].push(e, frames, wait)
}

func (e *pipeEnd) check(queue int) error {
	if queue < 0 || queue >= e.facts.Queues {
		return fmt.Errorf("queue %d of %s: it has %d", queue, e.facts.Name, e.facts.Queues)
	}
	return nil
}

// admit says whether f, of size bytes, may pass; nil when it may. The kernel
// refuses the same (virtio_net_hdr_to_skb), but for the MTU, which there a wire
// would enforce.
func (e *pipeEnd) admit(f *Out, size int) error {
	longest := e.whole
	if f.GSO != GSONone || f.Flags&NeedsCsum != 0 {
		if e.super == 0 {
			return fmt.Errorf("write %s: %w", e.facts.Name, ErrOffloaded)
		}
	}
	switch f.GSO {
	case GSONone:
	case GSOTCP4, GSOTCP6:
		longest = e.super
		if f.SegSize == 0 || int(f.HdrLen) > size {
			return fmt.Errorf("write %s: %d bytes in segments of %d after %d of headers: %w", e.facts.Name, size, f.SegSize, f.HdrLen, ErrMalformed)
		}
	default:
		return fmt.Errorf("write %s: segmentation kind %d: %w", e.facts.Name, f.GSO, ErrMalformed)
	}
	switch {
	case size == 0:
		return fmt.Errorf("write %s: empty: %w", e.facts.Name, ErrMalformed)
	case size > longest:
		return fmt.Errorf("write %s: %d bytes, at most %d: %w", e.facts.Name, size, longest, ErrTooLong)
	case f.Flags&NeedsCsum != 0 && int(f.CsumStart)+int(f.CsumOffset)+2 > size:
		return fmt.Errorf("write %s: checksum beyond the %d bytes: %w", e.facts.Name, size, ErrMalformed)
	}
	return nil
}

// Close closes this end. Closing again does nothing.
func (e *pipeEnd) Close() error {
	for _, r := range e.in {
		r.shut(true)
	}
	for _, r := range e.peer.in {
		r.shut(false)
	}
	return nil
}
