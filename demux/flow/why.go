package flow

import (
	"fmt"
	"strings"
	"time"

	"porthole/demux"
	"porthole/demux/packet"
)

// Why explains one flow, or one port, in sentences: the cause, and the size that
// would have been enough where a queue was it. What the record does not hold is said
// so; nothing is guessed.
type Why struct {
	Flow  *Flow  `json:"flow,omitempty"` // of a flow
	Port  string `json:"port"`
	Cause Cause  `json:"cause"` // of the first sentence
	Text  string `json:"text"`
	Sizes []Size `json:"sizes,omitempty"`
}

// Size is a limit that would have been enough, found by playing the port's record
// again (see replay.go).
type Size struct {
	Limit   string `json:"limit"`   // accept-queue, syn-queue, queue or queue-bytes, as set takes them
	Was     uint32 `json:"was"`     // as the queue that refused said
	Enough  int    `json:"enough"`  // this refuses nobody, one less does
	Clients int    `json:"refused"` // flows (datagrams) refused then
	AtLeast bool   `json:"at_least,omitempty"`
}

// Cause names what held a flow up.
type Cause string

// The causes.
const (
	AcceptQueue Cause = "accept-queue-full"
	SynQueue    Cause = "syn-queue-full"
	PortQueue   Cause = "queue-full"
	Dropped     Cause = "dropped" // for another reason, which the text names
	PortClosed  Cause = "closed"
	NoFinalACK  Cause = "handshake-timeout"
	NoAnswer    Cause = "no-answer"
	SlowAccept  Cause = "slow-accept"
	NotAccepted Cause = "not-accepted"
	SlowService Cause = "slow-service"
	ClosedWin   Cause = "zero-window"
	Loss        Cause = "loss"
	ResetHost   Cause = "reset-by-host"
	ResetClient Cause = "reset-by-client"
	Nothing     Cause = "nothing" // nothing held it up
	Unknown     Cause = "unknown" // the record does not say
)

// Above these a delay is worth a sentence.
const (
	slowAccept = 100 * time.Millisecond
	slowAnswer = 500 * time.Millisecond
	lateAck    = time.Second
)

// WhyFlow explains a flow; false when it is not kept any more.
func (t *Table) WhyFlow(now int64, id ID) (Why, bool) {
	f, ok := t.Get(now, id)
	if !ok {
		return Why{}, false
	}
	w := &teller{t: t, f: &f, now: time.Duration(now - int64(f.Began.Sub(t.start)))}
	if f.Proto == "udp" {
		w.udp()
	} else {
		w.tcp()
	}
	return w.why(&f, f.Port()), true
}

// WhyLast explains the flow that last was refused, dropped, resent, reset or held up
// by a window; the newest flow when there is none. False: there is no flow.
func (t *Table) WhyLast(now int64) (Why, bool) {
	if t == nil {
		return Why{}, false
	}
	t.mu.Lock()
	slot := t.trouble
	if slot == 0 {
		slot = t.newest
	}
	if slot == 0 {
		t.mu.Unlock()
		return Why{}, false
	}
	id := t.coldLocked(slot - 1).id
	t.mu.Unlock()
	return t.WhyFlow(now, id)
}

// teller writes the sentences about one flow. Its now is since the flow began.
type teller struct {
	t     *Table
	f     *Flow
	now   time.Duration
	cause Cause
	text  []string
	sizes []Size
}

func (w *teller) say(c Cause, format string, args ...any) {
	if w.cause == "" {
		w.cause = c
	}
	s := fmt.Sprintf(format, args...)
	if word, _, _ := strings.Cut(s, " "); len(w.text) > 0 && !strings.Contains(word, "=") {
		s = strings.ToUpper(s[:1]) + s[1:] // the first goes on a line of the caller's
	}
	w.text = append(w.text, s+".")
}

func (w *teller) why(f *Flow, port string) Why {
	return Why{Flow: f, Port: port, Cause: w.cause, Text: strings.Join(w.text, " "), Sizes: w.sizes}
}

func (w *teller) tcp() {
	f := w.f
	switch {
	case f.Outbound:
		w.outbound()
	case f.Partial:
	default:
		w.handshake()
	}
	w.service()
	w.transfer()
	w.reset()
	switch {
	case w.cause != "":
	case f.Partial:
		w.say(Unknown, "the beginning of this flow was not seen, and nothing since explains a delay")
	case f.Handshake == 0:
		w.say(Unknown, "no handshake yet, %s after the first segment; the record does not say why", secs(w.now))
	default:
		s := "nothing held it up: connected in " + short(f.Handshake)
		if f.Accepted != 0 {
			s += ", accepted after " + short(f.Waited)
		}
		w.say(Nothing, "%s, no segment dropped or sent again", s)
	}
}

// tries are the SYNs of who began, and the final ACKs that were refused.
type tries struct {
	syns     []*Rung
	by       map[demux.Fate][]int // SYN numbers, from 1
	admitted int                  // number of the SYN that was, 0: none
	acks     []*Rung              // refused final ACKs
	first    *Rung                // the first refusal
	last     *Rung
}

func (f *Flow) tries() *tries {
	t := &tries{by: map[demux.Fate][]int{}}
	for i := range f.Ladder {
		r := &f.Ladder[i]
		if r.Dir != In || !r.isPacket() || !f.before(i) {
			continue
		}
		refused := r.Fate.Dropped() || r.Fate == demux.Closed
		switch {
		case r.Flags&(packet.SYN|packet.ACK) == packet.SYN:
			t.syns = append(t.syns, r)
			if refused {
				t.by[r.Fate] = append(t.by[r.Fate], len(t.syns))
			} else if t.admitted == 0 && r.Fate != demux.SynRepeated {
				t.admitted = len(t.syns)
			}
		case refused && r.Flags&packet.ACK != 0:
			t.acks = append(t.acks, r)
		default:
			continue
		}
		if refused {
			if t.first == nil {
				t.first = r
			}
			t.last = r
		}
	}
	return t
}

func (w *teller) handshake() {
	f, tr := w.f, w.f.tries()
	took := "connect took " + secs(f.Handshake)
	if f.Handshake == 0 {
		took = "not connected"
		if tr.admitted == 0 && w.now > 0 {
			took += " after " + secs(w.now)
		}
		if f.Ended != 0 {
			took = "not connected"
		}
	}
	if n := len(tr.by[demux.Closed]); n > 0 && f.Handshake == 0 {
		s := "connection refused: nobody listens on " + f.Port()
		if f.ResetBy == "host" {
			s += ", so the host answered with RST"
		}
		w.say(PortClosed, "%s", s)
		return
	}
	var parts []string
	cause := Cause("")
	limits := map[demux.Fate]*Rung{}
	for _, q := range []struct {
		fate demux.Fate
		name string
		c    Cause
	}{{demux.AcceptQueueFull, "accept queue", AcceptQueue}, {demux.SynQueueFull, "SYN queue", SynQueue}, {demux.QueueFull, "the port's queue", PortQueue}} {
		if n := tr.by[q.fate]; len(n) > 0 {
			r := tr.syns[n[0]-1]
			limits[q.fate] = r
			p := "SYN " + list(n) + " refused, " + q.name + full(r)
			if q.fate == demux.AcceptQueueFull {
				p += w.because(r)
			}
			parts = append(parts, p)
			if cause == "" {
				cause = q.c
			}
		}
	}
	for fate := range demux.Fate(demux.NumFates) {
		if n := tr.by[fate]; len(n) > 0 && limits[fate] == nil && fate != demux.Closed {
			parts = append(parts, "SYN "+list(n)+" dropped, "+fate.String())
			cause = cmpCause(cause, Dropped)
		}
	}
	if tr.admitted > 1 {
		parts = append(parts, fmt.Sprintf("SYN %d admitted", tr.admitted))
	}
	if n := len(tr.acks); n > 0 {
		r := tr.acks[0]
		p := "its final ACK refused " + times(uint32(n))
		if r.Fate == demux.AcceptQueueFull {
			p += ", accept queue" + full(r)
			limits[r.Fate] = r
			cause = cmpCause(cause, AcceptQueue)
			if len(tr.by[demux.AcceptQueueFull]) == 0 {
				p += w.because(r)
			}
		} else {
			p += ", " + r.Fate.String()
			cause = cmpCause(cause, Dropped)
		}
		parts = append(parts, p)
	}
	switch {
	case len(parts) > 0:
		w.say(cause, "%s: %s", took, strings.Join(parts, "; "))
		w.enough(limits)
	case f.Handshake == 0 && f.Out.SYNs > 0 && f.ResetBy == "":
		w.say(NoFinalACK, "not connected: the host sent SYN+ACK %s in %s and no final ACK came; the client did not get it, gave up, or its address is forged",
			times(uint32(f.Out.SYNs)), secs(w.lastSynAck()))
	case f.Handshake >= lateAck && f.Out.SYNs > 1:
		w.say(Loss, "%s: SYN+ACK was sent %s before a final ACK came, so one of the two was lost on the way", took, times(uint32(f.Out.SYNs)))
	case f.Handshake >= lateAck:
		w.say(Loss, "%s: the client's final ACK came that late, and no queue refused it", took)
	case f.Handshake == 0 && tr.admitted > 0 && f.Out.SYNs == 0 && f.ResetBy == "" && w.now > lateAck:
		w.say(NoAnswer, "not connected: the SYN was admitted and the host has not answered it in %s; the record does not say why", secs(w.now))
	}
}

func (w *teller) lastSynAck() (at time.Duration) {
	for i := range w.f.Ladder {
		if r := &w.f.Ladder[i]; r.Dir == Out && r.Flags&packet.SYN != 0 {
			at = r.At
		}
	}
	return at
}

func cmpCause(c, or Cause) Cause {
	if c == "" {
		return or
	}
	return c
}

// full says how full the queue was, when it said.
func full(r *Rung) string {
	if r.Limit == 0 {
		return " full"
	}
	return fmt.Sprintf(" %d/%d full", r.Depth, r.Limit)
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
	evs, _ := w.t.recorders.events(w.f.demuxPort())
	evs = episode(evs, at)
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
	evs, missed := w.t.recorders.events(w.f.demuxPort())
	w.doorSizes(w.f.demuxPort(), episode(evs, int64(at)), missed, a != nil, s != nil, was)
}

func (w *teller) doorSizes(p demux.Port, evs []event, missed uint64, accept, syn bool, was [2]uint32) {
	if len(evs) == 0 {
		w.say(Unknown, "the port's arrivals are not recorded any more, so no size can be given")
		return
	}
	st := newStory(evs)
	now, known := w.t.recorders.limitsOf(p)
	var found []Size
	if n := st.acceptQueue(); accept || known && n > now[0] {
		found = append(found, Size{"accept-queue", max(was[0], uint32(now[0])), n, st.refused[0], missed > 0})
	}
	if n := st.synQueue(); syn || known && n > now[1] {
		found = append(found, Size{"syn-queue", max(was[1], uint32(now[1])), n, st.refused[1], missed > 0})
	}
	w.sizesFound(found, missed)
}

func (w *teller) sizesFound(found []Size, missed uint64) {
	var ok []string
	for _, s := range found {
		if s.Enough < int(s.Was) && s.Clients > 0 {
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

func (w *teller) outbound() {
	f := w.f
	switch {
	case f.Handshake == 0 && f.ResetBy == "client":
		w.say(PortClosed, "connection refused: %v answered the host's SYN with RST", f.Remote)
	case f.Handshake == 0 && f.Out.SYNs > 1 && f.In.SYNs == 0:
		w.say(NoAnswer, "not connected: the host sent its SYN %s in %s and no answer arrived", times(uint32(f.Out.SYNs)), secs(w.lastSynAck()))
	case f.Handshake >= lateAck && f.Out.SYNs > 1:
		w.say(Loss, "connect took %s: the host sent its SYN %s before an answer arrived", secs(f.Handshake), times(uint32(f.Out.SYNs)))
	}
}

// service is what the host's own program did.
func (w *teller) service() {
	f := w.f
	switch {
	case f.Outbound:
		return
	case f.Accepted != 0 && f.Waited >= slowAccept:
		w.say(SlowAccept, "it waited %s in the accept queue for the service%s", secs(f.Waited), w.rate())
	case f.State == Waits && w.now-f.Handshake >= slowAccept:
		w.say(NotAccepted, "it stands in the accept queue since %s and the service has not accepted it%s", secs(w.now-f.Handshake), w.rate())
	case f.Accepted == 0 && f.Ended != 0 && f.Handshake != 0 && hasRung(f, Established):
		w.say(NotAccepted, "the service never accepted it")
	}
	if ready := max(f.In.FirstData, f.Accepted); f.In.FirstData != 0 && f.Accepted != 0 {
		switch {
		case f.Out.FirstData == 0 && f.Ended == 0 && w.now-ready >= slowAnswer:
			w.say(SlowService, "the service has not answered in %s since the client's first data", secs(w.now-ready))
		case f.Out.FirstData > ready && f.Out.FirstData-ready >= slowAnswer:
			w.say(SlowService, "the service took %s for its first answer", secs(f.Out.FirstData-ready))
		}
	}
}

func hasRung(f *Flow, what What) bool {
	for i := range f.Ladder {
		if f.Ladder[i].What == what {
			return true
		}
	}
	return false
}

// rate is how fast the service accepted while the flow waited.
func (w *teller) rate() string {
	began := int64(w.f.Began.Sub(w.t.start))
	from, to := began+int64(w.f.Handshake), began+int64(w.now)
	if w.f.Accepted != 0 {
		to = began + int64(w.f.Accepted)
		from = to - int64(w.f.Waited)
	}
	evs, missed := w.t.recorders.events(w.f.demuxPort())
	n, rate := acceptRate(evs, from, to)
	if n == 0 || rate == 0 || missed > 0 && evs[0].at > from {
		return ""
	}
	return ", which accepted " + digits(rate) + "/s"
}

// transfer is what happened to the data.
func (w *teller) transfer() {
	f := w.f
	in, out := f.names()
	if n := f.Out.ZeroWindow; n > 0 {
		w.say(ClosedWin, "the host's window was closed %s for %s: the service read slower than the %s sent, and its receive buffer was full", times(n), secs(f.Out.ZeroFor), in)
	}
	if n := f.In.ZeroWindow; n > 0 {
		w.say(ClosedWin, "the %s's window was closed %s for %s: it read slower than the %s sent", in, times(n), secs(f.In.ZeroFor), out)
	}
	drops := uint32(0)
	if f.Handshake != 0 || f.Partial {
		drops = f.lateDrops()
	}
	if drops > 0 {
		c := Dropped
		if f.LastDrop == demux.QueueFull.String() {
			c = PortQueue
		}
		w.say(c, "%s arrived and did not get on, %v", segments(drops), f.LastDrop)
	}
	switch {
	case f.In.Resent > 0 && drops > 0:
		w.say(Loss, "the %s sent %s again", in, segments(f.In.Resent))
	case f.In.Resent > 0:
		w.say(Loss, "the %s sent %s again that had arrived: an acknowledgment was lost on the way, or late", in, segments(f.In.Resent))
	}
	if f.In.Gaps > 0 {
		w.say(Loss, "%s arrived without what came before: lost on the way, or out of order", segments(f.In.Gaps))
	}
	if f.Out.Resent > 0 {
		w.say(Loss, "the host sent %s again, as no acknowledgment had come in time: lost on the way, or late", segments(f.Out.Resent))
	}
}

func (w *teller) reset() {
	f := w.f
	in, _ := f.names()
	if f.ResetBy == "" || w.cause == PortClosed {
		return
	}
	who, c := "the host", ResetHost
	if f.ResetBy == "client" {
		who, c = "the "+in, ResetClient
	}
	switch {
	case f.Handshake == 0 && f.Partial:
		w.say(c, "%s reset the connection %s after it was first seen", who, secs(f.Ended))
	case f.Handshake == 0:
		w.say(c, "%s reset the connection after %s, before the handshake was complete", who, secs(f.Ended))
	case f.Accepted == 0 && !f.Outbound && hasRung(f, Established):
		w.say(c, "%s reset the connection after %s, while it waited for the service", who, secs(f.Ended))
	default:
		w.say(c, "%s reset the connection after %s, with %s in and %s out", who, secs(f.Ended), size(f.In.Bytes), size(f.Out.Bytes))
	}
}

func (w *teller) udp() {
	f := w.f
	var r *Rung
	for i := range f.Ladder {
		if x := &f.Ladder[i]; x.Fate.String() == f.LastDrop && f.Dropped > 0 {
			r = x
			break
		}
	}
	switch {
	case r != nil && r.Fate == demux.QueueFull:
		w.say(PortQueue, "%d of %d datagrams refused, the queue of %s%s", f.Dropped, f.In.Datagrams, f.Port(), full(r))
		evs, missed := w.t.recorders.events(f.demuxPort())
		w.queueSizes(episode(evs, int64(f.Began.Sub(w.t.start)+r.At)), missed)
	case f.Dropped > 0:
		w.say(Dropped, "%d of %d datagrams dropped, %v", f.Dropped, f.In.Datagrams, f.LastDrop)
	}
	switch {
	case len(f.Ladder) > 0 && f.Ladder[0].Fate == demux.Closed:
		w.say(PortClosed, "nobody listens on %s; the host owes an ICMP port unreachable, of which it sends a limited number a second", f.Port())
	case f.Read != 0 && f.Waited >= slowAccept:
		w.say(SlowService, "its first datagram waited %s in the queue for the service", secs(f.Waited))
	}
	if !f.Outbound && f.Out.FirstData-f.Read >= slowAnswer && f.Read != 0 {
		w.say(SlowService, "the service took %s for its first answer", secs(f.Out.FirstData-f.Read))
	}
	if w.cause == "" {
		if f.Out.Datagrams == 0 && !f.Outbound || f.In.Datagrams == 0 && f.Outbound {
			w.say(Unknown, "no datagram of it was dropped and none has been answered in %s; the record does not say why", secs(w.now))
			return
		}
		w.say(Nothing, "nothing held it up: no datagram of it was dropped")
	}
}

func (w *teller) queueSizes(evs []event, missed uint64) {
	d := newDatagrams(evs)
	var found []Size
	for _, e := range evs {
		if e.kind != evArrive || !e.fate.Dropped() {
			continue
		}
		if n := d.queue(); d.packets || n > int(e.limit) {
			found = append(found, Size{"queue", e.limit, n, d.refused, missed > 0})
		}
		if b := d.queueBytes(); e.most > 0 && (d.bytes || b > int(e.most)) {
			found = append(found, Size{"queue-bytes", e.most, b, d.refused, missed > 0})
		}
		break
	}
	if len(found) == 0 {
		w.say(Unknown, "the port's arrivals are not recorded any more, so no size can be given")
		return
	}
	w.sizesFound(found, missed)
}

// WhyPort explains what a port's queues refused, as far as it is recorded.
func (t *Table) WhyPort(now int64, p demux.Port) Why {
	if t == nil {
		return Why{Port: p.String(), Cause: Unknown, Text: "flows are switched off."}
	}
	w := &teller{t: t}
	evs, missed := t.recorders.events(p)
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
			c, s = Nothing, fmt.Sprintf("nothing refused in the last %s", secs(time.Duration(now-evs[0].at)))
		}
		w.say(c, "%v: %s", p, s)
		return w.why(nil, p.String())
	}
	e := evs[last]
	evs = episode(evs, e.at)
	ago := fmt.Sprintf("the last %s ago", secs(time.Duration(now-e.at)))
	q := fmt.Sprintf(" %d/%d", e.depth, e.limit)
	if p.IsUDP() {
		d := newDatagrams(evs)
		w.say(PortQueue, "%v: %d of %d datagrams refused, queue%s full, %s", p, d.refused, len(d.at)-d.began, q, ago)
		w.queueSizes(evs, missed)
		return w.why(nil, p.String())
	}
	st := newStory(evs)
	c, name := AcceptQueue, "accept queue"
	if e.fate == demux.SynQueueFull {
		c, name = SynQueue, "SYN queue"
	}
	n := max(st.refused[0], st.refused[1])
	w.say(c, "%v: %d of %d clients refused at least once, %s%s full, %s", p, n, len(st.clients), name, q, ago)
	var was [2]uint32
	for _, e := range evs {
		switch e.fate {
		case demux.AcceptQueueFull:
			was[0] = e.limit
		case demux.SynQueueFull:
			was[1] = e.limit
		}
	}
	w.doorSizes(p, evs, missed, st.refused[0] > 0, st.refused[1] > 0, was)
	return w.why(nil, p.String())
}

func segments(n uint32) string {
	if n == 1 {
		return "1 segment"
	}
	return fmt.Sprintf("%d segments", n)
}

func (f *Flow) demuxPort() demux.Port {
	if f.Proto == "udp" {
		return demux.UDPPort(f.Local.Port())
	}
	return demux.TCPPort(f.Local.Port())
}

// list writes numbers in ascending order: 1; 1 and 2; 1 to 4; 1, 3 and 5.
func list(n []int) string {
	if k := len(n); k > 2 && n[k-1]-n[0] == k-1 {
		return fmt.Sprintf("%d to %d", n[0], n[k-1])
	}
	var b strings.Builder
	for i, v := range n {
		switch {
		case i == 0:
		case i == len(n)-1:
			b.WriteString(" and ")
		default:
			b.WriteString(", ")
		}
		fmt.Fprint(&b, v)
	}
	return b.String()
}

// secs is a duration with the digits that a sentence needs: 0.3 ms, 3.02 s, 75 s.
func secs(d time.Duration) string {
	if d < 995*time.Millisecond {
		return short(d)
	}
	if d < 9995*time.Millisecond {
		return strings.TrimSuffix(strings.TrimSuffix(fmt.Sprintf("%.2f", d.Seconds()), "0"), ".0") + " s"
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}

// digits writes a rate with two digits.
func digits(v float64) string {
	switch {
	case v >= 9.95:
		return fmt.Sprintf("%.0f", v)
	case v >= 0.095:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2g", v)
}
