package stack

import (
	"container/list"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// timeWait is how long TIME-WAIT lasts (Linux: TCP_TIMEWAIT_LEN). The odd nanosecond
// tells its timer from all others of netstack's.
const timeWait = 60*time.Second + 1

// maxTimeWait is how many connections may be in TIME-WAIT at once (Linux:
// net.ipv4.tcp_max_tw_buckets). Netstack keeps the whole endpoint of each, about
// 4.5 KiB, so that a client with a connection per request would leave hundreds of MiB.
const maxTimeWait = 16384

// timeWaits are the timers that end TIME-WAIT, oldest first: all run for the same time.
// One more than max ends the oldest now, as if its time were over.
type timeWaits struct {
	mu    sync.Mutex
	list  list.List // of *timeWaitTimer
	max   int
	early uint64 // ended before their time
}

type timeWaitTimer struct {
	tcpip.Timer
	w  *timeWaits
	at *list.Element // guarded by w.mu; nil once it has ended
}

// begin runs f after TIME-WAIT, or when it is the oldest of too many. The caller may
// hold an endpoint's lock, and f takes another's: it runs on a goroutine of the clock's.
func (w *timeWaits) begin(clock tcpip.Clock, f func()) tcpip.Timer {
	t := &timeWaitTimer{w: w}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.list.Len() >= w.max {
		old := w.list.Front().Value.(*timeWaitTimer)
		old.endLocked()
		if old.Timer.Stop() {
			w.early++
			old.Timer.Reset(0)
		}
	}
	t.at = w.list.PushBack(t)
	t.Timer = clock.AfterFunc(timeWait, func() {
		t.end()
		f()
	})
	return t
}

// end lets go of the endpoint.
func (t *timeWaitTimer) end() {
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	t.endLocked()
}

func (t *timeWaitTimer) endLocked() {
	if t.at != nil {
		t.w.list.Remove(t.at)
		t.at = nil
	}
}

// Stop is netstack's, when the connection ends otherwise or its ports are used again.
func (t *timeWaitTimer) Stop() bool {
	t.end()
	return t.Timer.Stop()
}

// Lost is what netstack lost after it was handed packets.
type Lost struct {
	Dropped          uint64 // TCP segments, as netstack counts them: a full segment queue, an ACK of nothing
	Invalid          uint64 // TCP segments that it could not read
	TimeWaitOverflow uint64 // connections that left TIME-WAIT early because there were too many (Linux: TCPTimeWaitOverflow)
	AbortOnMemory    uint64 // connections that were reset as their service closed them: too many, or too much, waited for peers (Linux: TCPAbortOnMemory)
	AbortOnTimeout   uint64 // closed connections that were reset since their peer acknowledged nothing more (Linux: TCPAbortOnTimeout)
}

// Lost is a snapshot.
func (s *Stack) Lost() Lost {
	st := s.net.Stats()
	s.waits.mu.Lock()
	early := s.waits.early
	s.waits.mu.Unlock()
	s.orphans.mu.Lock()
	defer s.orphans.mu.Unlock()
	return Lost{st.DroppedPackets.Value(), st.TCP.InvalidSegmentsReceived.Value(), early, s.orphans.tooMany, s.orphans.timedOut}
}
