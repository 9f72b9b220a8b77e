package demux

import (
	"net/netip"
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
//	backlog N              N+1 connections wait, then it is full
//	63 s                   a half-open connection ends
//
// The stack processes segments later, on its own goroutines. So a final ACK that may
// pass reserves a place in the accept queue, and the connection takes it when it
// arrives (Arrive). What may have gone otherwise in the stack is a doubt: the owner
// asks the stack after DoubtAfter and says what it found (Confirm).
//
// Occupancies are lengths of these lists, never running sums. The half-open map is
// bounded by the SYN queue's limit, the waiting list by backlog+1. Time is an
// argument; nothing here calls the stack or waits, but Accept. Only the listener's
// owner closes it.
type Door struct {
	mu       sync.Mutex
	conf     DoorConfig
	half     map[FlowKey]*halfOpen // SYN queue: half-open and reserved
	reserved int                   // of half: final ACK has passed
	deadline list                  // of half, oldest first
	doubts   list                  // of half, oldest first
	waiting  []any                 // accept queue, oldest first
	highSyn  int
	highAcc  int
	cookies  int64 // a cookie's ACK may come until then
	closed   bool
	some     sync.Cond // waiting is not empty, or closed

	unanswered *atomic.Int64
	busy       atomic.Bool // a segment without SYN must be looked at too
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
	// cookieFor is how long a cookie is good: netstack's clock of 64 s, twice and
	// the present one.
	cookieFor = 192 * time.Second
	// repeatAfter is the shortest time between two repeated SYN+ACKs of one
	// connection (Linux: tcp_invalid_ratelimit).
	repeatAfter = 500 * time.Millisecond
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
}

// halfOpen is a connection whose final ACK has not been processed yet.
type halfOpen struct {
	key      FlowKey
	irs, iss uint32 // initial sequence numbers, the client's and ours
	wnd      uint32 // that our SYN+ACK offered
	answered bool   // our SYN+ACK has been seen: iss and wnd are known
	reserved bool   // has a place in the accept queue
	cookie   bool   // came as a cookie's ACK: there was no SYN queue entry before
	born     int64
	doubted  int64 // since when it is a doubt
	repeated int64
	again    bool // the last SYN may be answered again
	synAck   []byte
	age, dbt link
}

// Verdict is what shall happen with a segment.
type Verdict uint8

// The verdicts.
const (
	Pass       Verdict = iota // to the stack
	PassCookie                // to the stack, which shall answer it with a cookie
	AskStack                  // may be a cookie's ACK: see CookieAck
	Repeat                    // a SYN that came again: the SYN+ACK is sent again
	Refuse                    // drop: the accept queue is full
	RefuseSyn                 // drop: the SYN queue is full
	Reset                     // drop, answer with RST, end the half-open connection
)

// NewDoor makes the door of one port. unanswered counts, for all doors of a stack,
// the SYNs that have passed and whose SYN+ACK has not been seen.
func NewDoor(c DoorConfig, unanswered *atomic.Int64) *Door {
	d := &Door{conf: c, half: map[FlowKey]*halfOpen{}, unanswered: unanswered}
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
	h := d.half[k]
	switch {
	case s.Flags&(syn|ack|rst) == syn:
		return d.synLocked(now, k, h, s)
	case h == nil:
		if s.Flags&(ack|syn|rst) == ack && now < d.cookies {
			return AskStack
		}
		d.busyLocked(now)
		return Pass
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
		h.again = h.answered && now-h.repeated >= int64(repeatAfter)
		if h.again {
			h.repeated = now
		}
		return Repeat
	case h != nil: // another SYN of the same pair: the stack ends the old one
		d.doubtLocked(h, now)
		return Pass
	case d.fullLocked():
		return Refuse
	case d.conf.Cookies == CookiesAlways:
		d.cookies = now + int64(cookieFor)
		d.busy.Store(true)
		return PassCookie
	case len(d.half)-d.reserved > d.conf.SynQueue:
		if d.conf.Cookies == CookiesNever {
			return RefuseSyn
		}
		d.cookies = now + int64(cookieFor)
		d.busy.Store(true)
		return PassCookie
	}
	d.addLocked(now, &halfOpen{key: k, irs: s.Seq})
	return Pass
}

func (d *Door) addLocked(now int64, h *halfOpen) {
	h.born = now
	d.half[h.key] = h
	if !h.cookie {
		d.unanswered.Add(1)
	}
	d.deadline.push(h, &h.age)
	d.doubtLocked(h, now)
	d.highSyn = max(d.highSyn, len(d.half)-d.reserved)
	d.busy.Store(true)
}

// ackLocked: a segment with ACK for a connection in the SYN queue. Only one that
// the stack will take for the final ACK (RFC 9293, 3.10.7.4) may reserve a place:
// any forged one could else.
func (d *Door) ackLocked(now int64, h *halfOpen, s Segment) Verdict {
	switch {
	case h.reserved || s.Flags&ack == 0:
		return Pass
	case !h.answered || s.Ack != h.iss+1 || s.Seq-(h.irs+1) >= max(h.wnd, 1):
		d.doubtLocked(h, now)
		return Pass
	case d.fullLocked():
		if d.conf.AbortOnOverflow {
			return Reset
		}
		return Refuse
	}
	h.reserved = true
	d.reserved++
	d.doubtLocked(h, now)
	return Pass
}

// CookieAck decides about a segment that Judge said AskStack of, when the stack
// has no connection for it: it may be a cookie's ACK, which makes one at once.
func (d *Door) CookieAck(now int64, k FlowKey) Verdict {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.half[k] != nil {
		return Pass
	}
	if d.fullLocked() {
		return Refuse
	}
	h := &halfOpen{key: k, reserved: true, cookie: true}
	d.reserved++
	d.addLocked(now, h)
	return Pass
}

// Answered tells the door of a SYN+ACK that leaves: its sequence number is what
// the final ACK must acknowledge. A connection that the door did not know (it
// should not happen) is taken into its books. packet is
// called for a copy of it, to be sent again.
func (d *Door) Answered(now int64, k FlowKey, iss, irs uint32, wnd uint16, packet func() []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.half[k]
	if h == nil {
		h = &halfOpen{key: k, irs: irs}
		d.addLocked(now, h)
	}
	if h.answered && h.iss == iss {
		return // sent again by the stack's own timer
	}
	if !h.answered && !h.cookie {
		d.unanswered.Add(-1)
	}
	h.irs, h.iss, h.wnd, h.answered, h.repeated = irs, iss, uint32(wnd), true, now
	h.synAck = packet()
	if !h.reserved {
		d.doubts.remove(&h.dbt)
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

// Arrive puts an established connection into the accept queue; false after Close,
// and then the connection is the caller's to reset.
func (d *Door) Arrive(now int64, k FlowKey, c any) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h := d.half[k]; h != nil {
		d.removeLocked(h)
		d.busyLocked(now)
	}
	if d.closed {
		return false
	}
	d.waiting = append(d.waiting, c)
	d.highAcc = max(d.highAcc, len(d.waiting))
	d.some.Signal()
	return true
}

// Accept waits for the oldest connection; ok is false after Close.
func (d *Door) Accept() (c any, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.waiting) == 0 && !d.closed {
		d.some.Wait()
	}
	if d.closed {
		return nil, false
	}
	c = d.waiting[0]
	d.waiting[0] = nil
	d.waiting = d.waiting[1:]
	return c, true
}

// Forget drops a half-open connection that its owner has ended.
func (d *Door) Forget(k FlowKey) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h := d.half[k]; h != nil {
		d.removeLocked(h)
	}
}

// Busy reports whether anything of the door changes with time.
func (d *Door) Busy() bool { return d.busy.Load() }

// State is what the stack says of a connection that was in doubt.
type State uint8

// The states.
const (
	HalfOpen    State = iota // SYN-RECEIVED
	Established              // it has left the SYN queue; Arrive is on its way or has been
	Gone                     // no such connection
)

// Due appends the connections whose state the owner shall ask the stack for
// (Confirm), and those that are past HalfOpenFor and shall be ended; they have left
// the SYN queue. again is when to call next, 0 for never.
func (d *Door) Due(now int64, ask, end []FlowKey) (a, e []FlowKey, again int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for h := d.deadline.first(); h != nil && now-h.born >= int64(HalfOpenFor); h = d.deadline.first() {
		end = append(end, h.key)
		d.removeLocked(h)
	}
	for h := d.doubts.first(); h != nil && now-h.doubted >= int64(DoubtAfter); h = d.doubts.first() {
		ask = append(ask, h.key)
		d.doubts.remove(&h.dbt)
	}
	d.busyLocked(now)
	if h := d.deadline.first(); h != nil {
		again = h.born + int64(HalfOpenFor)
	}
	if h := d.doubts.first(); h != nil {
		again = min(again, h.doubted+int64(DoubtAfter))
	}
	if d.cookies > now && again == 0 {
		again = d.cookies
	}
	return ask, end, again
}

// Confirm says what the stack knows of a connection that Due asked for.
func (d *Door) Confirm(now int64, k FlowKey, s State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.half[k]
	switch {
	case h == nil:
	case s == HalfOpen && !h.cookie:
		if h.reserved { // the stack did not take the final ACK
			h.reserved = false
			d.reserved--
		}
	case s == Established && h.reserved:
		d.doubtLocked(h, now) // Arrive is on its way; look again until it came
	default:
		d.removeLocked(h)
	}
	d.busyLocked(now)
}

func (d *Door) fullLocked() bool { return len(d.waiting)+d.reserved > d.conf.Backlog }

func (d *Door) doubtLocked(h *halfOpen, now int64) {
	d.doubts.remove(&h.dbt)
	h.doubted = now
	d.doubts.push(h, &h.dbt)
}

func (d *Door) removeLocked(h *halfOpen) {
	delete(d.half, h.key)
	if !h.answered && !h.cookie {
		d.unanswered.Add(-1)
	}
	d.deadline.remove(&h.age)
	d.doubts.remove(&h.dbt)
	if h.reserved {
		d.reserved--
	}
}

func (d *Door) busyLocked(now int64) {
	if len(d.half) == 0 && now >= d.cookies {
		d.busy.Store(false)
	}
}

// Set changes the bounds.
func (d *Door) Set(c DoorConfig) {
	d.mu.Lock()
	d.conf = c
	d.mu.Unlock()
}

// DoorStats are the door's queues at one instant.
type DoorStats struct {
	DoorConfig
	HalfOpen, HighHalfOpen int // SYN queue
	Waiting, HighWaiting   int // accept queue
	Reserved               int // final ACK passed, not yet in the accept queue
}

// Stats is a snapshot.
func (d *Door) Stats() DoorStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return DoorStats{d.conf, len(d.half) - d.reserved, d.highSyn, len(d.waiting), d.highAcc, d.reserved}
}

// Close ends Accept and returns what waited, to be reset, and what was half open.
func (d *Door) Close() (waiting []any, half []FlowKey) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for k, h := range d.half {
		half = append(half, k)
		d.removeLocked(h)
	}
	waiting, d.waiting, d.closed = d.waiting, nil, true
	d.some.Broadcast()
	return waiting, half
}

// list is a queue of half-open connections that any of them can leave.
type list struct{ head, tail *link }

type link struct {
	prev, next *link
	h          *halfOpen // not nil while it is in a list
}

func (l *list) first() *halfOpen {
	if l.head == nil {
		return nil
	}
	return l.head.h
}

func (l *list) push(h *halfOpen, k *link) {
	k.h, k.prev, k.next = h, l.tail, nil
	if l.tail == nil {
		l.head = k
	} else {
		l.tail.next = k
	}
	l.tail = k
}

func (l *list) remove(k *link) {
	if k.h == nil {
		return
	}
	if k.prev == nil {
		l.head = k.next
	} else {
		k.prev.next = k.next
	}
	if k.next == nil {
		l.tail = k.prev
	} else {
		k.next.prev = k.prev
	}
	*k = link{}
}
