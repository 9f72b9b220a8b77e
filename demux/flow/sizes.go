package flow

import (
	"fmt"
	"strings"
	"time"

	"porthole/demux"
)

// full says how full the queue was, when it said.
func full(r *Rung) string {
	if r.byBytes() {
		return " full" + r.level()
	}
	return r.level() + " full"
}

// because says how long the accept queue was full from a refusal on until the flow got
// in, or its last try, and how fast the service took connections meanwhile.
func (w *teller) because(r *Rung) string {
	began := int64(w.f.Began.Sub(w.t.start))
	at := began + int64(r.At)
	until := began + int64(max(w.f.Handshake, r.At))
	if w.f.Handshake == 0 {
		until = began + int64(w.f.tries().last.At)
	}
	evs := w.record(w.f.demuxPort()).episode(at).events
	from, long := fullFor(evs, w.f.ID, at, until)
	if long <= 0 {
		return ""
	}
	s := " for " + secs(time.Duration(long))
	if n, rate := acceptRate(evs, from, until); n == 0 {
		s += " because the service accepted nothing"
	} else if rate > 0 {
		s += " because the service accepted " + digits(rate) + "/s"
	}
	return s
}

// acceptRate is how many connections the service took in (from, to], and how many a
// second: by the times between them, the one before included.
func acceptRate(evs []event, from, to int64) (n int, rate float64) {
	var first, last int64
	have := false
	for _, e := range evs {
		if e.kind != evAccept || e.at > to {
			continue
		}
		if e.at <= from {
			first, have = e.at, true
			continue
		}
		if n++; n == 1 && !have {
			first = e.at
		}
		last = e.at
	}
	between := n
	if !have {
		between--
	}
	if between <= 0 {
		between, first, last = n, from, to
	}
	if last <= first {
		return n, 0
	}
	return n, float64(between) / time.Duration(last-first).Seconds()
}

// fullFor is since when the accept queue was full at a flow's refusal, for how long in
// all until a moment.
func fullFor(evs []event, id ID, at, until int64) (from, long int64) {
	i := 0
	for i < len(evs) && !(evs[i].flow == id && evs[i].at == at && evs[i].fate == demux.AcceptQueueFull) {
		i++
	}
	if i == len(evs) {
		return 0, 0
	}
	places := int(evs[i].depth)
	since := evs[0].at
	for k := i - 1; k >= 0; k-- {
		if evs[k].kind == evAck && !evs[k].fate.Dropped() {
			since = evs[k].at
			break
		}
	}
	from = since
	isFull, have, came := true, places, since
	for _, e := range evs[i:] {
		if e.at > until {
			break
		}
		switch {
		case e.kind == evAccept:
			have--
			if isFull && have < places {
				long += e.at - since
				isFull = false
			}
		case e.fate == demux.AcceptQueueFull:
			if !isFull {
				isFull, since = true, came
			}
			have = places
		case e.kind == evAck:
			if have++; have >= places && !isFull {
				isFull, since = true, e.at
			}
			came = e.at
		}
	}
	if isFull {
		long += until - since
	}
	return from, long
}

// enough adds the sizes that would have been, and the sentence.
func (w *teller) enough(limits map[demux.Fate]*Rung) {
	a, s := limits[demux.AcceptQueueFull], limits[demux.SynQueueFull]
	if a == nil && s == nil {
		return
	}
	at := w.f.Began.Sub(w.t.start)
	var was [2]uint32
	if a != nil {
		was[0], at = a.Limit, at+a.At
	} else {
		at += s.At
	}
	if s != nil {
		was[1] = s.Limit
	}
	w.doorSizes(w.f.demuxPort(), w.record(w.f.demuxPort()).episode(int64(at)), a != nil, s != nil, was)
}

func (w *teller) doorSizes(p demux.Port, rec record, accept, syn bool, was [2]uint32) {
	if len(rec.events) == 0 {
		w.say(Unknown, "the port's arrivals are not recorded any more, so no size can be given")
		return
	}
	st := newStory(rec)
	now, known := w.t.recorders.limitsOf(p)
	if !accept {
		was[0] = uint32(now[0])
	}
	if !syn {
		was[1] = uint32(now[1])
	}
	var found []Size
	if n := st.acceptQueue(); accept || known && n > now[0] {
		found = append(found, Size{"accept-queue", was[0], n, st.refused[0], rec.missed > 0})
	}
	if n := st.synQueue(); syn || known && n > now[1] {
		found = append(found, Size{"syn-queue", was[1], n, st.refused[1], rec.missed > 0})
	}
	w.sizesFound(found, rec.missed)
}

func (w *teller) sizesFound(found []Size, missed uint64) {
	var ok []string
	for _, s := range found {
		if s.Enough <= int(s.Was) && s.Clients > 0 {
			w.say(Unknown, "played again, the recorded arrivals fit %s=%d, which is no more than it was: the limit or the service had changed meanwhile, so no size can be given", s.Limit, s.Enough)
			continue
		}
		w.sizes = append(w.sizes, s)
		ok = append(ok, fmt.Sprintf("%s=%d", s.Limit, s.Enough))
	}
	if len(ok) == 0 {
		return
	}
	if missed > 0 {
		w.say(Unknown, "%s would have been enough for what is recorded; %d older events are lost, so it may take more", strings.Join(ok, " with "), missed)
		return
	}
	w.say(Unknown, "%s would have been enough", strings.Join(ok, " with "))
}

func (w *teller) queueSizes(rec record) {
	d := newDatagrams(rec)
	var found []Size
	for _, e := range rec.events {
		if e.kind != evArrive && e.kind != evLost || !e.fate.Dropped() || e.fate == demux.CoDelDropped {
			continue
		}
		if n := d.queue(); d.packets || n > int(e.limit) {
			found = append(found, Size{"queue", e.limit, n, d.refused, rec.missed > 0})
		}
		if b := d.queueBytes(); e.most > 0 && (d.bytes || b > int(e.most)) {
			found = append(found, Size{"queue-bytes", e.most, b, d.refused, rec.missed > 0})
		}
		break
	}
	switch {
	case d.codel > 0:
		w.say(Unknown, "CoDel dropped %s in that time, %s, so no size would have kept all", datagramsN(d.codel), rec.pace())
	case len(found) == 0:
		w.say(Unknown, "the port's arrivals are not recorded any more, so no size can be given")
	default:
		w.sizesFound(found, rec.missed)
	}
}

func datagramsN(n int) string {
	if n == 1 {
		return "1 datagram"
	}
	return fmt.Sprintf("%d datagrams", n)
}

// pace says how much came to a UDP port and how much was read.
func (rec record) pace() string {
	came, read := 0, 0
	for _, e := range rec.events {
		switch e.kind {
		case evArrive:
			came++
		case evRead:
			read++
		}
	}
	if n := len(rec.events); n > 1 {
		if d := time.Duration(rec.events[n-1].at - rec.events[0].at); d > 0 {
			return fmt.Sprintf("as %s/s came and the service read %s/s", digits(float64(came)/d.Seconds()), digits(float64(read)/d.Seconds()))
		}
	}
	return fmt.Sprintf("as %d came and the service read %d", came, read)
}

// WhyPort explains what a port's queues refused, as far as it is recorded.
func (t *Table) WhyPort(now int64, p demux.Port) Why {
	if t == nil {
		return Why{Port: p.String(), Cause: Unknown, Text: "flows are switched off."}
	}
	w := &teller{t: t, at: now}
	rec := w.record(p)
	evs := rec.events
	last := -1
	for i, e := range evs {
		if e.fate.Dropped() {
			last = i
		}
	}
	if last < 0 {
		s := "nothing is recorded of it"
		c := Unknown
		if len(evs) > 0 {
			whose := "its SYN queue and accept queue"
			if p.IsUDP() {
				whose = "its queue"
			}
			c, s = Nothing, fmt.Sprintf("%s refused nothing in the last %s", whose, secs(time.Duration(now-evs[0].at)))
		}
		w.say(c, "%v: %s", p, s)
		return w.why(nil, p.String())
	}
	e := evs[last]
	rec = rec.episode(e.at)
	ago := fmt.Sprintf("the last %s ago", secs(time.Duration(now-e.at)))
	q := fmt.Sprintf(" %d/%d full", e.depth, e.limit)
	if p.IsUDP() {
		d := newDatagrams(rec)
		came := len(d.at) - d.began
		if e.fate == demux.QueueFull && e.depth < e.limit {
			q = fmt.Sprintf(" full by its bytes, %d/%d", e.bytes, e.most)
		}
		tail := d.refused - d.headDropped
		switch {
		case e.fate == demux.CoDelDropped:
			w.say(Standing, "%v: %d of %d datagrams dropped by CoDel, %s in its queue, %s", p, d.codel, came, short(time.Duration(e.waited)), ago)
			w.standing(rec)
			return w.why(nil, p.String())
		case tail == 0:
			w.say(PortQueue, "%v: %d of %d datagrams dropped from the head of the queue,%s, %s", p, d.headDropped, came, q, ago)
		case d.headDropped == 0:
			w.say(PortQueue, "%v: %d of %d datagrams refused, queue%s, %s", p, tail, came, q, ago)
		default:
			w.say(PortQueue, "%v: %d of %d datagrams refused and %d dropped from the head of the queue,%s, %s", p, tail, came, d.headDropped, q, ago)
		}
		w.queueSizes(rec)
		return w.why(nil, p.String())
	}
	st := newStory(rec)
	c, name := AcceptQueue, "accept queue"
	if e.fate == demux.SynQueueFull {
		c, name = SynQueue, "SYN queue"
	}
	n := max(st.refused[0], st.refused[1])
	w.say(c, "%v: %d of %d clients refused at least once, %s%s, %s", p, n, len(st.clients), name, q, ago)
	var was [2]uint32
	for _, e := range rec.events {
		switch e.fate {
		case demux.AcceptQueueFull:
			was[0] = e.limit
		case demux.SynQueueFull:
			was[1] = e.limit
		}
	}
	w.doorSizes(p, rec, st.refused[0] > 0, st.refused[1] > 0, was)
	return w.why(nil, p.String())
}
