package rig

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"sync"
	"time"

	"porthole/cmd/porthole/internal/lab"
	"porthole/cmd/porthole/internal/pause"
)

// Isolation floods one service and asks another.
var Isolation = lab.Experiment{
	Name:     "isolation",
	Question: "What does a flood of one port cost the clients of another, with a queue for each and with one for both?",
	Kind:     lab.Rig,
	Kernel:   true,
	About: "Two services: one works a while on each datagram and is offered a load up to several times what it can do; the other " +
		"answers at once and is asked at a steady rate. First each has a port, and so a queue, of its own; then both stand behind " +
		"one port with a queue as large as the two together, from which one loop takes in order. The line is what a shared queue " +
		"must give: above load 1 it admits 1/load of whatever comes, and what it admits waits for a whole queue of work. Both " +
		"arrangements and both servers run at the same time, on ports of their own. The kernel's queues are in bytes, as many as " +
		"these datagrams cost it (832 each).",
	Means: "Who shares a queue shares its losses and its delay, in proportion to nothing but what arrives. A queue for each port makes " +
		"an overload somebody else's problem. It does not give back the processor time that the flood costs.",
	Params: []lab.Param{
		lab.Floats("load", []float64{0, 0.5, 0.9, 1.2, 2, 4}, 0, 50, "times what the flooded service can do", "offered to it").
			WithQuick([]float64{0, 0.5, 2, 4}),
		lab.Duration("work", time.Millisecond, 100*time.Microsecond, 100*time.Millisecond, "on each datagram of the flood"),
		lab.Int("queue", 64, 1, 8192, "packets", "of each service; twice that where they share one"),
		lab.Float("rate", 200, 1, 2000, "requests/s", "to the other service"),
		lab.Duration("over", 1500*time.Millisecond, 100*time.Millisecond, time.Minute, "how long each load lasts").WithQuick(700 * time.Millisecond),
	},
	Columns: []lab.Column{
		{Name: "server"}, {Name: "queues"}, {Name: "load", Unit: "of capacity", Digits: 2}, {Name: "flood", Unit: "datagrams/s"},
		{Name: "asked"}, {Name: "answered", Unit: "%", Digits: 1}, {Name: "theory", Unit: "%", Digits: 1},
		{Name: "median", Unit: "ms", Digits: 2}, {Name: "99th", Unit: "ms", Digits: 2},
	},
	Takes: 13 * time.Second, QuickTakes: 4 * time.Second,
	Run: runIsolation,
}

// floodAtOnce is what a flood that was late makes up for: less than the device's own
// queue holds, which all ports share.
const floodAtOnce = 64

// kernelCharge is what the kernel charges a small datagram, in bytes.
const kernelCharge = 832

// isolated is what the other service's clients met under one load.
type isolated struct {
	target Target
	shared bool
	asked  float64 // for: the load
	load   float64 // that it was
	rate   float64 // of the flood, in datagrams/s
	*pinged
}

func (f *isolated) queues() string {
	if f.shared {
		return "one for both"
	}
	return "one each"
}

func (f *isolated) theory() float64 {
	if !f.shared || f.load <= 1 {
		return 100
	}
	return 100 / f.load
}

func runIsolation(ctx context.Context, r *lab.Run) (err error) {
	g, err := Up(ctx, r, Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	var all []*isolated
	defer func() { reportIsolation(r, all) }()
	loads := r.Floats("load")
	for i, load := range loads {
		var now []*isolated
		for _, t := range g.Targets() {
			for _, shared := range []bool{false, true} {
				now = append(now, &isolated{target: t, shared: shared, asked: load, load: load, rate: load / r.Duration("work").Seconds()})
			}
		}
		errs := make([]error, len(now))
		var wg sync.WaitGroup
		for j, f := range now {
			wg.Go(func() { errs[j] = f.run(ctx, r, 7000+uint16(10*i)) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		all = append(all, now...)
		r.Progress(float64(i+1) / float64(len(loads)))
	}
	g.noteLost(r)
	sawIsolation(r, all)
	return nil
}

// run floods and asks on ports of its own, from port on.
func (f *isolated) run(ctx context.Context, r *lab.Run, port uint16) error {
	asked, flooded, queue := port, port+1, r.Int("queue")
	ports := []uint16{asked, flooded}
	if f.shared {
		asked, flooded, queue = port+2, port+2, 2*queue
		ports = []uint16{asked}
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	for _, p := range ports {
		bytes := farBytes
		if f.target.Kernel {
			bytes = queue * kernelCharge
		}
		pc, err := f.target.ListenPacket(p, queue, bytes)
		if err != nil {
			return err
		}
		defer func() { _ = pc.Close() }()
		serving.Go(func() { answer(pc, r.Duration("work")) })
	}
	full := 2 * r.Duration("work") * time.Duration(r.Int("queue")) // what the shared queue holds
	fill := 50 * time.Millisecond
	if f.load > 1 {
		fill += min(time.Duration(float64(full)/(f.load-1)), time.Second)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	flood := make(chan error, 1)
	go func() {
		flood <- f.flood(ctx, flooded, fill+r.Duration("over"))
	}()
	pause.For(ctx, fill) // the question is what lasts, not how it begins
	var err error
	f.pinged, err = ping(ctx, f.target.At(asked), r.Float("rate"), 9, r.Duration("over"), full+500*time.Millisecond)
	return errors.Join(err, <-flood)
}

// flood offers the load, as far as this machine can, and sets what it came to.
func (f *isolated) flood(ctx context.Context, port uint16, over time.Duration) error {
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(f.target.At(port)))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	sent, began := 0, time.Now()
	b := []byte{isFlood, 0, 0, 0, 0, 0, 0, 0, 0}
	err = steadily(ctx, f.rate, floodAtOnce, over, func() error {
		sent++
		_, err := c.Write(b)
		return refusedIsFine(err)
	})
	f.load *= float64(sent) / time.Since(began).Seconds() / max(f.rate, 1)
	f.rate = float64(sent) / time.Since(began).Seconds()
	return err
}

func reportIsolation(r *lab.Run, all []*isolated) {
	answered := lab.Figure{
		Name: "answered", Title: "Requests answered while the other service is flooded",
		X:       lab.Axis{Label: "load of the flooded service", Unit: "times its capacity"},
		Y:       lab.Axis{Label: "requests answered", Unit: "%", Min: 0, Max: 103},
		Caption: "The line is 1/load: what a queue that both share admits of anything that comes.",
	}
	wait := lab.Figure{
		Name: "wait", Title: "What an answered request waited for",
		X:       lab.Axis{Label: "load of the flooded service", Unit: "times its capacity"},
		Y:       lab.Axis{Label: "median time to the answer", Unit: "ms", Log: true},
		Caption: "The line is the shared queue's size times the work on one datagram.",
	}
	var xs []float64
	for _, f := range all {
		if f.pinged == nil {
			continue
		}
		r.Row(f.target.Name, f.queues(), f.load, math.Round(f.rate), f.sent, f.answered(), f.theory(), quantile(f.took, 0.5), quantile(f.took, 0.99))
		g := 0
		if f.shared {
			g = 1
		}
		s := f.target.series(f.queues(), g)
		point(&answered, s, f.load, f.answered())
		if len(f.took) > 0 {
			point(&wait, s, f.load, ms(f.took[len(f.took)/2]))
		}
		xs = append(xs, f.load)
	}
	if len(xs) == 0 {
		return
	}
	high := xs[len(xs)-1]
	for _, x := range xs {
		high = max(high, x)
	}
	if high > 1 {
		over := spread(1, high, 40)
		line(&answered, "shared, theory", 1, append([]float64{0}, over...), func(x float64) float64 { return 100 / max(x, 1) })
		line(&wait, "shared, theory", 1, over[10:], func(float64) float64 { return 2 * float64(r.Int("queue")) * ms(r.Duration("work")) })
	}
	r.Figure(answered)
	r.Figure(wait)
}

func sawIsolation(r *lab.Run, all []*isolated) {
	s := ""
	most := all[0].asked
	for _, f := range all {
		most = max(most, f.asked)
	}
	for _, f := range all {
		if f.asked != most {
			continue
		}
		if s == "" {
			s = fmt.Sprintf("While the other service was offered about %.3g times what it can do, answered were ", most)
		} else {
			s += ", "
		}
		s += fmt.Sprintf("%.1f %% (%s, %s", f.answered(), f.target.Name, f.queues())
		if len(f.took) > 0 {
			s += fmt.Sprintf(", median %.2f ms", ms(f.took[len(f.took)/2]))
		}
		s += ")"
	}
	r.Saw("%s.", s)
}
