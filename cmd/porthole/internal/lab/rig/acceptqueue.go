package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"porthole/cmd/porthole/internal/lab"
	"porthole/services"
)

// AcceptQueue overflows accept queues with a service that is slow to accept.
var AcceptQueue = lab.Experiment{
	Name:     "accept-queue",
	Question: "What does a client feel when a service accepts slowly and the backlog is small?",
	Kind:     lab.Rig,
	Kernel:   true,
	About: "Clients connect one after the other within a moment; the service takes one connection at a time and works on it before " +
		"it takes the next, so that the others wait in the accept queue. Each backlog has a port of its own, all at once. A client " +
		"whose SYN is refused hears nothing and tries again after 1, 2 and 4 s (the kernel's SYN timer; the four linear tries of " +
		"newer kernels are switched off in this network). Connect time is what connect(2) takes; a client that the service has " +
		"not taken yet is connected all the same.",
	Means: "A full accept queue is silence to the client: its connect does not fail, it takes 1, 3 or 7 s. Steps of whole seconds in " +
		"connect times are a queue that was too small for a moment, not a slow network. The size that `porthole why` names is the " +
		"smallest that would have refused nobody.",
	Params: []lab.Param{
		lab.Ints("backlog", []int{1, 4, 16, 64}, 0, 4096, "connections", "of the listener: one more may wait"),
		lab.Int("clients", 60, 1, 2000, "clients", "that connect at each backlog"),
		lab.Duration("within", 500*time.Millisecond, 0, time.Minute, "the time over which they come"),
		lab.Duration("hold", 50*time.Millisecond, time.Millisecond, 10*time.Second, "how long the service works on each connection"),
		lab.Duration("timeout", 9*time.Second, 500*time.Millisecond, time.Minute, "after which a client gives up").
			WithQuick(4 * time.Second),
	},
	Columns: []lab.Column{
		{Name: "server"}, {Name: "backlog", Unit: "connections"}, {Name: "clients"},
		{Name: "1st SYN", Unit: "connected"}, {Name: "2nd SYN", Unit: "after 1 s"}, {Name: "3rd SYN", Unit: "after 3 s"}, {Name: "4th SYN", Unit: "after 7 s"},
		{Name: "never"}, {Name: "median", Unit: "ms", Digits: 1}, {Name: "99th", Unit: "ms", Digits: 1},
		{Name: "refused", Unit: "segments"}, {Name: "enough", Unit: "says why"},
	},
	Takes: 11 * time.Second, QuickTakes: 6 * time.Second,
	Run: runAcceptQueue,
}

// acceptFound is what the clients of one backlog at one target met.
type acceptFound struct {
	target  Target
	backlog int
	took    []time.Duration // of those that connected, ascending
	tries   [4]int          // connected with the first, second... SYN
	never   int
	refused uint64
	enough  int // what `why` says; 0: nothing was refused, or it is the kernel
}

func runAcceptQueue(ctx context.Context, r *lab.Run) (err error) {
	g, err := Up(ctx, r, Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	if serr := Sysctl("net.ipv4.tcp_syn_linear_timeouts", "0"); serr != nil {
		r.Note("the SYN timer is the kernel's own, so that steps may stand at 1, 2, 3 and 4 s, too: %v", serr)
	}
	type job struct {
		t    Target
		port uint16
		n    int
	}
	var jobs []job
	for i, n := range r.Ints("backlog") {
		for _, t := range g.Targets() {
			jobs = append(jobs, job{t, uint16(7000 + i), n})
		}
	}
	stop := progressBy(ctx, r, r.Duration("within")+r.Duration("timeout"))
	found := make([]*acceptFound, len(jobs))
	errs := make([]error, len(jobs))
	var wg sync.WaitGroup
	for i, j := range jobs {
		wg.Go(func() { found[i], errs[i] = overflow(ctx, r, j.t, j.port, j.n) })
	}
	wg.Wait()
	stop()
	reportAccept(r, found)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	sawAccept(r, found)
	return nil
}

// progressBy reports progress by the clock, for an experiment that waits for timers.
func progressBy(ctx context.Context, r *lab.Run, all time.Duration) (stop func()) {
	began := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(all/100 + time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				r.Progress(min(time.Since(began).Seconds()/all.Seconds(), 0.99))
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// overflow serves one port slowly and lets the clients come.
func overflow(ctx context.Context, r *lab.Run, t Target, port uint16, backlog int) (*acceptFound, error) {
	ln, err := t.Listen(port, backlog)
	if err != nil {
		return nil, err
	}
	served := make(chan error, 1)
	serving, stop := context.WithCancel(ctx)
	go func() { served <- serveSlowly(serving, ln, r.Duration("hold")) }()
	defer func() {
		stop()
		_ = ln.Close()
		<-served
	}()
	f := &acceptFound{target: t, backlog: backlog}
	clients := r.Int("clients")
	var mu sync.Mutex // guards f
	var wg sync.WaitGroup
	for i := range clients {
		at := r.Duration("within") * time.Duration(i) / time.Duration(clients)
		wg.Go(func() {
			took, err := connect(ctx, t, port, at, r.Duration("timeout"))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil && ctx.Err() != nil:
				return // it was not the queue that ended it
			case err != nil:
				f.never++
				return
			}
			f.took = append(f.took, took)
			f.tries[tries(took)]++
		})
	}
	wg.Wait()
	slices.Sort(f.took)
	if f.refused, err = refused(t, ln, port); err != nil {
		return nil, err
	}
	if !t.Kernel {
		why, err := t.rig.Host.Why(services.TCP(port).String())
		if err != nil {
			return nil, err
		}
		for _, s := range why.Sizes {
			if s.Limit == "accept-queue" {
				f.enough = s.Enough
			}
		}
	}
	return f, ctx.Err()
}

// serveSlowly takes one connection at a time, writes a byte, and works on it.
func serveSlowly(ctx context.Context, ln net.Listener, hold time.Duration) error {
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		_, _ = c.Write([]byte{'.'}) // the client may have given up
		select {
		case <-time.After(hold):
		case <-ctx.Done():
		}
		_ = c.Close()
	}
}

// connect is one client: it waits for its turn, connects, and stays until it is served
// or the time is over.
func connect(ctx context.Context, t Target, port uint16, at, timeout time.Duration) (time.Duration, error) {
	select {
	case <-time.After(at):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	began := time.Now()
	d := net.Dialer{Timeout: timeout}
	c, err := d.DialContext(ctx, "tcp4", t.At(port).String())
	if err != nil {
		return 0, err
	}
	took := time.Since(began)
	defer func() { _ = c.Close() }()
	unblock := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) })
	defer unblock()
	_ = c.SetReadDeadline(began.Add(timeout))
	_, _ = io.ReadFull(c, make([]byte, 1)) // not served is not the question here
	return took, nil
}

// tries is how many SYNs a connect of that length took, but one: they go out at 0, 1,
// 3 and 7 s.
func tries(took time.Duration) int {
	switch {
	case took < 900*time.Millisecond:
		return 0
	case took < 2900*time.Millisecond:
		return 1
	case took < 6900*time.Millisecond:
		return 2
	}
	return 3
}

// refused counts the segments that a listener's queues refused.
func refused(t Target, ln net.Listener, port uint16) (uint64, error) {
	if t.Kernel {
		return Drops(ln.(syscall.Conn))
	}
	s, _ := t.rig.Host.PortStatus(services.TCP(port))
	return s.Fates["accept-queue-full"] + s.Fates["syn-queue-full"], nil
}

func reportAccept(r *lab.Run, found []*acceptFound) {
	steps := lab.Figure{
		Name: "connect", Title: "How long connect takes",
		X:       lab.Axis{Label: "connect time", Unit: "s", Min: 0, Max: r.Duration("timeout").Seconds()},
		Y:       lab.Axis{Label: "clients connected", Unit: "%", Min: 0, Max: 102},
		Caption: "Each step is a SYN that was sent again: after 1, 3 and 7 s. A curve that ends below 100 % has clients that gave up.",
	}
	first := lab.Figure{
		Name: "backlog", Title: "Connected with the first SYN",
		X:       lab.Axis{Label: "backlog", Unit: "connections"},
		Y:       lab.Axis{Label: "clients", Unit: "%", Min: 0, Max: 102},
		Caption: "The mark is the accept queue that `porthole why` names after the runs that refused somebody.",
	}
	groups := map[int]int{}
	lines := map[bool]*lab.Series{}
	enough := 0
	for _, f := range found {
		if f == nil {
			continue
		}
		n := len(f.took) + f.never
		var why any
		if f.enough > 0 {
			why, enough = f.enough, max(enough, f.enough)
		}
		r.Row(f.target.Name, f.backlog, n, f.tries[0], f.tries[1], f.tries[2], f.tries[3], f.never,
			quantile(f.took, 0.5), quantile(f.took, 0.99), f.refused, why)
		g, ok := groups[f.backlog]
		if !ok {
			g = len(groups)
			groups[f.backlog] = g
		}
		kind := lab.Measured
		if f.target.Kernel {
			kind = lab.Kernel
		}
		s := lab.Series{Name: fmt.Sprintf("%s, backlog %d", f.target.Name, f.backlog), Kind: kind, Group: g, Step: true}
		s.Points = append(s.Points, lab.Point{})
		for i, d := range f.took {
			s.Points = append(s.Points, lab.Point{X: d.Seconds(), Y: 100 * float64(i+1) / float64(n)})
		}
		s.Points = append(s.Points, lab.Point{X: r.Duration("timeout").Seconds(), Y: 100 * float64(len(f.took)) / float64(n)})
		steps.Series = append(steps.Series, s)
		l := lines[f.target.Kernel]
		if l == nil {
			l = &lab.Series{Name: f.target.Name, Kind: kind}
			if f.target.Kernel {
				l.Group = 1
			}
			lines[f.target.Kernel] = l
		}
		l.Points = append(l.Points, lab.Point{X: float64(f.backlog), Y: 100 * float64(f.tries[0]) / float64(n)})
	}
	for _, kernel := range []bool{false, true} {
		if l := lines[kernel]; l != nil {
			first.Series = append(first.Series, *l)
		}
	}
	if enough > 0 {
		first.Marks = []lab.Mark{{X: float64(enough), Label: fmt.Sprintf("why: %d is enough", enough)}}
	}
	r.Figure(steps)
	r.Figure(first)
}

// quantile of ascending times, or nothing.
func quantile(d []time.Duration, q float64) any {
	if len(d) == 0 {
		return nil
	}
	return d[min(int(q*float64(len(d))), len(d)-1)]
}

func sawAccept(r *lab.Run, found []*acceptFound) {
	var small, large *acceptFound
	for _, f := range found {
		if f.target.Kernel {
			continue
		}
		if small == nil || f.backlog < small.backlog {
			small = f
		}
		if large == nil || f.backlog > large.backlog {
			large = f
		}
	}
	s := fmt.Sprintf("With backlog %d, %d of %d clients connected at their first SYN and %d never did",
		small.backlog, small.tries[0], len(small.took)+small.never, small.never)
	if large != small {
		s += fmt.Sprintf("; with %d it was %d and %d", large.backlog, large.tries[0], large.never)
	}
	if small.enough > 0 {
		s += fmt.Sprintf("; why says that %d would have been enough", small.enough)
	}
	r.Saw("%s.", s)
}
