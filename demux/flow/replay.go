package flow

import (
	"cmp"
	"container/heap"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"porthole/demux"
)

// A port's record is played again on a virtual clock, with fresh clients and another
// size, to find the smallest that refuses nobody:
//
//	clients    one per flow: its first SYN comes when it came; its final ACK follows
//	           after as long as it took then, or as it took the others when it never
//	           got so far; retries are not played, since nobody is refused
//	service    takes the k-th connection no sooner after the one before than then;
//	           when it stood idle between two, after the usual time (the median of
//	           those when it did not)
//	queues     the real demux.Door, or for datagrams the admission rule of a port's
//	           queue
//
// Admission only ever gets easier with size, and without a refusal the course of
// things does not depend on it: so the smallest size is found by halving, and one
// less refuses somebody. The work is bounded by the record: Options.PerPort events,
// and as many plays as the size has bits.

// wakeLatency is below what a service that stood idle needs to take a connection.
const wakeLatency = time.Millisecond

// client is one flow as it is played.
type client struct {
	syn       int64
	rtt       int64 // SYN to final ACK
	completes bool
	waiting   bool  // it stood in the accept queue when the record begins
	gone      int64 // half open until a reset; 0: it was not reset
}

// story is what a port's record says, ready to be played.
type story struct {
	clients []client
	service service
	refused [2]int // by accept queue and SYN queue, flows
}

// service is a server: it is ready at first, then each time for the next one after
// the interval of the last.
type service struct {
	ready     int64
	intervals []int64
	usual     int64
	never     bool // nothing was ever taken
}

func (s *service) after(k int) int64 {
	if k < len(s.intervals) {
		return s.intervals[k]
	}
	return s.usual
}

// departure is one thing taken: it had come at and was taken at.
type departure struct{ came, taken int64 }

func newService(d []departure) service {
	if len(d) == 0 {
		return service{never: true}
	}
	slices.SortStableFunc(d, func(a, b departure) int { return cmp.Compare(a.taken, b.taken) })
	s := service{ready: d[0].came}
	if d[0].taken-d[0].came > int64(wakeLatency) {
		s.ready = d[0].taken
	}
	var busy []int64
	idle := make([]bool, 0, len(d))
	for i := 1; i < len(d); i++ {
		gap := d[i].taken - d[i-1].taken
		// It had come before, or had to wait: the service was not ready sooner.
		isBusy := d[i].came <= d[i-1].taken || d[i].taken-d[i].came > int64(wakeLatency)
		if isBusy {
			busy = append(busy, gap)
		}
		s.intervals, idle = append(s.intervals, gap), append(idle, !isBusy)
	}
	if len(busy) > 0 {
		slices.Sort(busy)
		s.usual = busy[len(busy)/2]
	}
	for i := range s.intervals {
		if idle[i] {
			s.intervals[i] = min(s.intervals[i], s.usual)
		}
	}
	return s
}

// quiet parts a record into episodes: no client tries again after so long (Linux
// waits 32 s between its last two SYNs).
const quiet = time.Minute

// episode is the part of a record around a moment, between two quiet times.
func episode(evs []event, at int64) []event {
	from, to := 0, len(evs)
	for i := 1; i < len(evs); i++ {
		if evs[i].at-evs[i-1].at < int64(quiet) {
			continue
		}
		if evs[i].at <= at {
			from = i
		} else {
			to = i
			break
		}
	}
	return evs[from:to]
}

// newStory reads a TCP port's record.
func newStory(evs []event) *story {
	type seen struct {
		client
		answered, accepted int64
		order              int
		refused            [2]bool
	}
	flows := map[ID]*seen{}
	get := func(e event) *seen {
		f := flows[e.flow]
		if f == nil || e.flow == 0 {
			f = &seen{order: len(flows)}
			f.syn = e.at
			if e.flow != 0 {
				flows[e.flow] = f
			}
		}
		return f
	}
	st := &story{}
	var gone []departure
	var anon []*seen // accepted, of flows that are not known any more
	for _, e := range evs {
		f := get(e)
		switch e.kind {
		case evSyn:
			if !e.fate.Dropped() {
				f.answered = e.at
			}
		case evAck:
			if f.answered != 0 && !f.completes {
				f.rtt = e.at - f.answered
			}
			f.completes = true
		case evAccept:
			came := e.at - max(e.waited, 0)
			gone = append(gone, departure{came, e.at})
			if !f.completes { // its handshake was before the record
				f.waiting, f.completes, f.syn = true, true, evs[0].at
				if e.flow == 0 {
					anon = append(anon, f)
				}
			}
			f.accepted = e.at
		case evGone:
			f.gone = e.at
		}
		if e.fate == demux.AcceptQueueFull {
			f.refused[0] = true
		} else if e.fate == demux.SynQueueFull {
			f.refused[1] = true
		}
	}
	var all []*seen
	for _, f := range flows {
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b *seen) int { return cmp.Or(cmp.Compare(a.syn, b.syn), a.order-b.order) })
	all = append(anon, all...)
	var rtts []int64
	answered, completed := 0, 0
	for _, f := range all {
		if f.answered != 0 {
			answered++
			if f.completes {
				completed++
				rtts = append(rtts, f.rtt)
			}
		}
	}
	var usual int64
	if slices.Sort(rtts); len(rtts) > 0 {
		usual = rtts[len(rtts)/2]
	}
	for _, f := range all {
		if f.answered == 0 && !f.completes { // refused to the end: as the others
			f.completes, f.rtt = completed > 0 || answered == 0, usual
		}
		if f.gone != 0 { // how long it stood half open
			f.gone -= cmp.Or(f.answered, f.gone)
		}
		for i, r := range f.refused {
			if r {
				st.refused[i]++
			}
		}
		st.clients = append(st.clients, f.client)
	}
	st.service = newService(gone)
	return st
}

// step is one thing to happen in a play.
type step struct {
	at     int64
	what   uint8
	client int
	order  int // of steps of one instant: as they were made
}

const (
	doSyn uint8 = iota
	doAck
	doGone
	doAccept
)

type steps []step

func (s steps) Len() int { return len(s) }
func (s steps) Less(i, k int) bool {
	return cmp.Or(cmp.Compare(s[i].at, s[k].at), s[i].order-s[k].order) < 0
}
func (s steps) Swap(i, k int) { s[i], s[k] = s[k], s[i] }
func (s *steps) Push(x any)   { *s = append(*s, x.(step)) }
func (s *steps) Pop() any {
	x := (*s)[len(*s)-1]
	*s = (*s)[:len(*s)-1]
	return x
}

// refuses plays the story at a door of those sizes and reports whether it refuses
// anybody.
func (st *story) refuses(c demux.DoorConfig) bool {
	var unanswered atomic.Int64
	d := demux.NewDoor(c, &unanswered)
	var q steps
	made := 0
	push := func(at int64, what uint8, i int) {
		made++
		heap.Push(&q, step{at, what, i, made})
	}
	keyOf := func(i int) demux.FlowKey {
		return demux.FlowKey{Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 24), byte(i >> 16), 1}), uint16(i)),
			Local: netip.AddrFrom4([4]byte{10, 0, 0, 1})}
	}
	const (
		syn, ack = 2, 16
		irs, iss = 1, 1
	)
	full := false
	accepts := 0
	free := st.service.ready
	pending := false // an accept stands in q
	settle := func(now int64) {
		if !st.service.never && !pending && d.Stats().Waiting > 0 {
			pending = true
			push(max(now, free), doAccept, 0)
		}
	}
	for i, c := range st.clients {
		if c.waiting {
			d.Arrive(c.syn, keyOf(i), i)
		} else {
			push(c.syn, doSyn, i)
		}
	}
	if len(st.clients) > 0 {
		settle(st.clients[0].syn)
	}
	for len(q) > 0 && !full {
		s := heap.Pop(&q).(step)
		d.Due(s.at, nil, nil) // half-open connections end at their time
		k := keyOf(s.client)
		cl := &st.clients[s.client]
		judge := func(flags uint8, seq, a uint32) bool {
			switch d.Judge(s.at, func() demux.FlowKey { return k }, demux.Segment{Flags: flags, Seq: seq, Ack: a}) {
			case demux.Pass:
				return true
			default:
				full = true
			}
			return false
		}
		switch s.what {
		case doSyn:
			if !judge(syn, irs, 0) {
				break
			}
			d.Answered(s.at, k, iss, irs, 65535, func() []byte { return nil })
			if cl.completes {
				push(s.at+cl.rtt, doAck, s.client)
			} else if cl.gone > 0 {
				push(s.at+cl.gone, doGone, s.client)
			}
		case doAck:
			if judge(ack, irs+1, iss+1) {
				d.Arrive(s.at, k, s.client)
			}
		case doGone:
			d.Forget(k)
		case doAccept:
			pending = false
			d.Accept()
			free = s.at + st.service.after(accepts)
			accepts++
		}
		settle(s.at)
	}
	d.Close()
	return full
}

// unbounded is a queue that refuses nobody, whatever the record holds.
func (st *story) unbounded() int { return len(st.clients) + 1 }

// acceptQueue is the smallest accept queue that refuses nobody, and synQueue the
// smallest SYN queue, when the other is large enough.
func (st *story) acceptQueue() int {
	return smallest(st.unbounded(), func(n int) bool {
		return !st.refuses(demux.DoorConfig{Backlog: n, SynQueue: st.unbounded(), Cookies: demux.CookiesNever})
	})
}

func (st *story) synQueue() int {
	return smallest(st.unbounded(), func(n int) bool {
		return !st.refuses(demux.DoorConfig{Backlog: st.unbounded(), SynQueue: n, Cookies: demux.CookiesNever})
	})
}

// smallest is the least n from 0 to most for which enough is true; it is for most.
func smallest(most int, enough func(int) bool) int {
	lo, hi := 0, most
	for lo < hi {
		if mid := (lo + hi) / 2; enough(mid) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return hi
}

// datagrams is a UDP port's record, ready to be played.
type datagrams struct {
	at      []int64
	charge  []uint32
	began   int // of these, in the queue when the record begins
	service service
	refused int
	packets bool // a refusal was for their number, or
	bytes   bool // for their bytes
}

func newDatagrams(evs []event) *datagrams {
	d := &datagrams{}
	var gone []departure
	known := false
	for _, e := range evs {
		switch e.kind {
		case evArrive:
			if !known { // what is in the queue already, as pieces of one size
				known = true
				for range e.depth - min(e.depth, uint32(len(gone))) {
					d.at, d.charge = append(d.at, e.at), append(d.charge, e.bytes/max(e.depth, 1))
					d.began++
				}
			}
			d.at, d.charge = append(d.at, e.at), append(d.charge, e.charge)
			if e.fate.Dropped() {
				d.refused++
				if e.depth >= e.limit {
					d.packets = true
				} else {
					d.bytes = true
				}
			}
		case evRead:
			gone = append(gone, departure{e.at - max(e.waited, 0), e.at})
		}
	}
	d.service = newService(gone)
	return d
}

// refuses plays the datagrams at a queue of so many packets and bytes.
func (d *datagrams) refuses(packets, bytes int) bool {
	var waits []uint32 // charges
	held, reads := 0, 0
	free := d.service.ready
	take := func(until int64) {
		for len(waits) > 0 && !d.service.never && free <= until {
			held -= int(waits[0])
			waits = waits[1:]
			free += d.service.after(reads)
			reads++
		}
	}
	for i, at := range d.at {
		take(at - 1)
		// What comes at the instant of a read came first, as it does in the record.
		if i >= d.began && (len(waits) >= packets || held+int(d.charge[i]) > bytes) {
			return true
		}
		if len(waits) == 0 {
			free = max(free, at)
		}
		waits, held = append(waits, d.charge[i]), held+int(d.charge[i])
		take(at)
	}
	return false
}

func (d *datagrams) total() (bytes int) {
	for _, c := range d.charge {
		bytes += int(c)
	}
	return bytes
}

// queue is the smallest number of packets that refuses none, and queueBytes the
// smallest of bytes, when the other is large enough.
func (d *datagrams) queue() int {
	return smallest(len(d.at), func(n int) bool { return !d.refuses(n, d.total()) })
}

func (d *datagrams) queueBytes() int {
	return smallest(d.total(), func(n int) bool { return !d.refuses(len(d.at), n) })
}
