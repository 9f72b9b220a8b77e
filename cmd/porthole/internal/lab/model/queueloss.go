package model

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"porthole/cmd/porthole/internal/lab"
	"porthole/demux"
)

// service is the mean service time of the model's server, 1 ms of the virtual clock.
const service = float64(time.Millisecond)

// What is held against theory: capacities up to promised, with at least enough
// arrivals. Larger queues near load 1 need more than are worth waiting for.
const (
	promised = 64
	enough   = 500_000 // arrivals
)

// QueueLoss holds one queue against the textbook.
var QueueLoss = lab.Experiment{
	Name:     "queue-loss",
	Question: "How much does a queue of a given size lose, and what does a longer one cost?",
	Kind:     lab.Model,
	About: "Poisson arrivals at one server with exponential or fixed service times. udp drives the product's own port queue " +
		"(packets are classified, admitted, popped); tcp drives the door's accept queue with whole handshakes of clients " +
		"that give up when they are refused. Beside them stands theory: M/M/1/K and M/D/1/K, where K is the queue's capacity " +
		"and one in service. The clock is virtual, so an hour takes a moment and a seed gives the same table again.",
	Means: "Below load 1 a queue of some tens of places loses next to nothing, and more places cost nothing either. " +
		"Above load 1 no size helps: what is lost tends to 1 - 1/load, and every further place only adds delay. " +
		"Size a queue for bursts, never for overload.",
	Params: []lab.Param{
		lab.Ints("capacity", []int{1, 4, 16, 64, 256, 1024}, 1, 1024, "places", "places in the queue, beside the one in service").
			WithQuick([]int{1, 8, 64}),
		lab.Floats("load", []float64{0.5, 0.8, 0.95, 1, 1.2, 1.5}, 0.05, 10, "arrivals per service time", "offered load").
			WithQuick([]float64{0.5, 0.8, 1.2}),
		lab.Words("law", []string{"exp", "fixed"}, []string{"exp", "fixed"}, "distribution of the service time"),
		lab.Words("queue", []string{"udp", "tcp"}, []string{"udp", "tcp"}, "what is driven: a UDP port's queue, or a TCP port's accept queue").
			WithQuick([]string{"udp"}),
		lab.Int("arrivals", 500_000, 1000, 100_000_000, "arrivals", "of each row; four times as many where the capacity is 32 to 64, since a longer queue forgets more slowly"),
	},
	Columns: []lab.Column{
		{Name: "queue"}, {Name: "law"}, {Name: "capacity", Unit: "places"}, {Name: "load", Digits: 2},
		{Name: "lost", Unit: "%", Digits: 3}, {Name: "theory", Unit: "%", Digits: 3},
		{Name: "wait", Unit: "service times", Digits: 3}, {Name: "theory", Unit: "service times", Digits: 3},
		{Name: "within"},
	},
	Takes: 40 * time.Second, QuickTakes: 3 * time.Second,
	Run: runQueueLoss,
}

// lossCell is one row to be.
type lossCell struct {
	queue, law string
	capacity   int
	load       float64
}

// lossFound is what one row found.
type lossFound struct {
	lossCell
	got, want station
}

// within reports whether theory was met as promised: loss within 0.002 or 5 %,
// whichever is more, wait within 5 %.
func (f *lossFound) within() bool {
	near := func(got, want, least float64) bool { return math.Abs(got-want) <= max(least, 0.05*want) }
	return near(f.got.loss, f.want.loss, 0.002) && near(f.got.wait, f.want.wait, 1e-9)
}

func runQueueLoss(ctx context.Context, r *lab.Run) error {
	var cells []lossCell
	for _, q := range r.Texts("queue") {
		for _, law := range r.Texts("law") {
			for _, n := range r.Ints("capacity") {
				for _, load := range r.Floats("load") {
					cells = append(cells, lossCell{q, law, n, load})
				}
			}
		}
	}
	var found []lossFound
	kept, held := 0, 0
	err := lab.Cells(ctx, r, len(cells), func(ctx context.Context, i int) (lossFound, error) {
		return measureLoss(ctx, r, cells[i])
	}, func(_ int, f lossFound) {
		found = append(found, f)
		within := any(nil) // no promise
		if f.capacity <= promised {
			held++
			if within = f.within(); f.within() {
				kept++
			}
		}
		r.Row(f.queue, f.law, f.capacity, f.load, 100*f.got.loss, 100*f.want.loss, f.got.wait, f.want.wait, within)
	})
	lossFigures(r, found)
	if err != nil {
		return err
	}
	if r.Int("arrivals") < enough {
		r.Note("with fewer than %d arrivals a row, chance alone may take it further from theory than 5 %%", enough)
		sawLoss(r, found)
		return nil
	}
	r.Check(kept == held, "loss within max(0.2 points, 5 %%) of theory and wait within 5 %% in each of the %d rows of up to %d places", held, promised)
	sawLoss(r, found)
	return nil
}

// measureLoss drives one queue for a while.
func measureLoss(ctx context.Context, r *lab.Run, c lossCell) (lossFound, error) {
	f := lossFound{lossCell: c, want: mm1k(c.load, c.capacity+1)}
	rng := r.Rand(c.queue, c.law, c.capacity, c.load)
	serve := func() float64 { return rng.ExpFloat64() * service }
	if c.law == "fixed" {
		f.want = md1k(c.load, c.capacity+1)
		serve = func() float64 { return service }
	}
	n := r.Int("arrivals")
	if c.capacity >= 32 && c.capacity <= promised {
		n *= 4
	}
	drive := driveUDP
	if c.queue == "tcp" {
		drive = driveTCP
	}
	var err error
	f.got, err = drive(ctx, rng, c.load, c.capacity, n, serve)
	return f, err
}

// driveUDP drives a port's queue: the server takes the oldest datagram, works, and
// takes the next. The first twentieth is not counted.
func driveUDP(ctx context.Context, rng *rand.Rand, load float64, capacity, n int, serve func() float64) (station, error) {
	q := newQueue(demux.Limits{Packets: capacity, Bytes: capacity * 4096}, demux.Policy{})
	between := service / load
	arrives, free, busy := rng.ExpFloat64()*between, 0.0, false
	warm := n / 20
	var lost, served uint64
	var waited float64
	for i := 0; i < n; {
		if busy && free <= arrives {
			if came, number, ok := q.take(int64(free)); ok {
				if number >= uint64(warm) {
					waited += free - float64(came)
					served++
				}
				free += serve()
			} else {
				busy = false
			}
			continue
		}
		if i == warm {
			lost = q.lost()
		}
		q.arrive(int64(arrives), uint64(i))
		if !busy {
			if _, number, ok := q.take(int64(arrives)); ok {
				if number >= uint64(warm) {
					served++
				}
				free, busy = arrives+serve(), true
			}
		}
		arrives += rng.ExpFloat64() * between
		if i++; i%4096 == 0 && ctx.Err() != nil {
			return station{}, ctx.Err()
		}
	}
	return station{loss: float64(q.lost()-lost) / float64(n-warm), wait: waited / float64(max(served, 1)) / service}, nil
}

// lossFigures draws loss and wait over capacity, a series a load.
func lossFigures(r *lab.Run, found []lossFound) {
	for _, law := range r.Texts("law") {
		model, theory := "M/M/1/K", mm1k
		if law == "fixed" {
			model, theory = "M/D/1/K", md1k
		}
		loss := lab.Figure{
			Name: "loss-" + law, Title: "What is lost (" + law + " service)",
			X:       lab.Axis{Label: "queue capacity", Unit: "places", Log: true},
			Y:       lab.Axis{Label: "lost", Unit: "% of arrivals", Log: true, Min: 0.01, Max: 100},
			Caption: "Lines are " + model + ", markers what the queue did. Below load 1 loss falls away with the size; above it stays at 1 - 1/load. What is below 0.01 % is drawn there.",
		}
		wait := lab.Figure{
			Name: "wait-" + law, Title: "What it costs (" + law + " service)",
			X:       lab.Axis{Label: "queue capacity", Unit: "places", Log: true},
			Y:       lab.Axis{Label: "mean wait", Unit: "service times", Log: true, Min: 0.1},
			Caption: "Lines are " + model + ", markers what the queue did. Above load 1 each further place is one more service time to wait.",
		}
		for g, load := range r.Floats("load") {
			var l, w, lt, wt []lab.Point
			for _, f := range found {
				if f.law == law && f.load == load && f.queue == r.Texts("queue")[0] {
					x := float64(f.capacity)
					l = append(l, lab.Point{X: x, Y: 100 * f.got.loss})
					w = append(w, lab.Point{X: x, Y: f.got.wait})
				}
			}
			for _, n := range line(slices.Min(r.Ints("capacity")), slices.Max(r.Ints("capacity"))) {
				s := theory(load, n+1)
				lt = append(lt, lab.Point{X: float64(n), Y: 100 * s.loss})
				wt = append(wt, lab.Point{X: float64(n), Y: s.wait})
			}
			name := fmt.Sprintf("load %g", load)
			loss.Series = append(loss.Series, lab.Series{Name: name, Kind: lab.Measured, Group: g, Points: l},
				lab.Series{Name: name + ", " + model, Kind: lab.Theory, Group: g, Points: lt})
			wait.Series = append(wait.Series, lab.Series{Name: name, Kind: lab.Measured, Group: g, Points: w},
				lab.Series{Name: name + ", " + model, Kind: lab.Theory, Group: g, Points: wt})
		}
		r.Figure(loss)
		r.Figure(wait)
	}
}

// line is numbers from low to high, close enough together for a curve.
func line(low, high int) (all []int) {
	for n := low; n < high; n += max(n/8, 1) {
		all = append(all, n)
	}
	return append(all, high)
}

// sawLoss says what the largest load shows between the smallest and largest queue.
func sawLoss(r *lab.Run, found []lossFound) {
	var small, large *lossFound
	for i := range found {
		f := &found[i]
		if f.queue != found[0].queue || f.law != found[0].law {
			continue
		}
		if small == nil || f.load > small.load || f.load == small.load && f.capacity < small.capacity {
			small = f
		}
		if large == nil || f.load > large.load || f.load == large.load && f.capacity > large.capacity {
			large = f
		}
	}
	switch {
	case large == nil:
	case large.load > 1 && large.capacity > small.capacity:
		r.Saw("At load %g a queue of %d places lost %.1f %% and one of %d lost %.1f %% (1 - 1/load is %.1f %%), while the wait grew from %.1f to %.0f service times.",
			large.load, small.capacity, 100*small.got.loss, large.capacity, 100*large.got.loss, 100*(1-1/large.load), small.got.wait, large.got.wait)
	default:
		r.Saw("At load %g a queue of %d places lost %.2f %% with a mean wait of %.2f service times; theory says %.2f %% and %.2f.",
			large.load, large.capacity, 100*large.got.loss, large.got.wait, 100*large.want.loss, large.want.wait)
	}
}
