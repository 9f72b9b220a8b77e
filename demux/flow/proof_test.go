package flow

import (
	"fmt"
	"math"
	"net/netip"
	"sort"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"porthole/demux"
	"porthole/demux/packet"
)

// world is clients, the real door and a service on a virtual clock: what the host
// does, without the host. It shares nothing with replay.go.
type world struct {
	testing.TB
	conf    demux.DoorConfig
	door    *demux.Door
	flows   *Table // nil: only count
	told    bool   // the service says when it is idle
	now     int64
	todo    []job
	made    int
	service time.Duration // between two accepts
	after   time.Duration // before each accept: the service looks, waits so long, and takes
	busy    bool
	held    bool          // accept=never
	until   time.Duration // what comes later does not happen; 0: all does
	refused int
	done    int
}

type job struct {
	at    int64
	order int
	do    func()
}

func (w *world) later(after time.Duration, do func()) {
	w.made++
	w.todo = append(w.todo, job{w.now + int64(after), w.made, do})
}

func (w *world) run(clients []newcomer) {
	w.door = demux.NewDoor(w.conf, func(demux.FlowKey, demux.Segment) bool { return false })
	for i, c := range clients {
		w.later(c.at-time.Duration(w.now), (&peer{w: w, newcomer: c, wire: &wire{w.TB, w.flows, 0,
			Key{packet.TCP, netip.AddrPortFrom(hostAddr, 80), netip.AddrPortFrom(peerAddr, uint16(1024+i)+c.port)},
			uint32(i * 77777), uint32(i * 33333)}}).syn)
	}
	w.idle()
	w.loop()
	w.door.Close()
}

func (w *world) loop() {
	for len(w.todo) > 0 {
		first := 0
		for i, j := range w.todo {
			if f := w.todo[first]; j.at < f.at || j.at == f.at && j.order < f.order {
				first = i
			}
		}
		j := w.todo[first]
		if w.until > 0 && j.at > int64(w.until) {
			w.now = int64(w.until)
			break
		}
		w.todo = append(w.todo[:first], w.todo[first+1:]...)
		w.now = j.at
		w.door.Due(w.now, 0, nil, nil)
		j.do()
	}
}

// newcomer is a client: when it comes, and how far away it is.
type newcomer struct {
	at     time.Duration
	rtt    time.Duration
	forged bool // never answers
	port   uint16
}

type peer struct {
	newcomer
	w     *world
	wire  *wire
	tries int
	half  bool
	in    bool // in the accept queue, or taken
}

func (p *peer) judge(flags uint8, seq, ack uint32) demux.Verdict {
	k := demux.FlowKey{Remote: p.wire.k.Remote, Local: hostAddr}
	st := p.w.door.Stats()
	v := p.w.door.Judge(p.w.now, func() demux.FlowKey { return k }, demux.Segment{Flags: flags, Seq: p.wire.irs + seq, Ack: ack})
	d := Decision{Fate: demux.ToStack}
	switch v {
	case demux.Repeat:
		d.Fate = demux.SynRepeated
	case demux.Refuse:
		d = Decision{Fate: demux.AcceptQueueFull, Depth: uint32(st.Waiting + st.Reserved), Limit: uint32(st.Backlog)}
	case demux.RefuseSyn:
		d = Decision{Fate: demux.SynQueueFull, Depth: uint32(st.HalfOpen), Limit: uint32(st.SynQueue)}
	}
	if d.Fate.Dropped() {
		p.w.refused++
	}
	p.tap(In, p.wire.segment(In, flags, seq, ack-p.wire.iss, 0), d)
	return v
}

func (p *peer) tap(d Direction, b []byte, dec Decision) {
	if p.w.flows != nil {
		p.wire.now = p.w.now
		p.wire.tap(d, b, dec)
	}
}

func (p *peer) syn() {
	if p.in {
		return
	}
	if p.tries++; p.tries > 7 {
		return
	}
	switch p.judge(packet.SYN, 0, 0) {
	case demux.Pass:
		p.half = true
		k := demux.FlowKey{Remote: p.wire.k.Remote, Local: hostAddr}
		p.w.door.Answered(p.w.now, k, p.wire.iss, p.wire.irs, 65535, func() []byte { return nil })
		p.tap(Out, p.wire.segment(Out, packet.SYN|packet.ACK, 0, 1, 0), Decision{})
		for age := time.Second; age <= demux.HalfOpenFor; age = 2*age + time.Second {
			p.w.later(age, func() {})
		}
		if !p.forged {
			p.w.later(p.rtt, p.ack)
		}
	default:
		p.w.later(time.Second<<(p.tries-1), p.syn)
	}
}

func (p *peer) ack() {
	if p.in || p.w.now > int64(200*time.Second) {
		return
	}
	if p.judge(packet.ACK, 1, p.wire.iss+1) != demux.Pass {
		p.w.later(time.Second, func() { // SYN+ACK again, and its answer
			p.tap(Out, p.wire.segment(Out, packet.SYN|packet.ACK, 0, 1, 0), Decision{})
			p.w.later(p.rtt, p.ack)
		})
		return
	}
	p.in = true
	if p.w.door.Arrive(p.w.now, demux.FlowKey{Remote: p.wire.k.Remote, Local: hostAddr}, [2]any{p, p.w.now}) {
		if p.w.flows != nil {
			p.w.flows.Established(p.w.now, p.wire.k, uint32(p.w.door.Stats().Waiting), uint32(p.w.conf.Backlog))
		}
		p.w.later(0, p.w.serve)
	}
}

func (w *world) idle() {
	if w.told && w.flows != nil && w.door.Stats().Waiting == 0 {
		w.flows.Idle(w.now, demux.TCPPort(80))
	}
}

// serve is the service: it takes one, is busy, and takes the next.
func (w *world) serve() {
	if w.busy || w.held || w.door.Stats().Waiting == 0 {
		return
	}
	w.busy = true
	w.later(w.after, func() {
		c, _ := w.door.Accept()
		w.done++
		p := c.([2]any)[0].(*peer)
		if w.flows != nil {
			w.flows.Accepted(w.now, p.wire.k, w.now-c.([2]any)[1].(int64))
		}
		w.later(w.service, func() {
			w.busy = false
			w.idle()
			w.serve()
		})
	})
}

// TestWhyProof: what why says would have been enough is enough for fresh clients at a
// fresh door, and one less is not.
func TestWhyProof(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(2, 40).Draw(r, "clients")
		span := rapid.SampledFrom([]time.Duration{time.Millisecond, 300 * time.Millisecond, 4 * time.Second, 20 * time.Second}).Draw(r, "span")
		rtt := rapid.SampledFrom([]time.Duration{0, 300 * time.Microsecond, 40 * time.Millisecond, 700 * time.Millisecond}).Draw(r, "rtt")
		clients := make([]newcomer, n)
		for i := range clients {
			at := time.Duration(rapid.Int64Range(0, int64(span)).Draw(r, "at"))
			clients[i] = newcomer{at: at&^63 + time.Duration(i), rtt: rtt}
		}
		sort.Slice(clients, func(i, k int) bool { return clients[i].at < clients[k].at })
		service := rapid.SampledFrom([]time.Duration{0, 5 * time.Millisecond, 667 * time.Millisecond, 2 * time.Second}).Draw(r, "service")
		after := time.Duration(0)
		if rapid.Bool().Draw(r, "delay before") {
			service, after = 0, service
		}
		conf := demux.DoorConfig{Cookies: demux.CookiesNever,
			Backlog:  rapid.SampledFrom([]int{0, 1, 4, 1000}).Draw(r, "accept-queue"),
			SynQueue: rapid.SampledFrom([]int{0, 1, 4, 1000}).Draw(r, "syn-queue")}
		told, asked := rapid.Bool().Draw(r, "told"), time.Duration(0)
		if told {
			asked = time.Duration(rapid.Int64Range(0, int64(2*span)).Draw(r, "asked"))
		}
		prove(r, conf, clients, service, after, told, asked)
	})
}

type failer interface {
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

func prove(r failer, conf demux.DoorConfig, clients []newcomer, service, after time.Duration, told bool, asked time.Duration) (said []Why) {
	play := func(c demux.DoorConfig, flows *Table) *world {
		w := &world{TB: nopTB{}, conf: c, flows: flows, service: service, after: after, told: told, until: asked}
		w.run(clients)
		return w
	}
	flows := New(Options{Start: zero})
	if told {
		flows.DoorLimits(80, conf.Backlog, conf.SynQueue)
	}
	first := play(conf, flows)
	why := flows.WhyPort(first.now, demux.TCPPort(80))
	if first.refused == 0 {
		if why.Cause != Nothing {
			r.Fatalf("nobody was refused, and why says %+v", why)
		}
		return nil
	}
	enough := conf
	for _, s := range why.Sizes {
		switch s.Limit {
		case "accept-queue":
			enough.Backlog = s.Enough
		case "syn-queue":
			enough.SynQueue = s.Enough
		}
	}
	if len(why.Sizes) == 0 {
		r.Fatalf("%d refused and no size: %s", first.refused, why.Text)
	}
	// A queue that is enlarged may make the other the tighter one: why names both then.
	if got := play(enough, nil); told && got.refused > 0 {
		r.Fatalf("%+v of %+v still refuses %d: %s", enough, conf, got.refused, why.Text)
	}
	for _, s := range why.Sizes {
		// each on its own, with the other queue as large as can be
		c, less := conf, conf
		c.Backlog, c.SynQueue = len(clients), len(clients)
		less = c
		switch s.Limit {
		case "accept-queue":
			c.Backlog, less.Backlog = s.Enough, s.Enough-1
		case "syn-queue":
			c.SynQueue, less.SynQueue = s.Enough, s.Enough-1
		}
		if w := play(c, nil); w.refused > 0 {
			r.Fatalf("%s=%d would have been enough, but refuses %d: %s", s.Limit, s.Enough, w.refused, why.Text)
		}
		if w := play(less, nil); s.Enough > 0 && w.refused == 0 {
			r.Fatalf("%s=%d would have been enough, and so is one less: %s", s.Limit, s.Enough, why.Text)
		}
	}
	for _, f := range flows.Flows(first.now, Filter{Limit: math.MaxInt32}) {
		if f.Dropped == 0 || len(said) == 3 {
			continue
		}
		if y, ok := flows.WhyFlow(first.now, f.ID); ok {
			if len(y.Sizes) == 0 || y.Cause != AcceptQueue && y.Cause != SynQueue {
				r.Fatalf("flow %v was refused: %+v", f.ID, y)
			}
			said = append(said, y)
		}
	}
	return said
}

// nopTB lets a wire fail loudly inside a property.
type nopTB struct{ testing.TB }

func (nopTB) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (nopTB) FailNow()                          { panic("failed") }
func (nopTB) Helper()                           {}

// TestWhySaysIt is the sentence of the documentation, from a world that made it true.
func TestWhySaysIt(t *testing.T) {
	// The service takes one in 667 ms. Five wait, one is being served, four more come.
	var clients []newcomer
	for i := range 9 {
		clients = append(clients, newcomer{at: time.Duration(i) * time.Millisecond, rtt: 300 * time.Microsecond})
	}
	said := prove(t, demux.DoorConfig{Backlog: 4, SynQueue: 128, Cookies: demux.CookiesNever}, clients, 667*time.Millisecond, 0, false, 0)
	var got []string
	for _, y := range said {
		got = append(got, y.Text)
	}
	require.Equal(t, []string{
		"connect took 1 s: SYN 1 refused, accept queue 5/4 full for 662 ms because the service accepted 1.5/s; SYN 2 admitted. accept-queue=7 would have been enough. It waited 3 s in the accept queue for the service, which accepted 1.5/s.",
	}, got[:1])
	for _, s := range got {
		t.Log(s)
	}
}

// TestWhyTwoWaves: retries that fall into a later crowd count once, where they came first.
func TestWhyTwoWaves(t *testing.T) {
	var clients []newcomer
	for i := range 20 {
		at := time.Duration(i) * time.Millisecond
		if i >= 12 {
			at += 5 * time.Second
		}
		clients = append(clients, newcomer{at: at, rtt: time.Millisecond})
	}
	require.NotEmpty(t, prove(t, demux.DoorConfig{Backlog: 1, SynQueue: 99, Cookies: demux.CookiesNever}, clients, 400*time.Millisecond, 0, true, 0))
}

// TestWhyAsked: while the service is still at its first connection, what it will do is
// not taken from what it did before.
func TestWhyAsked(t *testing.T) {
	var clients []newcomer
	for _, at := range []time.Duration{0, 5, 20, 60, 80, 100} {
		clients = append(clients, newcomer{at: at * time.Millisecond, rtt: 40 * time.Millisecond})
	}
	conf := demux.DoorConfig{Backlog: 1, SynQueue: 99, Cookies: demux.CookiesNever}
	said := prove(t, conf, clients, time.Second, 0, true, 500*time.Millisecond)
	require.Equal(t, 4, said[0].Sizes[0].Enough)
}

// TestWhyHeld: accept=never holds an idle service twice; between them the port is
// closed and opened again, which resets who waits.
func TestWhyHeld(t *testing.T) {
	const port = 80
	for _, closes := range []bool{false, true} {
		flows := New(Options{Start: zero})
		at := time.Duration(0)
		hold := func(clients, backlog int) Why {
			w := &world{TB: nopTB{}, conf: demux.DoorConfig{Backlog: backlog, SynQueue: 99, Cookies: demux.CookiesNever}, flows: flows, told: true}
			flows.DoorLimits(port, backlog, 99)
			var come []newcomer
			for i := range clients + 1 {
				come = append(come, newcomer{at: at + time.Duration(i)*10*time.Millisecond, port: uint16(at/time.Millisecond) + uint16(i)})
			}
			held := at + 5*time.Millisecond
			w.now = int64(at)
			w.later(held-at, func() { w.held = true; flows.Held(w.now, demux.TCPPort(port), true) })
			w.until = at + 900*time.Millisecond
			w.run(come)
			why := flows.WhyPort(w.now, demux.TCPPort(port))
			if closes {
				flows.Released(w.now, demux.TCPPort(port))
			}
			w.until = at + 2500*time.Millisecond
			w.later(0, func() { w.held = false; flows.Held(w.now, demux.TCPPort(port), false); w.serve() })
			at = w.until
			if !closes {
				w.loop()
			}
			return why
		}
		require.Equal(t, 3, hold(4, 0).Sizes[0].Enough)
		require.Equal(t, 4, hold(5, 1).Sizes[0].Enough)
		require.Equal(t, 7, hold(8, 4).Sizes[0].Enough)
	}
}

// TestWhyFlood: those whom a full SYN queue refused would not have answered either,
// where hardly anybody whom it let in has.
func TestWhyFlood(t *testing.T) {
	clients := []newcomer{{at: 0, rtt: time.Millisecond}}
	for i := range 10 {
		clients = append(clients, newcomer{at: time.Duration(10+5*i) * time.Millisecond, forged: true})
	}
	conf := demux.DoorConfig{Backlog: 99, SynQueue: 4, Cookies: demux.CookiesNever}
	said := prove(t, conf, clients, 0, 0, true, 900*time.Millisecond)
	require.Equal(t, []Size{{Limit: "syn-queue", Was: 4, Enough: 9, Clients: 5}}, said[0].Sizes)
}
