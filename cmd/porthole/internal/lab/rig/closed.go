package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"porthole/cmd/porthole/internal/lab"
)

// Closed looks at ports as a scanner does.
var Closed = lab.Experiment{
	Name:     "closed",
	Question: "What does a scanner conclude from RST, ICMP unreachable and silence, and how long does it take?",
	Kind:     lab.Rig,
	Kernel:   true,
	About: "A scanner of ordinary sockets looks at ports in six states, several at once. TCP: open, closed (answered by RST), and " +
		"full (a service whose accept queue is full: silence). UDP: answering, closed (answered by ICMP port unreachable, as long as " +
		"its rate limit allows), and silent (a service that reads and says nothing). A probe without an answer is over after the " +
		"timeout; UDP is tried again. Then a client sends datagrams to a closed port at a steady rate and counts the ICMP messages: " +
		"netstack's limit is one for the whole host (a bucket of 50, 1000/s), the kernel's is for each peer (a bucket of 6, one a " +
		"second, icmp_ratelimit).",
	Means: "RST costs a scanner one round trip, silence its whole timeout. Silence has many causes: a full accept queue looks like a " +
		"firewall, and a closed UDP port whose ICMP was over the rate limit looks like an open one. Slow down or ask again before " +
		"you believe open|filtered.",
	Params: []lab.Param{
		lab.Int("ports", 96, 1, 200, "ports", "in each state").WithQuick(64),
		lab.Int("parallel", 32, 1, 200, "probes", "at once"),
		lab.Duration("timeout", 400*time.Millisecond, 20*time.Millisecond, 10*time.Second, "after which a probe is over").
			WithQuick(250 * time.Millisecond),
		lab.Int("tries", 2, 1, 10, "datagrams", "to a UDP port before it counts as silent"),
		lab.Int("rate", 3000, 1, 20000, "datagrams/s", "of the steady client"),
		lab.Duration("steady", 3*time.Second, 100*time.Millisecond, time.Minute, "how long it sends").WithQuick(1500 * time.Millisecond),
	},
	Columns: []lab.Column{
		{Name: "server"}, {Name: "port"}, {Name: "is"}, {Name: "probes"}, {Name: "open"}, {Name: "closed"}, {Name: "no answer"},
		{Name: "concluded"}, {Name: "right", Unit: "%"}, {Name: "median", Unit: "ms", Digits: 1}, {Name: "all of them", Unit: "ms"},
	},
	Takes: 6 * time.Second, QuickTakes: 3 * time.Second,
	Run: runClosed,
}

// heard is what a probe met.
type heard uint8

const (
	heardYes heard = iota
	heardNo
	heardNothing
)

// portState is one state of ports, and what a scanner should make of it.
type portState struct {
	proto, is string
	first     uint16 // port
	tells     heard  // what the port answers when nothing is lost
	words     [3]string
	bind      func(ctx context.Context, t Target, port uint16) (func(), error) // nil: nobody has the port
}

var (
	saysTCP = [3]string{"open", "closed", "filtered"}
	saysUDP = [3]string{"open", "closed", "open|filtered"}
)

var portStates = []portState{
	{"tcp", "open", 7000, heardYes, saysTCP, bindOpen},
	{"tcp", "closed", 7200, heardNo, saysTCP, nil},
	{"tcp", "full", 7400, heardNothing, saysTCP, bindFull},
	{"udp", "answering", 7000, heardYes, saysUDP, bindAnswering},
	{"udp", "closed", 7200, heardNo, saysUDP, nil},
	{"udp", "silent", 7400, heardNothing, saysUDP, bindSilent},
}

// scan is what a scanner found at the ports of one state of one target.
type scan struct {
	target Target
	state  portState
	heard  [3]int
	took   []time.Duration // of each probe, ascending
	done   []time.Duration // since the scan began, ascending
}

// steady is what a client that keeps sending to a closed port was told, and when.
type steady struct {
	target Target
	sent   int
	told   []time.Duration
}

func runClosed(ctx context.Context, r *lab.Run) (err error) {
	g, err := Up(ctx, r, Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	var scans []*scan
	var flows []*steady
	defer func() { reportClosed(r, scans, flows) }()
	for i, s := range portStates {
		var wg sync.WaitGroup
		now := make([]*scan, len(g.Targets()))
		errs := make([]error, len(now))
		for j, t := range g.Targets() {
			wg.Go(func() { now[j], errs[j] = look(ctx, r, t, s) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		scans = append(scans, now...)
		r.Progress(float64(i+1) / float64(len(portStates)+3))
	}
	now := make([]*steady, len(g.Targets()))
	errs := make([]error, len(now))
	var wg sync.WaitGroup
	for j, t := range g.Targets() {
		wg.Go(func() {
			// An address of its own: the kernel's limit is for each peer, and the scan
			// has used that of the usual one up.
			from, err := g.ExtraClient(t)
			if err != nil {
				errs[j] = err
				return
			}
			f := &steady{target: t}
			now[j] = f
			f.sent, f.told, errs[j] = unreachables(ctx, from, t.At(7900), r.Int("rate"), r.Duration("steady"))
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	flows = now
	sawClosed(r, scans, flows)
	return nil
}

// look brings ports into a state and scans them.
func look(ctx context.Context, r *lab.Run, t Target, s portState) (*scan, error) {
	f := &scan{target: t, state: s}
	n := r.Int("ports")
	for i := range n {
		if s.bind == nil {
			break
		}
		release, err := s.bind(ctx, t, s.first+uint16(i))
		if err != nil {
			return nil, fmt.Errorf("%s: a %s port that is %s: %w", t.Name, s.proto, s.is, err)
		}
		defer release()
	}
	var mu sync.Mutex // guards f
	var wg sync.WaitGroup
	next := make(chan uint16)
	began := time.Now()
	for range min(r.Int("parallel"), n) {
		wg.Go(func() {
			for port := range next {
				at := time.Now()
				var h heard
				if s.proto == "tcp" {
					h = probeTCP(ctx, t.At(port), r.Duration("timeout"))
				} else {
					h = probeUDP(ctx, t.At(port), r.Duration("timeout"), r.Int("tries"))
				}
				mu.Lock()
				f.heard[h]++
				f.took = append(f.took, time.Since(at))
				f.done = append(f.done, time.Since(began))
				mu.Unlock()
			}
		})
	}
	for i := range n {
		if ctx.Err() == nil {
			next <- s.first + uint16(i)
		}
	}
	close(next)
	wg.Wait()
	slices.Sort(f.took)
	slices.Sort(f.done)
	return f, ctx.Err()
}

// probeTCP is a connect scan's probe.
func probeTCP(ctx context.Context, at netip.AddrPort, timeout time.Duration) heard {
	d := net.Dialer{Timeout: timeout}
	c, err := d.DialContext(ctx, "tcp4", at.String())
	switch {
	case err == nil:
		_ = c.Close()
		return heardYes
	case errors.Is(err, syscall.ECONNREFUSED):
		return heardNo
	}
	return heardNothing
}

// probeUDP sends a datagram, and again when nothing comes.
func probeUDP(ctx context.Context, at netip.AddrPort, timeout time.Duration, tries int) heard {
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(at))
	if err != nil {
		return heardNothing
	}
	defer func() { _ = c.Close() }()
	for range tries {
		if ctx.Err() != nil {
			break
		}
		_, err := c.Write([]byte("?"))
		if err == nil {
			_ = c.SetReadDeadline(time.Now().Add(timeout))
			_, err = c.Read(make([]byte, 16))
		}
		switch {
		case err == nil:
			return heardYes
		case errors.Is(err, syscall.ECONNREFUSED):
			return heardNo
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return heardNothing
		}
	}
	return heardNothing
}

// bindOpen is a TCP service that takes whoever comes.
func bindOpen(_ context.Context, t Target, port uint16) (func(), error) {
	ln, err := t.Listen(port, 128)
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	return func() { _ = ln.Close(); <-done }, nil
}

// bindFull is a TCP service that takes nobody, with as many waiting as may.
func bindFull(ctx context.Context, t Target, port uint16) (func(), error) {
	ln, err := t.Listen(port, 0)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: patience}
	c, err := d.DialContext(ctx, "tcp4", t.At(port).String())
	if err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("fill its accept queue: %w", err)
	}
	return func() { _ = c.Close(); _ = ln.Close() }, nil
}

func bindAnswering(_ context.Context, t Target, port uint16) (func(), error) {
	return bindUDP(t, port, true)
}

func bindSilent(_ context.Context, t Target, port uint16) (func(), error) {
	return bindUDP(t, port, false)
}

// bindUDP is a UDP service that reads, and answers or does not.
func bindUDP(t Target, port uint16, answers bool) (func(), error) {
	pc, err := t.ListenPacket(port, 0, 0)
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if answers {
				_, _ = pc.WriteTo(buf[:n], from)
			}
		}
	}()
	return func() { _ = pc.Close(); <-done }, nil
}

// concluded is what a scanner prints.
func (f *scan) concluded() string {
	s := ""
	for h, n := range f.heard {
		if n > 0 {
			if s != "" {
				s += ", "
			}
			s += fmt.Sprintf("%d %s", n, f.state.words[h])
		}
	}
	return s
}

func (f *scan) right() float64 { return percent(f.heard[f.state.tells], len(f.took)) }

func reportClosed(r *lab.Run, scans []*scan, flows []*steady) {
	judged := lab.Figure{
		Name: "scan", Title: "How fast a scanner knows",
		X:       lab.Axis{Label: "time since the scan began", Unit: "ms", Log: true, Min: 0.1},
		Y:       lab.Axis{Label: "ports judged", Unit: "%", Min: 0, Max: 102},
		Caption: "RST comes in a round trip, silence costs the timeout. ICMP is fast until its rate limit makes it silence.",
	}
	icmp := lab.Figure{
		Name: "icmp", Title: fmt.Sprintf("ICMP unreachable for %d datagrams a second to a closed port", r.Int("rate")),
		X:       lab.Axis{Label: "time since the first datagram", Unit: "s"},
		Y:       lab.Axis{Label: "ICMP messages received", Log: true, Min: 1},
		Caption: "The lines are the limits: netstack's 50 and 1000 a second for all peers, the kernel's 6 and one a second for this one.",
	}
	groups := map[string]int{"tcp closed": 0, "tcp full": 2, "udp closed": 1}
	for _, f := range scans {
		var last any
		if len(f.done) > 0 {
			last = f.done[len(f.done)-1]
		}
		r.Row(f.target.Name, f.state.proto, f.state.is, len(f.took), f.heard[heardYes], f.heard[heardNo], f.heard[heardNothing],
			f.concluded(), f.right(), quantile(f.took, 0.5), last)
		name := f.state.proto + " " + f.state.is
		g, ok := groups[name]
		if !ok {
			continue
		}
		s := f.target.series(name, g)
		s.Step = true
		for i, d := range f.done {
			point(&judged, s, ms(d), percent(i+1, len(f.done)))
		}
	}
	var over float64
	for _, f := range flows {
		s := f.target.series("", groupOf(f.target))
		for i, at := range f.told {
			if i%max(len(f.told)/25, 1) == 0 || i == len(f.told)-1 {
				point(&icmp, s, at.Seconds(), float64(i+1))
			}
		}
		over = r.Duration("steady").Seconds()
	}
	if over > 0 {
		xs := make([]float64, 60)
		for i := range xs {
			xs[i] = over * float64(i) / float64(len(xs)-1)
		}
		line(&icmp, "50 + 1000/s", 0, xs, func(x float64) float64 { return min(50+1000*x, 1+float64(r.Int("rate"))*x) })
		if len(flows) > 1 {
			line(&icmp, "6 + 1/s", 1, xs, func(x float64) float64 { return 6 + x })
		}
	}
	r.Figure(judged)
	if len(flows) > 0 {
		r.Figure(icmp)
	}
}

func sawClosed(r *lab.Run, scans []*scan, flows []*steady) {
	s := ""
	for _, f := range scans {
		if f.target.Kernel {
			continue
		}
		switch f.state.proto + " " + f.state.is {
		case "tcp closed":
			s += fmt.Sprintf("%d closed TCP ports were known in %.1f ms, ", len(f.took), ms(f.done[len(f.done)-1]))
		case "tcp full":
			s += fmt.Sprintf("as many full ones took %.0f ms and read as %s", ms(f.done[len(f.done)-1]), f.concluded())
		}
	}
	for _, f := range scans {
		if f.state.proto == "udp" && f.state.is == "closed" {
			s += fmt.Sprintf("; closed UDP ports of %s read as %s after %.0f ms", f.target.Name, f.concluded(), ms(f.done[len(f.done)-1]))
		}
	}
	for _, f := range flows {
		s += fmt.Sprintf("; of %d datagrams to a closed port %s answered %d", f.sent, f.target.Name, len(f.told))
	}
	r.Saw("%s.", s)
}
