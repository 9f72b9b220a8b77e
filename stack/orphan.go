package stack

import (
	"reflect"
	"sync"
	"time"
	"unsafe"

	gsync "gvisor.dev/gvisor/pkg/sync"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// A connection that its service has closed stays in netstack, with all that its peer has
// not acknowledged: for a quarter of an hour when the peer is gone, and without end when it
// acknowledges the probes of a window that it keeps closed (RFC 9293, 3.8.6.1). It is an
// orphan: no service has a deadline for it, or a limit.
//
// As in Linux there are at most so many (tcp_max_orphans) that hold so much (tcp_mem); one
// that would be too many is ended with a RST as it is closed. So is one whose peer has
// acknowledged nothing new for orphanPatience (tcp_orphan_retries).
//
// The books are behind: what ends is noticed when they are gone through, orphanSweep
// later, or at once when they are full.
type orphans struct {
	s         *Stack
	most      int
	mostBytes int
	patience  time.Duration
	lookEvery time.Duration
	wake      chan struct{}

	mu       sync.Mutex
	list     []*orphan
	bytes    int // of list
	swept    tcpip.MonotonicTime
	tooMany  uint64
	timedOut uint64
}

// orphan's fields are guarded by orphans.mu, but for the first.
type orphan struct {
	ep     *tcp.Endpoint
	una    seqnum.Value        // acknowledged
	since  tcpip.MonotonicTime // that una is so
	looked tcpip.MonotonicTime
	bytes  int  // in the send buffer
	gone   bool // from the list
}

const (
	maxOrphans     = 16384     // Linux: by memory, 4,096 to 262,144
	maxOrphanBytes = 256 << 20 // of data, in all their send buffers
	// Linux gives up after 8 retransmissions (102 s, from 200 ms on), and on a window that
	// stays closed when its probes have come to be 120 s apart (after about 200 s).
	orphanPatience = 200 * time.Second

	orphanLook  = time.Second            // between looks at one that is still there
	orphanSweep = 100 * time.Millisecond // for those that are not
	orphanFull  = 20 * time.Millisecond  // at least, between sweeps of full books
)

// sendBufferFields are where netstack keeps how full a connection's send buffer is.
var sendBufferFields = func() (f struct {
	mu, state uintptr
	known     bool
}) {
	queue, ok := ownField(reflect.TypeFor[tcp.Endpoint](), "sndQueueInfo")
	if !ok {
		return f
	}
	lock, ok1 := ownField(queue.Type, "sndQueueMu")
	state, ok2 := ownField(queue.Type, "TCPSndBufState")
	if !ok1 || !ok2 || state.Type != reflect.TypeFor[tcp.TCPSndBufState]() {
		return f
	}
	mu, ok := ownField(lock.Type, "mu")
	f.mu, f.state = queue.Offset+lock.Offset+mu.Offset, queue.Offset+state.Offset
	f.known = ok && mu.Type == reflect.TypeFor[gsync.Mutex]()
	return f
}()

// unacknowledged is what a connection's peer has acknowledged, and how many bytes it has
// not. The connection's lock is held.
func unacknowledged(ep *tcp.Endpoint) (una seqnum.Value, bytes int, ok bool) {
	st, _ := sender(ep)
	if st == nil || !sendBufferFields.known {
		return 0, 0, false
	}
	mu := (*gsync.Mutex)(unsafe.Add(unsafe.Pointer(ep), sendBufferFields.mu))
	mu.Lock()
	defer mu.Unlock()
	return st.SndUna, (*tcp.TCPSndBufState)(unsafe.Add(unsafe.Pointer(ep), sendBufferFields.state)).SndBufUsed, true
}

// waitsForPeer reports whether a closed connection in this state has something that its
// peer has not acknowledged: data, or its FIN.
func waitsForPeer(s tcp.EndpointState) bool {
	return s == tcp.StateFinWait1 || s == tcp.StateClosing || s == tcp.StateLastAck
}

func (o *orphans) init(s *Stack) {
	o.s, o.wake = s, make(chan struct{}, 1)
	o.most, o.mostBytes, o.patience, o.lookEvery = maxOrphans, maxOrphanBytes, orphanPatience, orphanLook
}

// closed takes a connection that its service has just closed into the books, or ends it.
// Its lock is not held.
func (o *orphans) closed(ep *tcp.Endpoint, una seqnum.Value, bytes int) {
	now := o.s.net.Clock().NowMonotonic()
	o.mu.Lock()
	if o.fullLocked(bytes) && now.Sub(o.swept) >= orphanFull {
		o.sweepLocked(now)
	}
	if o.fullLocked(bytes) {
		o.tooMany++
		o.mu.Unlock()
		ep.Abort()
		return
	}
	o.list = append(o.list, &orphan{ep: ep, una: una, bytes: bytes, since: now, looked: now})
	o.bytes += bytes
	first := len(o.list) == 1
	o.mu.Unlock()
	if first {
		poke(o.wake)
	}
}

func (o *orphans) fullLocked(bytes int) bool {
	return len(o.list) >= o.most || o.bytes+bytes > o.mostBytes
}

// sweepLocked drops those that have ended or that their peers have left nothing to wait for.
func (o *orphans) sweepLocked(now tcpip.MonotonicTime) {
	o.swept = now
	left := o.list[:0]
	for _, e := range o.list {
		if waitsForPeer(e.ep.EndpointState()) {
			left = append(left, e)
			continue
		}
		o.bytes -= e.bytes
		e.gone = true
	}
	clear(o.list[len(left):])
	o.list = left
}

// loop goes through the books until the stack closes. It rests while there are none.
func (o *orphans) loop() {
	tick := time.NewTimer(orphanSweep)
	defer tick.Stop()
	var due []*orphan
	for {
		select {
		case <-o.s.closing:
			return
		case <-o.wake:
		case <-tick.C:
		}
		now := o.s.net.Clock().NowMonotonic()
		o.mu.Lock()
		o.sweepLocked(now)
		due = due[:0]
		for _, e := range o.list {
			if now.Sub(e.looked) >= o.lookEvery {
				due = append(due, e)
			}
		}
		left := len(o.list)
		o.mu.Unlock()
		for _, e := range due {
			o.look(e, now)
		}
		clear(due)
		if left > 0 {
			tick.Reset(orphanSweep)
		}
	}
}

// look brings one up to date, or ends it.
func (o *orphans) look(e *orphan, now tcpip.MonotonicTime) {
	e.ep.LockUser()
	una, bytes, ok := unacknowledged(e.ep)
	e.ep.UnlockUser()
	if !ok {
		return
	}
	o.mu.Lock()
	e.looked = now
	if una != e.una {
		e.una, e.since = una, now
	}
	late := !e.gone && now.Sub(e.since) >= o.patience
	if !e.gone {
		o.bytes += bytes - e.bytes
		e.bytes = bytes
	}
	if late {
		o.timedOut++
	}
	o.mu.Unlock()
	if late {
		e.ep.Abort()
	}
}
