package model

import (
	"context"
	"slices"
	"time"

	"porthole/demux"
)

// arrival is one request that comes, and how long its answer will take. Both belong to
// the request: whatever queue it meets, they are the same.
type arrival struct {
	at, serve int64 // ns
}

// outcome is what became of a play's arrivals.
type outcome struct {
	arrived int
	lost    int
	waits   []int64 // of those that were served, from arrival to the begin of service, ascending
	good    int     // of those, answered before the deadline
	high    int     // most that stood in the queue at once
}

func (o *outcome) lostShare() float64 { return 100 * float64(o.lost) / float64(max(o.arrived, 1)) }
func (o *outcome) goodShare() float64 { return 100 * float64(o.good) / float64(max(o.arrived, 1)) }

// wait is a quantile of the waits, or nothing when nobody was served.
func (o *outcome) wait(q float64) any {
	if len(o.waits) == 0 {
		return nil
	}
	return time.Duration(o.waits[min(int(q*float64(len(o.waits))), len(o.waits)-1)])
}

// play lets the arrivals, in order of time, come to a queue with one server, until the
// last that is not lost has been answered.
func play(ctx context.Context, limits demux.Limits, policy demux.Policy, all []arrival, deadline time.Duration) (outcome, error) {
	q := newQueue(limits, policy)
	o, err := serve(ctx, all, deadline,
		func(now int64, i int) { q.arrive(now, uint64(i)) },
		func(now int64) (int, bool) {
			_, number, ok := q.take(now)
			return int(number), ok
		})
	o.lost, o.high = int(q.lost()), q.t.Port(q.port).High
	return o, err
}

// playDoor is play for connections at a TCP port's accept queue with so many places:
// the service takes one, works on it, takes the next. Who is refused gives up.
func playDoor(ctx context.Context, places int, all []arrival, deadline time.Duration) (outcome, error) {
	d := newDoor(places)
	defer d.d.Close()
	waiting, refused := 0, 0
	o, err := serve(ctx, all, deadline,
		func(now int64, i int) {
			if d.connect(now, i) {
				waiting++
			} else {
				refused++
			}
		},
		func(int64) (int, bool) {
			if waiting == 0 {
				return 0, false
			}
			waiting--
			return d.accept().(int), true
		})
	o.lost, o.high = refused, d.d.Stats().HighWaiting
	return o, err
}

// serve brings the arrivals to a queue and takes them out as its only server does.
func serve(ctx context.Context, all []arrival, deadline time.Duration, arrive func(now int64, i int), take func(now int64) (i int, ok bool)) (outcome, error) {
	o := outcome{arrived: len(all)}
	free, busy := int64(0), false
	next := func(now int64) { // the server takes the next, if there is one
		var i int
		if i, busy = take(now); !busy {
			return
		}
		a := all[i]
		free = now + a.serve
		o.waits = append(o.waits, now-a.at)
		if free-a.at <= int64(deadline) {
			o.good++
		}
	}
	for i := range all {
		for busy && free <= all[i].at {
			next(free)
		}
		arrive(all[i].at, i)
		if !busy {
			next(all[i].at)
		}
		if i%4096 == 0 && ctx.Err() != nil {
			return o, ctx.Err()
		}
	}
	for busy {
		next(free)
	}
	slices.Sort(o.waits)
	return o, nil
}
