package stack

import (
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"

	"porthole/tun"
)

// outq holds what a reader has to send and the device does not take at once: the
// reader never waits. One goroutine of its own writes it, in order, and waits. While
// anything is in it, all that readers send goes through it. It holds OutQueueFrames;
// what comes then is dropped, and counted in Out.Full. Nobody but Run closes it.
type outq struct {
	mu     sync.Mutex
	frames []outFrame
	spare  []outFrame // what the writer has done with, to be filled again
	held   int        // frames that the writer has in its hands
	ended  bool       // the writer is gone: nothing leaves any more
	wake   chan struct{}
	out    [1]tun.Out // what is offered to the device now
}

// OutQueueFrames bounds what readers have to send while the device is full.
const OutQueueFrames = 512

// outFrame is a complete frame: readers send nothing else.
type outFrame struct {
	queue int
	b     []byte
}

// offer sends one frame without waiting.
func (l *link) offer(queue int, pieces [][]byte, size int) tcpip.Error {
	o := &l.outq
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.held+len(o.frames) == 0 {
		o.out[0].Pieces = pieces
		n, err := l.send(queue, o.out[:], false)
		o.out[0].Pieces = nil
		if err != tun.ErrWouldBlock {
			return l.wrote(n, size, err)
		}
	}
	if o.ended {
		l.out.closed.Add(1)
		return &tcpip.ErrClosedForSend{}
	}
	if o.held+len(o.frames) >= OutQueueFrames {
		l.out.full.Add(1)
		return &tcpip.ErrNoBufferSpace{}
	}
	f := outFrame{queue: queue}
	if n := len(o.spare); n > 0 {
		f.b, o.spare = o.spare[n-1].b[:0], o.spare[:n-1]
	}
	for _, p := range pieces {
		f.b = append(f.b, p...)
	}
	o.frames = append(o.frames, f)
	poke(o.wake)
	return nil
}

// writeQueued writes what readers could not, until the stack closes: the device is
// closed then, so that no write waits. What is left was never sent, and is counted so.
func (l *link) writeQueued() {
	o := &l.outq
	var batch []outFrame
	for {
		select {
		case <-o.wake:
		case <-l.s.closing:
			o.mu.Lock()
			l.out.closed.Add(uint64(len(o.frames)))
			o.frames, o.ended = nil, true
			o.mu.Unlock()
			return
		}
		for {
			o.mu.Lock()
			o.spare = append(o.spare, batch...)
			batch, o.frames = o.frames, batch[:0]
			o.held = len(batch)
			o.mu.Unlock()
			if len(batch) == 0 {
				break
			}
			for _, f := range batch {
				n, err := l.send(f.queue, []tun.Out{{Pieces: [][]byte{f.b}}}, true)
				_ = l.wrote(n, len(f.b), err)
			}
		}
	}
}
