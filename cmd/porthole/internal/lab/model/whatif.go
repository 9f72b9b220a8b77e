package model

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"porthole/cmd/porthole/internal/lab"
	"porthole/cmd/porthole/internal/lab/recording"
	"porthole/demux"
)

// WhatIf plays a recording again over every queue size and policy.
var WhatIf = lab.Experiment{
	Name:     "what-if",
	Question: "With what really came to a port, which queue size and policy would have served it best?",
	Kind:     lab.Model,
	About: "A recording (a capture of any origin, or what porthole flows --json printed) says when requests came to a port and how " +
		"long its service took over each. They are played again, on a virtual clock, at the product's own queue with other sizes " +
		"and policies: datagrams at a UDP port's queue, connections at the door's accept queue, where policies do not apply. A " +
		"request takes as long as it took then, whatever the queue. Who is refused does not try again, and one server takes one " +
		"request after the other; give service=0s for a service that takes any number at once. Without a recording a made-up one is played: " +
		"steady requests with a burst now and then.",
	Means: "The knee is the size after which further places buy little; the sufficient size is the smallest that loses nobody. " +
		"Take the sufficient one where its waits are bearable. Where they are not, the recommendation is what answers most " +
		"requests before the deadline: often a shorter queue, which loses those whom nobody would have waited for.",
	Params: []lab.Param{
		lab.Text("from", sampleFrom, "a file: pcap, pcapng, or what porthole flows --json printed; "+sampleFrom+" makes one up", "the recording; --from FILE is the same", func(s string) error {
			if s == "" {
				return errors.New("no file; give a capture, or what porthole flows --json printed")
			}
			return nil
		}),
		lab.Text("port", busiest, "NUMBER/udp, NUMBER/tcp or "+busiest, "the port whose requests are played", checkPort),
		lab.Text("service", asRecorded, "a duration, exp(DURATION) or "+asRecorded, "how long the service takes over a request", func(s string) error {
			_, err := parseService(s)
			return err
		}),
		lab.Words("policy", policyNames(), policyNames(), "what the queue loses (UDP)"),
		lab.Duration("deadline", 100*time.Millisecond, time.Microsecond, time.Hour, "within which an answer is of use"),
		lab.Duration("target", demux.DefaultTarget, time.Microsecond, 10*time.Second, "CoDel's: the wait that it tolerates for good"),
		lab.Duration("interval", demux.DefaultInterval, time.Microsecond, time.Minute, "CoDel's: how long the queue has for coming below it"),
	},
	Columns: []lab.Column{
		{Name: "policy"}, {Name: "queue", Unit: "places"}, {Name: "lost", Unit: "requests"}, {Name: "lost", Unit: "%", Digits: 3},
		{Name: "median wait", Unit: "ms", Digits: 2}, {Name: "99th", Unit: "ms", Digits: 2}, {Name: "good answers", Unit: "%", Digits: 2}, {Name: "is"},
	},
	Takes: 4 * time.Second, QuickTakes: 3 * time.Second,
	Run: runWhatIf,
}

const (
	sampleFrom = "sample"
	busiest    = "busiest"
	asRecorded = "recorded"

	// limitPlaces is the most that a queue may have: demux's own memory has no more.
	limitPlaces = 32768
)

func checkPort(s string) error {
	number, proto, ok := strings.Cut(s, "/")
	var n int
	_, err := fmt.Sscanf(number, "%d", &n)
	if s != busiest && (!ok || err != nil || n < 1 || n > 65535 || proto != "tcp" && proto != "udp" || fmt.Sprint(n) != number) {
		return fmt.Errorf("%q is no port; want NUMBER/udp, NUMBER/tcp or %s", s, busiest)
	}
	return nil
}

// parseService reads a service time: a draw from it, or nil for what is recorded.
func parseService(s string) (func(*rand.Rand) time.Duration, error) {
	if s == asRecorded {
		return nil, nil
	}
	inner, exp := strings.CutPrefix(s, "exp(")
	if exp {
		inner, exp = strings.CutSuffix(inner, ")")
	}
	d, err := time.ParseDuration(inner)
	if err != nil || d < 0 || d > time.Hour || strings.HasPrefix(s, "exp(") && !exp {
		return nil, fmt.Errorf("%q is no service time; want a duration of up to 1h (2ms), exp(DURATION) or %s", s, asRecorded)
	}
	if !exp {
		return func(*rand.Rand) time.Duration { return d }, nil
	}
	return func(r *rand.Rand) time.Duration { return time.Duration(r.ExpFloat64() * float64(d)) }, nil
}

// whatCell is one row to be, and what it found.
type whatCell struct {
	policy  string
	size    int
	outcome outcome
	is      string
}

// tooFew is how many points of good answers are too few to choose another policy, or to
// lose anybody, for their sake.
const tooFew = 0.5

// best is the cell that answers most requests in time; among those that come close to
// it, the one that loses least, then the plainest policy, then the smallest.
func best(found []whatCell) (b *whatCell) {
	most := 0.0
	for i := range found {
		most = max(most, found[i].outcome.goodShare())
	}
	for i := range found { // tail drop first, then by size
		c := &found[i]
		if c.outcome.goodShare() >= most-tooFew && (b == nil || c.outcome.lost < b.outcome.lost) {
			b = c
		}
	}
	return b
}

func runWhatIf(ctx context.Context, r *lab.Run) error {
	rec, err := recorded(r)
	if err != nil {
		return err
	}
	all := make([]arrival, len(rec.Requests))
	work := time.Duration(0)
	for i, q := range rec.Requests {
		all[i] = arrival{int64(q.At), int64(q.Serve)}
		work += q.Serve
	}
	span := max(rec.Requests[len(all)-1].At, time.Microsecond)
	load := work.Seconds() / span.Seconds()
	for _, n := range rec.Notes {
		r.Note("%s", n)
	}
	what := "datagrams"
	if rec.TCP() {
		what = "connections"
	}
	r.Setup("%s: %d %s to %s in %s, mean service time %s, load %.2f", from(r), len(all), what, rec.Port,
		short(span), short(work/time.Duration(len(all))), load)

	full, err := playAt(ctx, r, rec, all, demux.TailDrop.String(), min(len(all), limitPlaces))
	if err != nil {
		return err
	}
	enough := max(full.high, 1) // what stood there at once when nobody was refused
	var cells []whatCell
	policies := r.Texts("policy")
	if rec.TCP() {
		policies = []string{demux.TailDrop.String()}
	}
	sizes := steps(1, min(max(enough+enough/4, 8), limitPlaces))
	if i, found := slices.BinarySearch(sizes, enough); !found {
		sizes = slices.Insert(sizes, i, enough)
	}
	for _, p := range policies {
		for _, n := range sizes {
			cells = append(cells, whatCell{policy: p, size: n})
		}
	}
	var found []whatCell
	err = lab.Cells(ctx, r, len(cells), func(ctx context.Context, i int) (c whatCell, err error) {
		c = cells[i]
		c.outcome, err = playAt(ctx, r, rec, all, c.policy, c.size)
		return c, err
	}, func(_ int, c whatCell) { found = append(found, c) })
	knee, recommended := mark(found, enough, full.lost == 0)
	for i := range found {
		c := &found[i]
		o := &c.outcome
		r.Row(c.policy, c.size, o.lost, o.lostShare(), o.wait(0.5), o.wait(0.99), o.goodShare(), c.is)
	}
	whatFigures(r, rec, found, knee, enough)
	if err != nil {
		return err
	}
	recommend(r, rec, recommended, knee, enough, load)
	return nil
}

// steps is numbers from low to high, each a third more than the one before.
func steps(low, high int) (all []int) {
	for n := low; n < high; n += max(n/3, 1) {
		all = append(all, n)
	}
	return append(all, high)
}

// recorded is the recording, with the service times that were asked for.
func recorded(r *lab.Run) (*recording.Recording, error) {
	serve, err := parseService(r.Text("service"))
	if err != nil {
		return nil, err
	}
	var rec *recording.Recording
	if r.Text("from") == sampleFrom {
		rec = sample(r)
	} else {
		port := r.Text("port")
		if port == busiest {
			port = ""
		}
		rec, err = recording.Read(r.Text("from"), port)
		switch {
		case errors.Is(err, recording.ErrNoService) && serve == nil:
			return nil, fmt.Errorf("%s: %s: %w; give it with --set service=2ms or service=exp(2ms)", from(r), rec.Port, err)
		case err != nil && !errors.Is(err, recording.ErrNoService):
			return nil, err
		}
	}
	if serve != nil {
		rng := r.Rand("service")
		for i := range rec.Requests {
			rec.Requests[i].Serve = serve(rng)
		}
	}
	return rec, nil
}

// from names the recording without the way to it, which is of one machine.
func from(r *lab.Run) string {
	s := r.Text("from")
	if s == sampleFrom {
		return "a made-up recording"
	}
	return s[strings.LastIndexByte(s, '/')+1:]
}

// sample is a minute of steady requests with a burst every few seconds.
func sample(r *lab.Run) *recording.Recording {
	rng := r.Rand("sample")
	all := poisson(rng, 0.5, float64(time.Minute))
	for at := 2 * time.Second; at < time.Minute; at += 4 * time.Second {
		for i := range 40 + rng.IntN(80) {
			all = append(all, arrival{int64(at + time.Duration(i)*20*time.Microsecond), int64(rng.ExpFloat64() * service)})
		}
	}
	slices.SortStableFunc(all, func(a, b arrival) int { return int(min(max(a.at-b.at, -1), 1)) })
	rec := &recording.Recording{Port: "53/udp"}
	for _, a := range all {
		rec.Requests = append(rec.Requests, recording.Request{At: time.Duration(a.at - all[0].at), Serve: time.Duration(a.serve)})
	}
	return rec
}

// playAt plays a recording once.
func playAt(ctx context.Context, r *lab.Run, rec *recording.Recording, all []arrival, policy string, size int) (outcome, error) {
	if rec.TCP() {
		return playDoor(ctx, size, all, r.Duration("deadline"))
	}
	d, _ := demux.ParseDiscipline(policy)
	p := demux.Policy{Discipline: d, Target: r.Duration("target"), Interval: r.Duration("interval")}
	return play(ctx, demux.Limits{Packets: size, Bytes: size * 4096}, p, all, r.Duration("deadline"))
}

// mark finds the knee of tail drop's loss, the sufficient size, and what is best, and
// writes so into their cells. The knee is where the curve, from one place to enough,
// is furthest below the straight line between its ends.
func mark(found []whatCell, enough int, can bool) (knee, recommended *whatCell) {
	var first, last *whatCell
	for i := range found {
		c := &found[i]
		if c.policy != demux.TailDrop.String() || c.size > enough {
			continue
		}
		if first == nil {
			first = c
		}
		last = c
	}
	furthest := 0.0
	for i := range found {
		c := &found[i]
		if first == nil || c.policy != first.policy || c.size > last.size || last.size == first.size {
			continue
		}
		x := float64(c.size-first.size) / float64(last.size-first.size)
		fall := first.outcome.lostShare() - last.outcome.lostShare()
		if fall <= 0 {
			break
		}
		y := (first.outcome.lostShare() - c.outcome.lostShare()) / fall
		if y-x > furthest {
			furthest, knee = y-x, c
		}
	}
	say := func(c *whatCell, word string) {
		if c == nil {
			return
		}
		if c.is != "" {
			word = c.is + ", " + word
		}
		c.is = word
	}
	say(knee, "knee")
	if last != nil && last.size == enough && can {
		say(last, "sufficient")
	}
	recommended = best(found)
	say(recommended, "best")
	return knee, recommended
}

func whatFigures(r *lab.Run, rec *recording.Recording, found []whatCell, knee *whatCell, enough int) {
	x := lab.Axis{Label: "queue size", Unit: "places", Log: true}
	loss := lab.Figure{
		Name: "loss", Title: "What a queue of " + rec.Port + " would have lost",
		X: x, Y: lab.Axis{Label: "lost", Unit: "% of requests"},
		Caption: "The recorded requests, played again at each size. Beyond the knee further places buy little.",
	}
	wait := lab.Figure{
		Name: "wait", Title: "How long the answered ones would have waited",
		X: x, Y: lab.Axis{Label: "99th percentile of the wait", Unit: "ms"},
	}
	good := lab.Figure{
		Name: "good", Title: fmt.Sprintf("Answers within %v", r.Duration("deadline")),
		X: x, Y: lab.Axis{Label: "good answers", Unit: "% of requests"},
	}
	for g, d := range demux.Disciplines() {
		l, w, k := lab.Series{Name: d.String(), Kind: lab.Measured, Group: g}, lab.Series{Name: d.String(), Kind: lab.Measured, Group: g}, lab.Series{Name: d.String(), Kind: lab.Measured, Group: g}
		for i := range found {
			c := &found[i]
			if c.policy != d.String() {
				continue
			}
			at := float64(c.size)
			l.Points = append(l.Points, lab.Point{X: at, Y: c.outcome.lostShare()})
			w.Points = append(w.Points, lab.Point{X: at, Y: ms(c.outcome.wait(0.99))})
			k.Points = append(k.Points, lab.Point{X: at, Y: c.outcome.goodShare()})
		}
		if len(l.Points) > 0 {
			loss.Series, wait.Series, good.Series = append(loss.Series, l), append(wait.Series, w), append(good.Series, k)
		}
	}
	if knee != nil {
		loss.Marks = append(loss.Marks, lab.Mark{X: float64(knee.size), Label: fmt.Sprintf("knee: %d", knee.size)})
	}
	loss.Marks = append(loss.Marks, lab.Mark{X: float64(enough), Label: fmt.Sprintf("sufficient: %d", enough)})
	r.Figure(loss)
	r.Figure(wait)
	r.Figure(good)
}

// recommend says what to set, and why.
func recommend(r *lab.Run, rec *recording.Recording, best, knee *whatCell, enough int, load float64) {
	set := fmt.Sprintf("queue=%d", best.size)
	if rec.TCP() {
		set = fmt.Sprintf("accept-queue=%d", best.size-1) // N lets N+1 wait
	} else if best.policy != demux.TailDrop.String() {
		set += " policy=" + best.policy
	}
	o := &best.outcome
	s := fmt.Sprintf("`porthole set %s %s` would have served it best: of %d requests %d lost, 99 %% of the others waited less than %s, and %.1f %% were answered within %v",
		rec.Port, set, o.arrived, o.lost, short(orZero(o.wait(0.99))), o.goodShare(), r.Duration("deadline"))
	switch {
	case best.size != enough || o.lost > 0:
		if enough < limitPlaces {
			s += fmt.Sprintf("; %d places lose nobody", enough)
		} else {
			s += "; no size that can be set loses nobody"
		}
	case knee != nil && knee.size < best.size && knee.outcome.lostShare() < 10:
		s += fmt.Sprintf("; already %d (the knee) lose only %.2f %%", knee.size, knee.outcome.lostShare())
	}
	if load > 1 {
		s += fmt.Sprintf(". More came than the service can do (load %.2f): should it go on like that, no size helps; the service has to become faster, or %.0f %% must go", load, 100*(1-1/load))
	}
	r.Saw("%s.", s)
}

func orZero(d any) time.Duration {
	v, _ := d.(time.Duration)
	return v
}

// short is a duration with three digits.
func short(d time.Duration) string {
	for _, u := range []time.Duration{time.Second, time.Millisecond, time.Microsecond} {
		if d >= 100*u {
			return d.Round(u).String()
		}
		if d >= 10*u {
			return d.Round(u / 10).String()
		}
		if d >= u {
			return d.Round(u / 100).String()
		}
	}
	return d.String()
}
