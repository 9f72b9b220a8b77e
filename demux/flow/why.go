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
	PortQueue   Cause = "queue-full" // or, under head drop, had no room for a newer one
	Standing    Cause = "codel-drop"
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
	w := &teller{t: t, f: &f, at: now, now: time.Duration(now - int64(f.Began.Sub(t.start)))}
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
	at    int64 // now, as the table counts
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

// record is what a port's recorder holds now.
func (w *teller) record(p demux.Port) record { return w.t.recorders.record(p, w.at) }

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
