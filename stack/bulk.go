package stack

import (
	"runtime"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"porthole/demux"
)

// bulk writes super-packets to the device on goroutines of its own, so that a
// connection's next one is filled while the kernel, in the write, copies the last one
// and runs the receiver's TCP. Its place is between netstack and link.write.
//
// A flow has one lane, which keeps its order: while any of its frames is in bulk, all
// that follow go there, too. Small frames of flows that have none there never wait for
// those of others: they are written at once. A lane holds bulkFrames; who brings one
// more waits, until the device has taken one or the stack closes. What is left then is
// counted in Out.Closed, as every frame that comes too late.
//
// It gains where a processor is free: one goroutine cannot fill and write as fast as a
// client reads. Where none is, it costs the way between two processors' caches. What
// waits here is part of its connection's send buffer still.
type bulk struct {
	lanes []chan *netstack.PacketBuffer // none: who sends writes
	held  [256]atomic.Int32             // frames in bulk, by flow: flows that share a number share order
	ended chan struct{}                 // closed by Run when netstack, which sends, is gone
}

const (
	bulkFrames = 64
	// bulkSize is more than most answers of one write have, for which the hop to
	// another goroutine would be all loss.
	bulkSize = 32 << 10
)

// init makes lanes for half of the processors, since whoever fills the frames needs
// the others. Only a device that takes super-packets has any, and not with one
// processor: then nothing can overlap.
func (b *bulk) init(gso bool) {
	b.ended = make(chan struct{})
	if n := runtime.GOMAXPROCS(0); gso && n > 1 {
		for range n / 2 {
			b.lanes = append(b.lanes, make(chan *netstack.PacketBuffer, bulkFrames))
		}
	}
}

// post takes over a frame of netstack's; false when the caller shall write it. The
// caller holds the connection's lock, so a flow's frames come one after another.
func (l *link) post(pkt *netstack.PacketBuffer) bool {
	b := &l.bulk
	if len(b.lanes) == 0 || pkt.TransportProtocolNumber != tcp.ProtocolNumber {
		return false
	}
	flow := b.flow(pkt)
	if pkt.Size() < bulkSize && b.held[flow].Load() == 0 || l.loops(pkt.NetworkHeader().Slice()) {
		return false
	}
	pkt.IncRef()
	b.held[flow].Add(1)
	select {
	case b.lanes[flow%len(b.lanes)] <- pkt:
	case <-l.s.closing:
		b.held[flow].Add(-1)
		pkt.DecRef()
		l.out.closed.Add(1)
	}
	return true
}

// flow numbers a TCP packet's flow.
func (b *bulk) flow(pkt *netstack.PacketBuffer) int {
	th := header.TCP(pkt.TransportHeader().Slice())
	if len(th) < header.TCPMinimumSize {
		return 0
	}
	return b.flowOf(th.SourcePort(), th.DestinationPort())
}

func (b *bulk) flowOf(local, remote uint16) int {
	return int(local*31+remote) % len(b.held)
}

// writeBulk is the body of a lane's goroutine.
func (l *link) writeBulk(lane chan *netstack.PacketBuffer) {
	for {
		select {
		case pkt := <-lane:
			l.writePosted(pkt)
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
	l.bulk.held[l.bulk.flow(pkt)].Add(-1)
	pkt.DecRef()
}
