package stack

import (
	"runtime"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"porthole/demux"
)

// bulk writes super-packets to the device on goroutines of its own, so that a
// connection's next one is filled while the kernel, in the write, copies the last one
// and runs the receiver's TCP. Its place is between netstack and link.write.
//
// Small frames are written at once by who sends, unless there is a crowd: many frames came
// in at once, so many answers are about to leave. Those share a lane whose goroutine lets
// all others that can run go first, and then writes what they have left. A client that is
// woken for each answer sleeps again before the next one: waking it is half of what a
// write costs where a processor is idle. Small frames do not wait for super-packets.
//
// A flow is in one lane at a time, which keeps its order: while any of its frames is there,
// all that follow go there, too (and those of the others with its number, of flowNumbers). A lane
// holds bulkFrames; who brings one more waits, until the device has taken one or the stack
// closes; a small frame of a flow that has none there is written instead. What is left then
// is counted in Out.Closed, as every frame that comes too late.
//
// It gains where a processor is free: one goroutine cannot fill and write as fast as a
// client reads. Where none is, it costs the way between two processors' caches. What
// waits here is part of its connection's send buffer still, unless that was told that it
// has arrived, or was aborted. A device that is slow makes a lane a queue of up to 4 MiB
// within the round-trip time.
type bulk struct {
	lanes []chan *netstack.PacketBuffer // none: who sends writes
	small chan *netstack.PacketBuffer   // of a crowd; nil: who sends writes
	crowd atomic.Bool                   // there is one
	held  [flowNumbers]atomic.Int32     // frames in bulk, by flow: flows that share a number share order; below 0: in small
	all   atomic.Int32                  // how many
	ended chan struct{}                 // closed by Run when netstack, which sends, is gone
}

const (
	bulkFrames  = 64
	flowNumbers = 4096
	// crowdFrames make a crowd: with fewer at once, the way to another goroutine costs
	// more than a wake-up that is saved.
	crowdFrames = 4
	// bulkSize is more than most answers of one write have, for which the hop to
	// another goroutine would be all loss.
	bulkSize = 32 << 10
)

// init makes lanes for half of the processors, since whoever fills the frames needs
// the others. Only a device that takes super-packets has any for them, and there is none
// with one processor: then nothing can overlap.
func (b *bulk) init(gso bool) {
	b.ended = make(chan struct{})
	n := runtime.GOMAXPROCS(0)
	if n > 1 {
		b.small = make(chan *netstack.PacketBuffer, bulkFrames)
	}
	if gso && n > 1 {
		for range n / 2 {
			b.lanes = append(b.lanes, make(chan *netstack.PacketBuffer, bulkFrames))
		}
	}
}

// came tells how many frames were there when a reader looked.
func (b *bulk) came(frames int) {
	if c := frames >= crowdFrames; c != b.crowd.Load() {
		b.crowd.Store(c)
	}
}

// post takes over a frame of netstack's; false when the caller shall write it. The
// caller holds the connection's lock, so a flow's frames come one after another.
func (l *link) post(pkt *netstack.PacketBuffer) bool {
	b := &l.bulk
	if b.small == nil || pkt.TransportProtocolNumber != tcp.ProtocolNumber {
		return false
	}
	flow := b.flow(pkt)
	large := len(b.lanes) > 0 && pkt.Size() >= bulkSize
	if !large && b.held[flow].Load() == 0 && (!b.crowd.Load() || len(b.small) == cap(b.small)) {
		return false
	}
	head := pkt.NetworkHeader().Slice()
	if l.s.ethernet() {
		head = pkt.LinkHeader().Slice()
	}
	if l.loops(head) {
		return false
	}
	pkt.IncRef()
	lane := b.enter(flow, large)
	select {
	case lane <- pkt:
	case <-l.s.closing:
		b.left(flow)
		pkt.DecRef()
		l.out.closed.Add(1)
	}
	return true
}

// enter counts a frame and finds its lane: the one that its flow is in.
func (b *bulk) enter(flow int, large bool) chan *netstack.PacketBuffer {
	b.all.Add(1)
	for {
		n := b.held[flow].Load()
		next := n + 1
		if n < 0 || n == 0 && !large {
			next = n - 1
		}
		if !b.held[flow].CompareAndSwap(n, next) {
			continue
		}
		if next < 0 {
			return b.small
		}
		return b.lanes[flow%len(b.lanes)]
	}
}

// flow numbers a TCP packet's flow.
func (b *bulk) flow(pkt *netstack.PacketBuffer) int {
	th := header.TCP(pkt.TransportHeader().Slice())
	if len(th) < header.TCPMinimumSize {
		return 0
	}
	return b.flowOf(th.SourcePort(), th.DestinationPort())
}

func (b *bulk) flowOf(local, remote uint16) int { return int(mixed(local, remote)>>16) % len(b.held) }

// mixed has a flow's ports in its upper bits: a client's may all be even (Linux's
// connect), the host's all one.
func mixed(local, remote uint16) uint32 { return (uint32(local)<<16 | uint32(remote)) * 0x9e3779b1 }

// left is enter's end. A flow's count keeps its sign until it is 0.
func (b *bulk) left(flow int) {
	if n := &b.held[flow]; n.Load() < 0 {
		n.Add(1)
	} else {
		n.Add(-1)
	}
	b.all.Add(-1)
}

// settle waits until what is posted is written, but no longer than a moment: a service
// that has ended has closed its connections, and the last data and the FIN may be here.
func (b *bulk) settle() {
	const moment = 100 * time.Millisecond
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(moment); b.all.Load() > 0 && time.Now().Before(end); {
		<-tick.C
	}
}

// writeBulk is the body of a lane's goroutine.
func (l *link) writeBulk(lane chan *netstack.PacketBuffer) {
	for {
		select {
		case pkt := <-lane:
			if lane == l.bulk.small {
				runtime.Gosched()
			}
			l.writePosted(pkt)
			for n := len(lane); n > 0; n-- {
				l.writePosted(<-lane)
			}
		case <-l.bulk.ended:
			for {
				select {
				case pkt := <-lane:
					l.writePosted(pkt)
				default:
					return
				}
			}
		}
	}
}

func (l *link) writePosted(pkt *netstack.PacketBuffer) {
	_ = l.write(pkt.AsSlices(), offload(pkt), demux.FromStack, true) // Out counts
	l.bulk.left(l.bulk.flow(pkt))
	pkt.DecRef()
}
