package model

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"porthole/cmd/porthole/internal/lab"
	"porthole/demux"
)

// QueuePolicy holds the policies of a UDP port's queue against each other.
var QueuePolicy = lab.Experiment{
	Name:     "queue-policy",
	Question: "When more comes than a service can answer, whom should its queue lose?",
	Kind:     lab.Model,
	About: "The product's own port queue on a virtual clock, with each of its policies: tail drop loses the newest, head drop the " +
		"oldest, CoDel (RFC 8289) whoever has waited too long while all do. Three kinds of traffic: steady Poisson arrivals, the same " +
		"mean load in bursts, and an overload that does not react to losses, as datagrams do not. Service times are exponential " +
		"with a mean of 1 ms. An answer is good when it comes before the deadline, at which a client has stopped waiting. All " +
		"policies and sizes see the very same requests.",
	Means: "A queue is for bursts: give it the places that a burst needs, and no policy has anything to lose. Under lasting overload a " +
		"long queue with tail drop answers everything too late, so that its goodput falls to nothing although the service never rests; " +
		"head drop is a little better; a queue no longer than the deadline allows is best. CoDel keeps a long queue short when the " +
		"overload is slight. Against a heavy one it can do little: it was made for senders that slow down when they lose.",
	Params: []lab.Param{
		lab.Ints("queue", []int{8, 16, 32, 64, 128, 256, 512, 1024}, 1, 32768, "packets", "places in the queue").
			WithQuick([]int{16, 128, 1024}),
		lab.Words("policy", policyNames(), policyNames(), "what the queue loses"),
		lab.Words("traffic", []string{"steady", "bursts", "overload"}, []string{"steady", "bursts", "overload"}, "how requests come"),
		lab.Float("load", 0.8, 0.05, 0.99, "requests per service time", "mean load of steady and bursts"),
		lab.Floats("overload", []float64{1.05, 1.3}, 1, 10, "requests per service time", "mean loads of overload"),
		lab.Int("burst", 200, 2, 10000, "requests", "that come at once in bursts; the rest comes steadily in between"),
		lab.Duration("every", 400*time.Millisecond, time.Millisecond, time.Minute, "between bursts"),
		lab.Duration("deadline", 50*time.Millisecond, time.Millisecond, time.Minute, "within which an answer is of use"),
		lab.Duration("target", demux.DefaultTarget, time.Microsecond, 10*time.Second, "CoDel's: the wait that it tolerates for good"),
		lab.Duration("interval", demux.DefaultInterval, time.Microsecond, time.Minute, "CoDel's: how long the queue has for coming below it"),
		lab.Duration("for", 2*time.Minute, time.Second, 24*time.Hour, "how long requests come, on the virtual clock").
			WithQuick(20 * time.Second),
	},
	Columns: []lab.Column{
		{Name: "traffic"}, {Name: "policy"}, {Name: "queue", Unit: "packets"}, {Name: "load", Digits: 2},
		{Name: "lost", Unit: "%", Digits: 2}, {Name: "median wait", Unit: "ms", Digits: 1}, {Name: "99th", Unit: "ms", Digits: 1},
		{Name: "good answers", Unit: "% of requests", Digits: 2},
	},
	Takes: 5 * time.Second, QuickTakes: time.Second,
	Run: runQueuePolicy,
}

func policyNames() (names []string) {
	for _, d := range demux.Disciplines() {
		names = append(names, d.String())
	}
	return names
}

// policyCell is one row to be, and what it found.
type policyCell struct {
	traffic traffic
	policy  string
	size    int
	outcome outcome
}

// traffic is one kind of requests with its mean load.
type traffic struct {
	kind string
	load float64
}

func (t traffic) String() string { return fmt.Sprintf("%s %g", t.kind, t.load) }

// traffics are those that were asked for.
func traffics(r *lab.Run) (all []traffic) {
	for _, kind := range r.Texts("traffic") {
		if kind != "overload" {
			all = append(all, traffic{kind, r.Float("load")})
			continue
		}
		for _, load := range r.Floats("overload") {
			all = append(all, traffic{kind, load})
		}
	}
	return all
}

func runQueuePolicy(ctx context.Context, r *lab.Run) error {
	requests := map[traffic][]arrival{}
	var cells []policyCell
	for _, t := range traffics(r) {
		requests[t] = t.requests(r)
		for _, p := range r.Texts("policy") {
			for _, n := range r.Ints("queue") {
				cells = append(cells, policyCell{traffic: t, policy: p, size: n})
			}
		}
	}
	var found []policyCell
	err := lab.Cells(ctx, r, len(cells), func(ctx context.Context, i int) (c policyCell, err error) {
		c = cells[i]
		d, _ := demux.ParseDiscipline(c.policy)
		policy := demux.Policy{Discipline: d, Target: r.Duration("target"), Interval: r.Duration("interval")}
		c.outcome, err = play(ctx, demux.Limits{Packets: c.size, Bytes: c.size * 4096}, policy, requests[c.traffic], r.Duration("deadline"))
		return c, err
	}, func(_ int, c policyCell) {
		found = append(found, c)
		o := &c.outcome
		r.Row(c.traffic.kind, c.policy, c.size, c.traffic.load, o.lostShare(), o.wait(0.5), o.wait(0.99), o.goodShare())
	})
	policyFigures(r, found)
	if err != nil {
		return err
	}
	sawPolicy(r, found)
	return nil
}

// requests are those of one kind of traffic.
func (t traffic) requests(r *lab.Run) []arrival {
	rng := r.Rand(t.kind, t.load)
	until := float64(r.Duration("for"))
	if t.kind != "bursts" {
		return poisson(rng, t.load, until)
	}
	every, n := float64(r.Duration("every")), r.Int("burst")
	inBursts := float64(n) * service / every
	if inBursts > t.load {
		r.Note("the bursts alone are a load of %.2f, more than load=%g: nothing comes in between", inBursts, t.load)
	}
	all := poisson(rng, t.load-inBursts, until)
	for begin := every / 2; begin < until; begin += every {
		for i := range n {
			at := begin + float64(i)*float64(apart)
			all = append(all, arrival{at: int64(at), serve: int64(rng.ExpFloat64() * service)})
		}
	}
	slices.SortStableFunc(all, func(a, b arrival) int { return cmp.Compare(a.at, b.at) })
	return all
}

// apart is the time between two requests of a burst, as a fast link hands them over.
const apart = 10 * time.Microsecond

func poisson(rng *rand.Rand, load, until float64) (all []arrival) {
	if load <= 0 {
		return nil
	}
	for at := rng.ExpFloat64() * service / load; at < until; at += rng.ExpFloat64() * service / load {
		all = append(all, arrival{at: int64(at), serve: int64(rng.ExpFloat64() * service)})
	}
	return all
}

// policyFigures draws goodput and wait over the queue's size, a series a policy.
func policyFigures(r *lab.Run, found []policyCell) {
	for _, t := range traffics(r) {
		if t.kind == "steady" {
			continue // all the same: the table says so
		}
		what := fmt.Sprintf("%s, load %g", t.kind, t.load)
		good := lab.Figure{
			Name: fmt.Sprintf("good-%s-%g", t.kind, t.load), Title: "Answers before the deadline: " + what,
			X: lab.Axis{Label: "queue size", Unit: "packets", Log: true},
			Y: lab.Axis{Label: "good answers", Unit: "% of requests", Min: 0, Max: 101},
		}
		wait := lab.Figure{
			Name: fmt.Sprintf("wait-%s-%g", t.kind, t.load), Title: "Wait of what is answered: " + what,
			X: lab.Axis{Label: "queue size", Unit: "packets", Log: true},
			Y: lab.Axis{Label: "99th percentile of the wait", Unit: "ms", Log: true},
		}
		if t.kind == "overload" {
			good.Caption = fmt.Sprintf("The line is the most that one server can answer at load %g, 1/load.", t.load)
			most := []lab.Point{}
			for _, n := range r.Ints("queue") {
				most = append(most, lab.Point{X: float64(n), Y: 100 / t.load})
			}
			good.Series = append(good.Series, lab.Series{Name: "all the server can do", Kind: lab.Theory, Group: 4, Points: most})
		} else {
			good.Caption = "A queue that holds a burst loses nothing, but what stands at its end may be answered too late."
		}
		for g, p := range r.Texts("policy") {
			gs := lab.Series{Name: p, Kind: lab.Measured, Group: g}
			ws := lab.Series{Name: p, Kind: lab.Measured, Group: g}
			for i := range found {
				c := &found[i]
				if c.traffic != t || c.policy != p {
					continue
				}
				gs.Points = append(gs.Points, lab.Point{X: float64(c.size), Y: c.outcome.goodShare()})
				if w, ok := c.outcome.wait(0.99).(time.Duration); ok {
					ws.Points = append(ws.Points, lab.Point{X: float64(c.size), Y: float64(w) / float64(time.Millisecond)})
				}
			}
			good.Series, wait.Series = append(good.Series, gs), append(wait.Series, ws)
		}
		r.Figure(good)
		r.Figure(wait)
	}
}

// sawPolicy compares the policies at the longest queue under the heaviest overload.
func sawPolicy(r *lab.Run, found []policyCell) {
	at := func(d demux.Discipline) *policyCell {
		var c *policyCell
		for i := range found {
			f := &found[i]
			if f.traffic.kind != "overload" || f.policy != d.String() {
				continue
			}
			if c == nil || f.traffic.load > c.traffic.load || f.traffic.load == c.traffic.load && f.size > c.size {
				c = f
			}
		}
		return c
	}
	tail, head, codel := at(demux.TailDrop), at(demux.HeadDrop), at(demux.CoDel)
	if tail == nil || head == nil || codel == nil {
		r.Saw("%d combinations of traffic, policy and size were played; the table compares them.", len(found))
		return
	}
	r.Saw("At load %g with %d places, tail drop answered %.0f %% of the requests before the deadline of %v, head drop %.0f %% and CoDel %.0f %%; the median waits were %.0f, %.0f and %.0f ms.",
		tail.traffic.load, tail.size, tail.outcome.goodShare(), r.Duration("deadline"), head.outcome.goodShare(), codel.outcome.goodShare(),
		ms(tail.outcome.wait(0.5)), ms(head.outcome.wait(0.5)), ms(codel.outcome.wait(0.5)))
}

func ms(d any) float64 {
	if d, ok := d.(time.Duration); ok {
		return float64(d) / float64(time.Millisecond)
	}
	return 0
}
