package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"porthole"
	"porthole/cmd/porthole/internal/lab"
	"porthole/cmd/porthole/internal/pause"
	"porthole/impair"
	"porthole/services"
)

// Handshake follows connections from connect to the first answer.
var Handshake = lab.Experiment{
	Name:     "handshake",
	Question: "What do the three segments cost, and where does the time to the first answer go?",
	Kind:     lab.Rig,
	About: "Every packet is delayed on the wire, the same in each direction. A client connects, sends one byte as soon as connect " +
		"returns and waits for one byte; the service works a while before it accepts. The client's clock gives connect and answer, " +
		"the host's timeline of the same connection what lies between: the SYN's arrival, its admission by the door, the SYN+ACK, " +
		"the final ACK, accept, the answer. Medians over the connections. The lines of theory count the wire alone (one, two, " +
		"three delays, and four with the service's work).",
	Means: "Connect costs one round trip, the first answer two, whatever the server does; queue and door are microseconds beside that. " +
		"The server knows a connection one delay after its client, and a client waits for a slow accept without a sign of it: " +
		"connect has long returned.",
	Params: []lab.Param{
		lab.Durations("delay", []time.Duration{0, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 40 * time.Millisecond}, 0, 400*time.Millisecond,
			"on the wire, in each direction").WithQuick([]time.Duration{0, 10 * time.Millisecond, 30 * time.Millisecond}),
		lab.Duration("work", 15*time.Millisecond, 0, 10*time.Second, "of the service before it accepts"),
		lab.Int("connections", 11, 1, 1000, "connections", "at each delay, one after the other").WithQuick(5),
	},
	Columns: []lab.Column{
		{Name: "delay", Unit: "ms", Digits: 1}, {Name: "SYN arrives", Unit: "ms", Digits: 2}, {Name: "admitted", Unit: "ms", Digits: 2},
		{Name: "SYN+ACK leaves", Unit: "ms", Digits: 2}, {Name: "connect returns", Unit: "ms", Digits: 2}, {Name: "ACK arrives", Unit: "ms", Digits: 2},
		{Name: "accepted", Unit: "ms", Digits: 2}, {Name: "answer leaves", Unit: "ms", Digits: 2}, {Name: "answer arrives", Unit: "ms", Digits: 2},
		{Name: "wire", Unit: "%", Digits: 1}, {Name: "queue", Unit: "%", Digits: 1}, {Name: "door, stack", Unit: "%", Digits: 1}, {Name: "accept", Unit: "%", Digits: 1}, {Name: "service", Unit: "%", Digits: 1},
	},
	Takes: 5 * time.Second, QuickTakes: 2 * time.Second,
	Run: runHandshake,
}

// steps are the moments of one connection since connect was called, in their order.
type steps [8]time.Duration

// The moments.
const (
	synArrives = iota
	admitted
	synAckLeaves
	connectReturns
	ackArrives
	accepted
	answerLeaves
	answerArrives
)

var stepNames = [...]string{"SYN arrives", "admitted", "SYN+ACK leaves", "connect returns", "ACK arrives", "accepted", "answer leaves", "answer arrives"}

// shares is where the time went: between two moments it was spent on one of these.
type shares struct{ wire, queue, door, accept, service time.Duration }

func (s *steps) shares() shares {
	return shares{
		wire:    s[synArrives] + s[connectReturns] - s[synAckLeaves] + s[ackArrives] - s[connectReturns] + s[answerArrives] - s[answerLeaves],
		queue:   s[admitted] - s[synArrives],
		door:    s[synAckLeaves] - s[admitted],
		accept:  s[accepted] - s[ackArrives],
		service: s[answerLeaves] - s[accepted],
	}
}

func runHandshake(ctx context.Context, r *lab.Run) (err error) {
	g, link, err := UpLink(ctx, r, Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	t := g.Targets()[0]
	const port = 7000
	ln, err := t.Listen(port, 16)
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); serveByte(serving, g, ln, port, r.Duration("work")) }()
	defer func() { stop(); _ = ln.Close(); <-done }()

	var medians []steps
	delays := r.Durations("delay")
	defer func() { reportHandshake(r, delays[:len(medians)], medians) }()
	n := r.Int("connections")
	for i, d := range delays {
		rules := impair.Rules{Delay: d}
		link.Set(r, rules, rules)
		var all []steps
		for j := range n {
			s, err := oneHandshake(ctx, g, t.At(port), 4*d+r.Duration("work")+patience)
			if err != nil {
				return err
			}
			all = append(all, s)
			r.Progress((float64(i) + float64(j+1)/float64(n)) / float64(len(delays)))
		}
		medians = append(medians, medianSteps(all))
	}
	sawHandshake(r, delays, medians)
	return nil
}

// serveByte answers a byte with a byte, one connection at a time. It works for a while
// when one has come, before it accepts it.
func serveByte(ctx context.Context, g *Rig, ln net.Listener, port uint16, work time.Duration) {
	waits := func() bool {
		s, _ := g.Host.PortStatus(services.TCP(port))
		return s.Accept > 0
	}
	for {
		if until(ctx, time.Hour, waits, "a connection") != nil || !pause.For(ctx, work) {
			return
		}
		c, err := ln.Accept()
		if err != nil {
			return
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := io.ReadFull(c, make([]byte, 1)); err == nil {
			_, _ = c.Write([]byte{'.'})
		}
		_ = c.Close()
	}
}

// oneHandshake is one connection: the client's clock and the host's timeline of it.
func oneHandshake(ctx context.Context, g *Rig, at netip.AddrPort, within time.Duration) (s steps, err error) {
	began := time.Now()
	d := net.Dialer{Timeout: within}
	c, err := d.DialContext(ctx, "tcp4", at.String())
	if err != nil {
		return s, err
	}
	defer func() { _ = c.Close() }()
	s[connectReturns] = time.Since(began)
	unblock := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) })
	defer unblock()
	_ = c.SetDeadline(began.Add(within))
	if _, err := c.Write([]byte{'?'}); err != nil {
		return s, err
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		return s, err
	}
	s[answerArrives] = time.Since(began)
	port := services.TCP(at.Port())
	self := c.LocalAddr().(*net.TCPAddr).AddrPort()
	flows := g.Host.Flows(&port, 64)
	i := slices.IndexFunc(flows, func(f porthole.Flow) bool { return f.Remote.Port() == self.Port() })
	if i < 0 {
		return s, fmt.Errorf("the host has no timeline of %v", self)
	}
	f, ok := g.Host.Flow(flows[i].ID)
	if !ok {
		return s, fmt.Errorf("the host has no timeline of %v", self)
	}
	syn := f.Began.Sub(began)
	s[synArrives], s[ackArrives] = syn, syn+f.Handshake
	s[accepted], s[answerLeaves] = syn+f.Accepted, syn+f.Out.FirstData
	const synAck = 0x12
	for _, rung := range f.Ladder {
		switch {
		case rung.What.String() == "admitted" && s[admitted] == 0:
			s[admitted] = syn + rung.At
		case rung.Dir.String() == "out" && rung.Flags&0x3f == synAck && s[synAckLeaves] == 0:
			s[synAckLeaves] = syn + rung.At
		}
	}
	if s[synAckLeaves] == 0 || f.Accepted == 0 {
		return s, fmt.Errorf("the timeline of %v is not whole", self)
	}
	return s, nil
}

// medianSteps is the median of each moment.
func medianSteps(all []steps) (m steps) {
	for i := range m {
		var ds []time.Duration
		for _, s := range all {
			ds = append(ds, s[i])
		}
		slices.Sort(ds)
		m[i] = ds[len(ds)/2]
	}
	return m
}

func (s *steps) percent(d time.Duration) float64 {
	return 100 * float64(d) / float64(max(s[answerArrives], 1))
}

func reportHandshake(r *lab.Run, delays []time.Duration, all []steps) {
	moments := lab.Figure{
		Name: "moments", Title: "From connect to the first answer",
		X:       lab.Axis{Label: "delay of the wire, each way", Unit: "ms"},
		Y:       lab.Axis{Label: "time since connect was called", Unit: "ms"},
		Caption: fmt.Sprintf("What lies between two curves is the cost of that step. The service works %v before it accepts.", r.Duration("work")),
	}
	where := lab.Figure{
		Name: "where", Title: "Where the time to the first answer goes",
		X:       lab.Axis{Label: "delay of the wire, each way", Unit: "ms"},
		Y:       lab.Axis{Label: "share of the whole", Unit: "%", Min: 0, Max: 102},
		Caption: "The accept queue is the wait for a service that works; the port's queue, the door and the stack are what the host itself adds.",
	}
	shown := []int{answerArrives, accepted, ackArrives, connectReturns, synArrives}
	for i, s := range all {
		at, d := s.shares(), ms(delays[i])
		row := []any{delays[i]}
		for _, t := range s {
			row = append(row, t)
		}
		r.Row(append(row, s.percent(at.wire), s.percent(at.queue), s.percent(at.door), s.percent(at.accept), s.percent(at.service))...)
		for g, step := range shown {
			point(&moments, lab.Series{Name: stepNames[step], Kind: lab.Measured, Group: g}, d, ms(s[step]))
		}
		for g, of := range []struct {
			name string
			d    time.Duration
		}{{"wire", at.wire}, {"port's queue", at.queue}, {"door and stack", at.door}, {"accept queue", at.accept}, {"service", at.service}} {
			point(&where, lab.Series{Name: of.name, Kind: lab.Measured, Group: g}, d, s.percent(of.d))
		}
	}
	work := ms(r.Duration("work"))
	var xs []float64
	for _, d := range delays {
		xs = append(xs, ms(d))
	}
	for _, l := range []struct {
		name  string
		group int
		y     func(x float64) float64
	}{
		{"4 delays + work", 0, func(x float64) float64 { return 4*x + max(work, 0) }},
		{"3 delays", 2, func(x float64) float64 { return 3 * x }},
		{"2 delays", 3, func(x float64) float64 { return 2 * x }},
		{"1 delay", 4, func(x float64) float64 { return x }},
	} {
		line(&moments, l.name, l.group, xs, l.y)
	}
	r.Figure(moments)
	r.Figure(where)
}

func sawHandshake(r *lab.Run, delays []time.Duration, all []steps) {
	i := 0
	for j, d := range delays {
		if d > delays[i] {
			i = j
		}
	}
	s := &all[i]
	at := s.shares()
	text := fmt.Sprintf("With %v each way connect took %.2f ms and the first answer %.2f ms", delays[i], ms(s[connectReturns]), ms(s[answerArrives]))
	if delays[i] > 0 {
		text += fmt.Sprintf(" (%.2f and %.2f delays)", float64(s[connectReturns])/float64(delays[i]), float64(s[answerArrives])/float64(delays[i]))
	}
	r.Saw("%s: %.1f %% of it on the wire, %.1f %% in the port's queue, %.1f %% in door and stack, %.1f %% in the accept queue and %.1f %% in the service.", text,
		s.percent(at.wire), s.percent(at.queue), s.percent(at.door), s.percent(at.accept), s.percent(at.service))
}
