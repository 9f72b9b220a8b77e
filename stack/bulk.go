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
// A flow has one lane, which keeps its order: while any of its frames is in bulk, all
// that follow go there, too. Small frames of flows that have none there do not wait for
// those of others (but for one flow in flowNumbers): they are written at once. A lane
// holds bulkFrames; who brings one more waits, until the device has taken one or the
// stack closes. What is left then is counted in Out.Closed, as every frame that comes
// too late.
//
// It gains where a processor is free: one goroutine cannot fill and write as fast as a
// client reads. Where none is, it costs the way between two processors' caches. What
// waits here is part of its connection's send buffer still, unless that was told that it
// has arrived, or was aborted. A device that is slow makes a lane a queue of up to 4 MiB
// within the round-trip time.
type bulk struct {
	lanes []chan *netstack.PacketBuffer // none: who sends writes
	held  [flowNumbers]atomic.Int32     // frames in bulk, by flow: flows that share a number share order
	all   atomic.Int32                  // their sum
	ended chan struct{}                 // closed by Run when netstack, which sends, is gone
}

const (
	bulkFrames  = 64
	flowNumbers = 4096
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
	head := pkt.NetworkHeader().Slice()
	if l.s.ethernet() {
		head = pkt.LinkHeader().Slice()
	}
	flow := b.flow(pkt)
	if pkt.Size() < bulkSize && b.held[flow].Load() == 0 || l.loops(head) {
		return false
	}
	pkt.IncRef()
	b.held[flow].Add(1)
	b.all.Add(1)
	select {
	case b.lanes[flow%len(b.lanes)] <- pkt:
	case <-l.s.closing:
		b.left(flow)
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

// flowOf mixes the ports: a client's may all be even (Linux's connect), the host's all one.
func (b *bulk) flowOf(local, remote uint16) int {
	return int((uint32(local)<<16|uint32(remote))*0x9e3779b1>>16) % len(b.held)
}

func (b *bulk) left(flow int) {
	b.held[flow].Add(-1)
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
	l.bulk.left(l.bulk.flow(pkt))
	pkt.DecRef()
}
