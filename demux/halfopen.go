package demux

import "time"

// halfOpen is a connection whose final ACK has not been processed yet. It stands
// in the door's map, in the list of its age, and, while the stack may know better,
// in the list of doubts.
type halfOpen struct {
	key        FlowKey
	irs, iss   uint32 // initial sequence numbers, the client's and ours
	wnd        uint32 // that our SYN+ACK offered
	answered   bool   // our SYN+ACK has been seen: iss and wnd are known
	reserved   bool   // has a place in the accept queue
	turn       uint64 // of the place, since it is reserved
	again      bool   // the last SYN may be answered again
	stage      uint8  // how often its SYN+ACK has been sent again
	looked     uint8  // how often the stack has been asked in vain
	due        int64  // when its SYN+ACK is sent again, or it ends
	doubted    int64  // since when it is in doubt
	touched    int64  // the last doubtful segment
	repeatable int64  // from when on a SYN that comes again is answered again
	synAck     []byte
	age, dbt   link
}

// stages is how often a SYN+ACK is sent: after 1, 3, 7, 15 and 31 s again, and at
// 63 s the connection ends (Linux: tcp_synack_retries of 5).
const stages = 6

func (d *Door) addLocked(now int64, h *halfOpen) {
	d.half[h.key] = h
	h.due = now + int64(time.Second)
	d.ageLocked(h)
	d.doubtLocked(h, now)
	d.busy.Store(true)
}

// ageLocked appends it to the list of its stage, in the order of time: callers read
// the clock before they come here, and may overtake each other.
func (d *Door) ageLocked(h *halfOpen) {
	l := &d.ages[h.stage]
	if l.tail != nil {
		h.due = max(h.due, l.tail.h.due)
	}
	l.push(h, &h.age)
}

func (d *Door) reserveLocked(h *halfOpen, now int64) {
	d.turns++
	h.reserved, h.turn, h.looked = true, d.turns, 0
	d.reserved++
	d.doubts.remove(&h.dbt)
	d.doubtLocked(h, now)
}

func (d *Door) unreserveLocked(h *halfOpen) {
	if h.reserved {
		h.reserved = false
		d.reserved--
	}
}

// doubtLocked: the stack will be asked about it. One that is in doubt already is asked in
// its turn; what comes between the question and its answer has it asked again, and may put
// that off until the entry ends by its age.
func (d *Door) doubtLocked(h *halfOpen, now int64) {
	h.touched = now
	if h.dbt.h == nil {
		h.doubted = now
		d.doubts.push(h, &h.dbt)
	}
}

func (d *Door) removeLocked(h *halfOpen) {
	delete(d.half, h.key)
	d.unreserveLocked(h)
	d.ages[h.stage].remove(&h.age)
	d.doubts.remove(&h.dbt)
	d.emptierLocked()
}

// Forget drops a half-open connection that its owner has ended.
func (d *Door) Forget(k FlowKey) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h := d.half[k]; h != nil {
		d.removeLocked(h)
	}
}

// patience is how often a SYN+ACK may be sent again. While the SYN queue is more
// than half full, and most of it is old, nobody is going to answer those: they end
// after fewer, at least two (Linux: reqsk_timer_handler). So a full queue frees
// itself in 7 s, not in 63.
func (d *Door) patience() uint8 {
	const least = 2
	n := stages - 1
	if half := len(d.half) - d.reserved; half*2 > max(8, d.conf.SynQueue) {
		for young := 2 * d.ages[0].n; n > least && half >= young; young *= 2 {
			n--
		}
	}
	return uint8(n)
}

// State is what the stack says of a connection that was in doubt.
type State uint8

// The states.
const (
	HalfOpen    State = iota // SYN-RECEIVED
	Established              // it has left the SYN queue; Arrive is on its way or has been
	Gone                     // no such connection
)

// Due appends the connections whose state the owner shall ask the stack for
// (Confirm), and those whose time is over and that shall be ended; they have left
// the SYN queue. early is how much before its time a connection may end: the
// stack's own timer sends SYN+ACK once more at that instant. left reports whether
// anything remains that time changes.
func (d *Door) Due(now int64, early time.Duration, ask, end []FlowKey) (a, e []FlowKey, left bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for stage := range d.ages {
		l := &d.ages[stage]
		for h := l.first(); h != nil && now+int64(early) >= h.due; h = l.first() {
			if !h.reserved && h.stage >= d.patience() || h.stage == stages-1 {
				end = append(end, h.key)
				d.removeLocked(h)
				continue
			}
			l.remove(&h.age)
			h.stage++
			h.due += int64(time.Second) << h.stage
			d.ageLocked(h)
		}
	}
	for h := d.doubts.first(); h != nil && now-h.doubted >= int64(DoubtAfter); h = d.doubts.first() {
		ask = append(ask, h.key)
		d.doubts.remove(&h.dbt)
	}
	d.busyLocked(now)
	return ask, end, len(d.half) > 0
}

// Pending reports whether Due has anything to do, now or later.
func (d *Door) Pending() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.half) > 0
}

// Confirm says what the stack knows of a connection that Due asked for.
func (d *Door) Confirm(now int64, k FlowKey, s State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.half[k]
	if h == nil || h.dbt.h != nil {
		return // or it came into doubt anew since the stack was looked at: it is asked again
	}
	// A place is held, or the SYN has no answer: the stack has not come to the
	// segment, or dropped it.
	most := 1
	switch {
	case h.reserved && (s == HalfOpen || !h.answered): // not answered: a cookie's
		most = looksAck
	case h.reserved || !h.answered:
		most = looksSyn
	}
	switch {
	case s != Established && int(h.looked)+1 < most:
		h.looked++
		d.doubtLocked(h, now)
	case s == Established && h.reserved:
		d.doubtLocked(h, now) // Arrive is on its way; look again until it came
	case s == HalfOpen && h.answered:
		d.unreserveLocked(h) // if it was: the stack did not take the final ACK
		h.looked = 0
		if h.touched > h.doubted { // something came since it was put in doubt
			d.doubtLocked(h, now)
		}
	case s == HalfOpen && !h.reserved: // its SYN+ACK is still to come
		d.doubtLocked(h, now)
	default:
		d.removeLocked(h)
	}
	d.busyLocked(now)
}

// list is a queue of half-open connections that any of them can leave.
type list struct {
	head, tail *link
	n          int
}

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
	l.n++
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
	l.n--
}
