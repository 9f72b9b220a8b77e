package flow

import (
	"math"
	"slices"
	"time"
)

// wakeLatency is below what a service that stood idle needs to take a connection.
const wakeLatency = time.Millisecond

// service is a server: the k-th thing is taken before[k] after it came and the server
// was free, and then it is busy for after[k]. All of these are times that it was not
// held back.
type service struct {
	holds  holds
	free   int64 // from when on it takes anything
	before []int64
	after  []int64
	usual  [2]int64 // before and after, beyond those
	never  bool     // nothing was ever taken
}

// holds are when accept=never held a service back, oldest first.
type holds []struct{ from, to int64 }

// free is how much of the time before t the service was not held back.
func (h holds) free(t int64) int64 {
	u := t
	for _, x := range h {
		if t > x.from {
			u -= min(t, x.to) - x.from
		}
	}
	return u
}

// at is when that much of the time has passed, and the service is free to take
// something: never, while it is held back until the end.
func (h holds) at(free int64) int64 {
	for _, x := range h {
		if free < x.from {
			break
		}
		if x.to == math.MaxInt64 {
			return x.to
		}
		free += x.to - x.from
	}
	return free
}

func (s *service) at(k int) (before, after int64) {
	before, after = s.usual[0], s.usual[1]
	if k < len(s.before) {
		before = s.before[k]
	}
	if k < len(s.after) {
		after = s.after[k]
	}
	return before, after
}

// departure is one thing taken: it had come at and was taken at. The server had been
// idle before, since a time, or found it when it looked.
type departure struct {
	came, taken int64
	idle        bool
	since       int64
}

// departures collects them from a record, in its order.
type departures struct {
	all   []departure
	idle  bool
	since int64
	woken bool // something came since it was idle, first at
	woke  int64
	told  bool
	end   int64 // of the record
	holds holds
}

func newDepartures(rec record) departures {
	d := departures{told: rec.told, end: rec.until}
	if rec.held && len(rec.events) > 0 {
		d.hold(event{at: rec.events[0].at, kind: evHeld})
	}
	return d
}

// hold tells that the service is held back from now on, or no longer.
func (d *departures) hold(e event) {
	n := len(d.holds)
	open := n > 0 && d.holds[n-1].to == math.MaxInt64
	switch {
	case e.kind == evHeld && !open:
		d.holds = append(d.holds, struct{ from, to int64 }{e.at, math.MaxInt64})
	case e.kind != evHeld && open:
		d.holds[n-1].to = e.at
	}
}

// came tells of something that was queued. What comes first wakes an idle service,
// though it may be dropped from the queue before it is taken.
func (d *departures) came(at int64) {
	if d.idle && !d.woken {
		d.woken, d.woke = true, at
	}
}

func (d *departures) add(e event) {
	if e.kind == evIdle {
		if !d.idle {
			d.since = e.at
		}
		d.idle, d.woken = true, false
		return
	}
	came := e.at - max(e.waited, 0)
	if d.woken {
		came = d.woke
	}
	d.all = append(d.all, departure{came, e.at, d.idle, d.since})
	d.idle, d.woken = false, false
}

// service finds what kind of server took those. When it says when it is idle, all is
// known. Else: one that waits before it takes (service-delay, as a rule) lets each
// thing wait for the same time once it is first; another is busy with each thing after
// it took it. The first kind is believed when all of the record agrees with it, things
// that came to an idle server among them; else the second, which needs the larger
// queue.
func (ds *departures) service() service {
	for _, t := range []*int64{&ds.since, &ds.woke, &ds.end} {
		*t = ds.holds.free(*t)
	}
	for i := range ds.all {
		x := &ds.all[i]
		x.came, x.taken, x.since = ds.holds.free(x.came), ds.holds.free(x.taken), ds.holds.free(x.since)
	}
	s := ds.unheld()
	s.holds = ds.holds
	return s
}

// unheld is what kind of server it is when nothing holds it back.
func (ds *departures) unheld() service {
	d := ds.all
	if len(d) == 0 {
		return service{never: true}
	}
	if ds.told {
		return ds.toldService()
	}
	if s, ok := newDelay(d); ok {
		return s
	}
	s := service{free: d[0].came, before: make([]int64, 1, len(d))}
	if wait := d[0].taken - d[0].came; wait > int64(wakeLatency) {
		s.free = d[0].taken
	} else {
		s.before[0] = wait
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
		s.after, idle = append(s.after, gap), append(idle, !isBusy)
	}
	s.usual[1] = median(busy)
	for i := range s.after {
		wake := int64(0)
		if idle[i] {
			s.after[i] = min(s.after[i], s.usual[1])
			wake = d[i+1].taken - d[i+1].came
		}
		s.before = append(s.before, wake)
	}
	if len(busy) == 0 {
		s.usual[0] = median(slices.Clone(s.before))
	}
	return s
}

// toldService is of a server that says when it is idle.
func (ds *departures) toldService() service {
	d := ds.all
	s := service{free: d[0].taken}
	if d[0].idle {
		s.free = min(d[0].since, d[0].came)
	}
	var costs []int64
	for i, x := range d {
		before, after := int64(0), int64(0)
		if x.idle {
			before = x.taken - max(x.came, x.since)
		}
		s.before = append(s.before, before)
		switch {
		case i == 0:
			continue
		case x.idle:
			after = max(x.since-d[i-1].taken, 0)
		default:
			after = x.taken - d[i-1].taken
		}
		s.after = append(s.after, after)
		costs = append(costs, before+after)
	}
	if last := d[len(d)-1]; ds.idle {
		s.after = append(s.after, max(ds.since-last.taken, 0))
		costs = append(costs, s.after[len(s.after)-1])
	}
	s.usual[1] = median(costs)
	// What it does when the record ends has lasted until then at least.
	switch busy := ds.end - d[len(d)-1].taken; {
	case !ds.idle:
		s.after = append(s.after, max(busy, s.usual[1]))
	case ds.woken:
		s.before = append(s.before, ds.end-ds.woke)
	}
	return s
}

// newDelay is the first kind.
func newDelay(d []departure) (s service, ok bool) {
	last, idle := d[0].came, 0
	for _, x := range d {
		if x.came >= last {
			idle++
		}
		s.before = append(s.before, x.taken-max(x.came, last))
		last = x.taken
	}
	s.free = d[0].came
	s.usual[0] = median(slices.Clone(s.before))
	for _, b := range s.before {
		if diff := b - s.usual[0]; max(diff, -diff) > s.usual[0]/10 {
			return s, false
		}
	}
	return s, idle > 1 && s.usual[0] > int64(wakeLatency)
}

func median(v []int64) int64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[len(v)/2]
}
