package demux

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Door decides which connections a listening TCP port admits, before the stack
// sees their segments: it owns the port's SYN queue and accept queue, so the
// numbers it shows are the numbers that decide. Its rules are Linux's:
//
//	accept queue full      a SYN is dropped; a final ACK is dropped too, so that
//	                       SYN+ACK is sent again (or, with AbortOnOverflow, answered by RST)
//	SYN queue full         cookies, or the SYN is dropped
//	backlog N              N+1 connections wait, then it is full; half-open ones too
//	                       (Linux since 2025; before, N half-open ones)
//	63 s                   a half-open connection ends; sooner while the SYN queue is
//	                       more than half full of old ones (patience)
//
// The stack processes segments later, on its own goroutines. So a final ACK that may
// pass reserves a place in the accept queue, and the connection takes it when it
// arrives (Arrive). What may have gone otherwise in the stack is a doubt: the owner
// asks the stack after DoubtAfter and says what it found (Confirm).
//
// Occupancies are lengths of these lists. The half-open map is bounded by the SYN
// queue's limit, the waiting list by backlog+1. Time is an argument; nothing here
// calls the stack or waits, but Accept. Only the listener's owner closes it.
type Door struct {
	mu       sync.Mutex
	conf     DoorConfig
	cookie   func(FlowKey, Segment) bool
	half     map[FlowKey]*halfOpen // SYN queue: half-open and reserved
	reserved int                   // of half: final ACK has passed
	ages     [stages]list          // of half, by how often their SYN+ACK was sent; oldest first
	doubts   list                  // of half, oldest first
	waiting  []arrival             // accept queue, in the order of the final ACKs
	turns    uint64                // final ACKs so far
	highSyn  int
	highAcc  int
	late     uint64
	cookies  int64 // a cookie's ACK may come until then
	withheld bool  // Accept takes nothing
	closed   bool
	some     sync.Cond // Accept may go on

	filled [2]filled   // SYN queue, accept queue
	news   atomic.Bool // one of these has filled

	busy atomic.Bool // a segment without SYN must be looked at too
}

// filled is a queue that has refused: once, until it has been half empty again.
type filled struct {
	said  bool
	fate  Fate // of the first that it refused; NoFate: the owner knows of it
	count int  // connections in it then
}

// The queues of Door.filled.
const (
	synFilled = iota
	acceptFilled
)

// arrival is a connection that waits to be accepted.
type arrival struct {
	turn uint64 // of its final ACK
	conn any
}

// Cookies says when a SYN is answered without keeping state (RFC 4987, 3.6).
type Cookies uint8

// The modes of Cookies, as of net.ipv4.tcp_syncookies.
const (
	CookiesAuto   Cookies = iota // when the SYN queue is full (1)
	CookiesNever                 // 0: the SYN is dropped
	CookiesAlways                // 2
)

func (c Cookies) String() string { return [...]string{"auto", "never", "always"}[c] }

// DoorConfig bounds a Door. It may change while connections wait: what is in a
// queue stays, a smaller bound only stops admission.
type DoorConfig struct {
	Backlog         int // accept queue: this many and one more
	SynQueue        int // SYN queue: this many and one more
	Cookies         Cookies
	AbortOnOverflow bool // net.ipv4.tcp_abort_on_overflow
}

const (
	// HalfOpenFor is how long a half-open connection lives: SYN+ACK and five
	// retransmissions of it (Linux: tcp_synack_retries).
	HalfOpenFor = 63 * time.Second
	// DoubtAfter is how long the stack may take over a segment before it is asked.
	DoubtAfter = 20 * time.Millisecond
	// CookieFor is how long a cookie is good: its clock ticks every 64 s, and the
	// last two ticks count beside the present one.
	CookieFor = 192 * time.Second
	// repeatAfter is the shortest time between two repeated SYN+ACKs of one
	// connection (Linux: tcp_invalid_ratelimit).
	repeatAfter = 500 * time.Millisecond
	// looksSyn is how often the stack is asked about a segment that it should have
	// taken, before the door believes that it did not.
	looksSyn = 5
	// looksAck is the same for a final ACK that it may still take: at least a second,
	// when SYN+ACK is sent again. On a busy machine the stack may come to it late, and
	// a client whose place has another by then is reset.
	looksAck = 50
)

// FlowKey names one connection of a port.
type FlowKey struct {
	Remote netip.AddrPort
	Local  netip.Addr
}

// Segment is what the door needs of a segment's header.
type Segment struct {
	Flags    uint8
	Seq, Ack uint32
	// Reopens: a SYN on a pair in TIME-WAIT. The peer is evidently real, so the SYN
	// queue's limit does not apply (Linux does the same).
	Reopens bool
}

// Verdict is what shall happen with a segment.
type Verdict uint8

// The verdicts.
const (
	Pass       Verdict = iota // to the stack
	SendCookie                // drop, answer with a cookie
	AskStack                  // a cookie's ACK, if the stack knows no such connection: see CookieAck
	Repeat                    // a SYN that came again: the SYN+ACK is sent again
	Refuse                    // drop: the accept queue is full
	RefuseSyn                 // drop: the SYN queue is full
	Reset                     // drop, answer with RST, end the half-open connection
	Ignore                    // drop: SYN and FIN in one
	Challenge                 // a RST that may be forged: the stack answers it with an ACK instead
)

// NewDoor makes the door of one port. cookie says whether a segment acknowledges a
// cookie that the port has sent; it is called with the door's mutex held.
func NewDoor(c DoorConfig, cookie func(FlowKey, Segment) bool) *Door {
	d := &Door{conf: c, half: map[FlowKey]*halfOpen{}, cookie: cookie}
	d.some.L = &d.mu
	return d
}

const (
	fin = 1
	syn = 2
	rst = 4
	ack = 16
)

// Judge decides about one segment of the port.
func (d *Door) Judge(now int64, key func() FlowKey, s Segment) Verdict {
	if s.Flags&syn == 0 && !d.busy.Load() {
		return Pass
	}
	k := key()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return Pass
	}
	h := d.half[k]
	switch {
	case s.Flags&(syn|ack|rst) == syn:
		return d.synLocked(now, k, h, s)
	case h == nil:
		if s.Flags&(ack|syn|rst) == ack && now < d.cookies && d.cookie(k, s) {
			return AskStack
		}
		d.busyLocked(now)
		return Pass
	case s.Flags&rst != 0 && h.answered && !h.reserved && s.Seq-(h.irs+2) < max(h.wnd, 1)-1:
		// In the window, and not what the peer would send: RFC 9293, 3.10.7.4 (RFC 5961,
		// 3). The peer itself answers the ACK with a RST that is right.
		return Challenge
	case s.Flags&rst != 0 || s.Flags&syn != 0:
		d.doubtLocked(h, now)
		return Pass
	}
	return d.ackLocked(now, h, s)
}

func (d *Door) synLocked(now int64, k FlowKey, h *halfOpen, s Segment) Verdict {
	switch {
	case h != nil && h.irs == s.Seq:
		// SynAck gives it once in repeatAfter; else this SYN gets no answer.
		h.again = h.answered && now >= h.repeatable
		if h.again {
			h.repeatable = now + int64(repeatAfter)
		}
		return Repeat
	case h != nil: // another SYN of the same pair: the stack ends the old one, or not
		d.doubtLocked(h, now)
		return Pass
	case s.Flags&fin != 0:
		return Ignore // an open and a close at once is nobody's wish (Linux drops it too)
	}
	full := len(d.half)-d.reserved > d.conf.SynQueue && !s.Reopens
	cookie := full || d.conf.Cookies == CookiesAlways && !s.Reopens
	switch {
	case full && d.conf.Cookies == CookiesNever:
		d.filledLocked(synFilled, SynQueueFull)
		return RefuseSyn
	case d.fullLocked():
		d.filledLocked(acceptFilled, AcceptQueueFull)
		return Refuse
	case cookie:
		if full {
			d.filledLocked(synFilled, SynCookie)
		}
		d.cookies = now + int64(CookieFor)
		d.busy.Store(true)
		return SendCookie
	}
	d.addLocked(now, &halfOpen{key: k, irs: s.Seq})
	d.highSyn = max(d.highSyn, len(d.half)-d.reserved)
	return Pass
}

// ackLocked: a segment with ACK for a connection in the SYN queue. Only one that
// the stack will take for the final ACK (RFC 9293, 3.10.7.4) may reserve a place:
// any forged one could else. The stack also takes the ACK of a cookie that the
// same client got before there was room for it.
func (d *Door) ackLocked(now int64, h *halfOpen, s Segment) Verdict {
	right := h.answered && s.Ack == h.iss+1
	switch {
	case h.reserved || s.Flags&ack == 0:
		return Pass
	case !right && (now >= d.cookies || !d.cookie(h.key, s)),
		s.Seq-(h.irs+1) >= max(h.wnd, 1):
		d.doubtLocked(h, now)
		return Pass
	case d.fullLocked():
		d.filledLocked(acceptFilled, AcceptQueueFull)
		if d.conf.AbortOnOverflow {
			return Reset
		}
		return Refuse
	}
	d.reserveLocked(h, now)
	return Pass
}

// CookieAck decides about a segment that Judge said AskStack of, when the stack
// has no connection for it: it acknowledges a cookie and makes one at once.
func (d *Door) CookieAck(now int64, k FlowKey) Verdict {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.half[k] != nil || d.closed {
		return Pass
	}
	if d.fullLocked() {
		d.filledLocked(acceptFilled, AcceptQueueFull)
		return Refuse // silently, even with AbortOnOverflow, as in Linux
	}
	h := &halfOpen{key: k}
	d.addLocked(now, h)
	d.reserveLocked(h, now)
	return Pass
}

// Answered tells the door of a SYN+ACK that leaves: its sequence number is what
// the final ACK must acknowledge. A connection that the door did not know (it
// should not happen) is taken into its books. packet is
// called for a copy of it, to be sent again.
func (d *Door) Answered(now int64, k FlowKey, iss, irs uint32, wnd uint16, packet func() []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	h := d.half[k]
	if h == nil {
		h = &halfOpen{key: k, irs: irs}
		d.addLocked(now, h)
	}
	if h.answered && h.iss == iss {
		return // sent again by the stack's own timer
	}
	h.irs, h.iss, h.wnd, h.answered = irs, iss, uint32(wnd), true
	h.synAck = packet()
	if h.dbt.h == nil { // the stack is being asked, and may have been before it answered
		d.doubtLocked(h, now)
	}
}

// SynAck is the SYN+ACK of a half-open connection, or nil. After Repeat, again
// says whether it may be sent now.
func (d *Door) SynAck(k FlowKey) (b []byte, again bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h := d.half[k]; h != nil {
		return h.synAck, h.again
	}
	return nil, false
}

// Arrive puts an established connection into the accept queue. It is false after
// Close, and for one that holds no place when there is none (the stack took a segment
// that the door had given up on): then the connection is the caller's to reset.
func (d *Door) Arrive(now int64, k FlowKey, c any) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	held, turn := false, d.turns+1
	if h := d.half[k]; h != nil {
		if h.reserved {
			held, turn = true, h.turn
		}
		d.removeLocked(h)
		d.busyLocked(now)
	}
	switch {
	case d.closed:
		return false
	case !held && d.fullLocked():
		d.late++
		return false
	}
	// The stack's goroutines finish in any order; the final ACKs had one.
	i := len(d.waiting)
	for ; i > 0 && d.waiting[i-1].turn > turn; i-- {
	}
	d.waiting = slices.Insert(d.waiting, i, arrival{turn, c})
	d.highAcc = max(d.highAcc, len(d.waiting))
	d.some.Signal()
	return true
}

// Accept waits for the oldest connection; ok is false after Close.
func (d *Door) Accept() (c any, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for (len(d.waiting) == 0 || d.withheld) && !d.closed {
		d.some.Wait()
	}
	if d.closed {
		return nil, false
	}
	c = d.waiting[0].conn
	d.waiting[0] = arrival{}
	d.waiting = d.waiting[1:]
	d.emptierLocked()
	return c, true
}

// filledLocked notes that a queue has refused, or had a cookie sent.
func (d *Door) filledLocked(queue int, f Fate) {
	q := &d.filled[queue]
	if q.said {
		return
	}
	*q = filled{true, f, len(d.waiting) + d.reserved}
	if queue == synFilled {
		q.count = len(d.half) - d.reserved
	}
	d.news.Store(true)
}

// Filled tells of a queue that has filled since it was last asked: the fate of the
// first that it refused, and how many were in it. NoFate: none has.
func (d *Door) Filled() (f Fate, n int) {
	if !d.news.Load() {
		return NoFate, 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.filled {
		if q := &d.filled[i]; q.fate != NoFate {
			f, q.fate = q.fate, NoFate
			return f, q.count
		}
	}
	d.news.Store(false)
	return NoFate, 0
}

// emptierLocked looks whether a queue is half empty.
func (d *Door) emptierLocked() {
	if 2*(len(d.half)-d.reserved) <= d.conf.SynQueue {
		d.filled[synFilled].said = false
	}
	if 2*(len(d.waiting)+d.reserved) <= d.conf.Backlog {
		d.filled[acceptFilled].said = false
	}
}

func (d *Door) fullLocked() bool { return len(d.waiting)+d.reserved > d.conf.Backlog }

func (d *Door) busyLocked(now int64) {
	if len(d.half) == 0 && now >= d.cookies {
		d.busy.Store(false)
	}
}

// Set changes the bounds.
func (d *Door) Set(c DoorConfig) {
	d.mu.Lock()
	d.conf = c
	d.emptierLocked()
	d.mu.Unlock()
}

// Withhold keeps Accept from the connections that wait, or ends that: it counts from
// the moment it returns, also for who waits already.
func (d *Door) Withhold(on bool) {
	d.mu.Lock()
	d.withheld = on
	d.mu.Unlock()
	d.some.Broadcast()
}

// DoorStats are the door's queues at one instant.
type DoorStats struct {
	DoorConfig
	HalfOpen, HighHalfOpen int    // SYN queue
	Waiting, HighWaiting   int    // accept queue
	Reserved               int    // final ACK passed, not yet in the accept queue
	Late                   uint64 // arrived without a place: reset
}

// Stats is a snapshot.
func (d *Door) Stats() DoorStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return DoorStats{d.conf, len(d.half) - d.reserved, d.highSyn, len(d.waiting), d.highAcc, d.reserved, d.late}
}

// Close ends Accept and returns what waited, to be reset. What was half open is
// the stack's to end.
func (d *Door) Close() (waiting []any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.waiting {
		waiting = append(waiting, a.conn)
	}
	for _, h := range d.half {
		d.removeLocked(h)
	}
	d.waiting, d.closed = nil, true
	d.cookies = 0
	d.busy.Store(false)
	d.some.Broadcast()
	return waiting
}
