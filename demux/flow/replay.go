package flow

import (
	"cmp"
	"container/heap"
	"math"
	"net/netip"
	"slices"
	"time"

	"porthole/demux"
)

// A port's record is played again on a virtual clock, with fresh clients and another
// size, to find the smallest that refuses nobody:
//
//	clients    one per flow: its first SYN comes when it came; its final ACK follows
//	           after as long as it took then, or as it took the others when it never
//	           got so far (none does where most of the others sent none); retries are
//	           not played, since nobody is refused
//	service    takes the k-th connection as long after the one before as then; when it
//	           stood idle between two, after the usual time (the median of those when
//	           it did not); or it waits before each, see departures.service
//	queues     the real demux.Door, or for datagrams the admission rule of a port's
//	           queue
//
// Admission only ever gets easier with size, and without a refusal the course of
// things does not depend on it: so the smallest size is found by halving, and one
// less refuses somebody. The work is bounded by the record: Options.PerPort events,
// and as many plays as the size has bits.

// inFlight is how long the answer to a SYN+ACK may take at least.
const inFlight = 200 * time.Millisecond

// client is one flow as it is played.
type client struct {
	syn       int64
	rtt       int64 // SYN to final ACK
	completes bool
	waiting   bool  // it stood in the accept queue when the record begins
	gone      int64 // half open for so long until it was reset; 0: it was not
}

// story is what a port's record says, ready to be played.
type story struct {
	clients []client
	service service
	refused [2]int // by accept queue and SYN queue, flows
}

// quiet parts a record into episodes: no client tries again after so long (Linux
// waits 32 s between its last two SYNs). So does the end of a listener or socket: who
// waits is reset, and what is queued lost.
const quiet = time.Minute

// episode is the part of a record around a moment, between two quiet times.
func (rec record) episode(at int64) record {
	evs := rec.events
	from, to := 0, len(evs)
	for i := 1; i < len(evs); i++ {
		if evs[i].at-evs[i-1].at < int64(quiet) && evs[i-1].kind != evReleased {
			continue
		}
		if evs[i].at > at {
			to, rec.until = i, evs[i].at
			break
		}
		for _, e := range evs[from:i] {
			rec.held = e.holds(rec.held)
		}
		from = i
	}
	rec.events = evs[from:to]
	return rec
}

// newStory reads a TCP port's record.
func newStory(rec record) *story {
	evs := rec.events
	type seen struct {
		client
		admitted int64 // when its SYN was
		answered bool  // whether it was
		order    int
		refused  [2]bool
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
	gone := newDepartures(rec)
	var anon []*seen // accepted, of flows that are not known any more
	for _, e := range evs {
		switch e.kind {
		case evIdle:
			gone.add(e)
			continue
		case evHeld, evFreed, evReleased:
			gone.hold(e)
			continue
		case evGone:
			if flows[e.flow] == nil {
				continue // of a listener before, or older than the record: nobody comes with it
			}
		}
		f := get(e)
		switch e.kind {
		case evSyn:
			if !e.fate.Dropped() {
				f.admitted, f.answered = e.at, true
			}
		case evAck:
			if f.answered && !f.completes {
				f.rtt = e.at - f.admitted
			}
			f.completes = true
			if !e.fate.Dropped() {
				gone.came(e.at)
			}
		case evAccept:
			gone.add(e)
			if !f.completes { // its handshake was before the record
				f.waiting, f.completes, f.syn = true, true, evs[0].at
				if e.flow == 0 {
					anon = append(anon, f)
				}
			}
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
		if f.answered {
			answered++
			if f.completes {
				completed++
				rtts = append(rtts, f.rtt)
			}
		}
	}
	usual := median(rtts)
	stuck := 0 // got a SYN+ACK, and have not answered it for long
	for _, f := range all {
		if f.answered && !f.completes && f.gone == 0 && rec.until-f.admitted > max(3*usual, int64(inFlight)) {
			stuck++
		}
	}
	for _, f := range all {
		if !f.answered && !f.completes { // refused to the end: as most of the others
			f.completes, f.rtt = answered == 0 || completed > 0 && completed >= stuck, usual
		}
		if f.gone -= f.admitted; !f.answered { // how long it stood half open
			f.gone = 0
		}
		for i, r := range f.refused {
			if r {
				st.refused[i]++
			}
		}
		st.clients = append(st.clients, f.client)
	}
	st.service = gone.service()
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
	doLook
)

type steps []step

func (s steps) Len() int { return len(s) }

func (s steps) Less(i, k int) bool {
	return cmp.Or(cmp.Compare(s[i].at, s[k].at), s[i].order-s[k].order) < 0
}

func (s steps) Swap(i, k int) { s[i], s[k] = s[k], s[i] }

func (s *steps) Push(x any) { *s = append(*s, x.(step)) }

func (s *steps) Pop() any {
	x := (*s)[len(*s)-1]
	*s = (*s)[:len(*s)-1]
	return x
}

// refuses plays the story at a door of those sizes and reports whether it refuses
// anybody.
func (st *story) refuses(c demux.DoorConfig) bool {
	d := demux.NewDoor(c, func(demux.FlowKey, demux.Segment) bool { return false })
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
	ended := map[demux.FlowKey]bool{} // half open for too long
	accepts := 0
	free := st.service.free
	pending := false // an accept stands in q
	settle := func(now int64) {
		if !st.service.never && !pending && d.Stats().Waiting > 0 {
			pending = true
			before, _ := st.service.at(accepts)
			if at := st.service.holds.at(max(st.service.holds.free(now), free) + before); at < math.MaxInt64 {
				push(at, doAccept, 0)
			}
		}
	}
	for i, c := range st.clients {
		if c.waiting {
			full = full || !d.Arrive(c.syn, keyOf(i), i)
		} else {
			push(c.syn, doSyn, i)
		}
	}
	if len(st.clients) > 0 {
		settle(st.clients[0].syn)
	}
	for len(q) > 0 && !full {
		s := heap.Pop(&q).(step)
		_, end, _ := d.Due(s.at, 0, nil, nil)
		for _, k := range end {
			ended[k] = true
		}
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
			for age := time.Second; age <= demux.HalfOpenFor; age = 2*age + time.Second {
				push(s.at+int64(age), doLook, s.client) // SYN+ACK is sent again, or it ends
			}
			if cl.completes {
				push(s.at+cl.rtt, doAck, s.client)
			} else if cl.gone > 0 {
				push(s.at+cl.gone, doGone, s.client)
			}
		case doAck:
			if !ended[k] && judge(ack, irs+1, iss+1) && !d.Arrive(s.at, k, s.client) {
				full = true
			}
		case doGone:
			d.Forget(k)
		case doAccept:
			pending = false
			d.Accept()
			_, after := st.service.at(accepts)
			free = st.service.holds.free(s.at) + after
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
// The door's patience with half-open connections depends on its size, so the last
// steps are taken one by one.
func smallest(most int, enough func(int) bool) int {
	lo, hi := 0, most
	for lo < hi {
		if mid := (lo + hi) / 2; enough(mid) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	for hi > 0 && enough(hi-1) {
		hi--
	}
	return hi
}
