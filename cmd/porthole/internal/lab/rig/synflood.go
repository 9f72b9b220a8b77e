package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"porthole"
	"porthole/cmd/porthole/internal/lab"
	"porthole/cmd/porthole/internal/pause"
	"porthole/services"
)

var cookieModes = []string{"never", "auto", "always"}

// SYNFlood fills SYN queues with connections that nobody finishes.
var SYNFlood = lab.Experiment{
	Name:     "syn-flood",
	Question: "Who still gets in while half-open connections fill the SYN queue, by its size and by when it sends cookies?",
	Kind:     lab.Rig,
	About: "A raw socket sends SYNs from as many addresses (of 198.18.0.0/15, inside the private network) at a steady rate and never " +
		"answers the SYN+ACK. Meanwhile ordinary clients connect at a steady pace. Each size of the SYN queue and each mode of " +
		"cookies has a port of its own, all flooded at the same time. The mark is the number of SYNs of the whole flood: a queue " +
		"of that size holds all of it. An entry that nobody finishes is given up after 63 s, and sooner, as on Linux, in a queue " +
		"that is more than half full of old ones.",
	Means: "Without cookies a SYN queue is a race against the flood: a larger one only starts to fail later. A cookie keeps nothing, so " +
		"the real client gets in at once whatever the size; its connection pays with the options of its SYN (here: no window scale, " +
		"so at most 64 KiB on the way), which is why a queue that need not send cookies is worth having.",
	Params: []lab.Param{
		lab.Ints("syn-queue", []int{16, 64, 256, 1024, 4096}, 0, 65535, "half-open connections", "that the SYN queue holds").
			WithQuick([]int{16, 256, 4096}),
		lab.Words("cookies", cookieModes, cookieModes, "when a SYN is answered with a cookie"),
		lab.Int("rate", 300, 1, 5000, "SYNs/s", "of the flood, at each port"),
		lab.Duration("lead", 600*time.Millisecond, 0, 10*time.Second, "how long the flood is alone").WithQuick(500 * time.Millisecond),
		lab.Duration("over", 3*time.Second, 200*time.Millisecond, 30*time.Second, "how long clients come").WithQuick(1200 * time.Millisecond),
		lab.Int("clients", 30, 1, 1000, "clients", "at each port"),
		lab.Duration("timeout", 2*time.Second, 100*time.Millisecond, 30*time.Second, "after which a client gives up").WithQuick(1500 * time.Millisecond),
	},
	Columns: []lab.Column{
		{Name: "cookies"}, {Name: "SYN queue", Unit: "half-open"}, {Name: "flood", Unit: "SYNs"}, {Name: "most", Unit: "half-open"},
		{Name: "refused", Unit: "SYNs"}, {Name: "cookies sent", Unit: "SYN+ACKs"}, {Name: "clients"}, {Name: "connected", Unit: "%"},
		{Name: "at once", Unit: "%"}, {Name: "median", Unit: "ms", Digits: 1}, {Name: "window scale", Unit: "% have it"},
	},
	Takes: 6 * time.Second, QuickTakes: 4 * time.Second,
	Run: runSYNFlood,
}

// flooded is what the clients of one port met.
type flooded struct {
	cookies  string
	size     int
	port     uint16
	sent     int // SYNs of the flood
	status   porthole.PortStatus
	clients  int
	took     []time.Duration // of those that connected, ascending
	atOnce   int
	unscaled int // connected without window scaling
}

func runSYNFlood(ctx context.Context, r *lab.Run) (err error) {
	g, err := Up(ctx, r, Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	t := g.Targets()[0]
	var all []*flooded
	for _, c := range r.Texts("cookies") {
		for _, n := range r.Ints("syn-queue") {
			all = append(all, &flooded{cookies: c, size: n, port: 7000 + uint16(len(all))})
		}
	}
	defer func() { reportSYNFlood(r, all) }()
	for _, f := range all {
		stop, err := bindOpen(ctx, t, f.port)
		if err != nil {
			return err
		}
		defer stop()
		if err := g.Host.Set(services.TCP(f.port), porthole.Settings{SynQueue: &f.size, SynCookies: f.cookies}); err != nil {
			return err
		}
	}
	over := r.Duration("lead") + r.Duration("over")
	stop := progressBy(ctx, r, over+r.Duration("timeout"))
	defer stop()
	var wg sync.WaitGroup
	errs := make([]error, len(all)+1)
	wg.Go(func() {
		seqs := r.Rand("syn")
		errs[len(all)] = rawSYNs(ctx, float64(r.Int("rate")*len(all)), over, func(n int) rawSYN {
			f := all[n%len(all)]
			f.sent++
			// 131,070 sources before one returns, each at a port of its own.
			a := uint32(198<<24|18<<16) + uint32(n)%(1<<17-2) + 1
			return rawSYN{from: a, fromPort: uint16(1024 + n%60000), to: t.At(f.port), seq: seqs.Uint32()}
		})
	})
	for i, f := range all {
		wg.Go(func() { errs[i] = f.come(ctx, r, t) })
	}
	wg.Wait()
	for _, f := range all {
		f.status, _ = g.Host.PortStatus(services.TCP(f.port))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	g.noteLost(r)
	sawSYNFlood(r, all)
	return nil
}

// come lets the clients of one port come.
func (f *flooded) come(ctx context.Context, r *lab.Run, t Target) error {
	var mu sync.Mutex // guards f
	var wg sync.WaitGroup
	n := r.Int("clients")
	for i := range n {
		at := r.Duration("lead") + r.Duration("over")*time.Duration(i)/time.Duration(n)
		wg.Go(func() {
			if !pause.For(ctx, at) {
				return
			}
			began := time.Now()
			d := net.Dialer{Timeout: r.Duration("timeout")}
			c, err := d.DialContext(ctx, "tcp4", t.At(f.port).String())
			took := time.Since(began)
			if err != nil && ctx.Err() != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			f.clients++
			if err != nil {
				return
			}
			defer func() { _ = c.Close() }()
			f.took = append(f.took, took)
			if took < 900*time.Millisecond { // before a second SYN
				f.atOnce++
			}
			if info, err := tcpInfo(c.(*net.TCPConn)); err == nil && !info.windowScale {
				f.unscaled++
			}
		})
	}
	wg.Wait()
	slices.Sort(f.took)
	return ctx.Err()
}

func reportSYNFlood(r *lab.Run, all []*flooded) {
	share := lab.Figure{
		Name: "connected", Title: "Clients that connected at once during the flood",
		X:       lab.Axis{Label: "SYN queue", Unit: "half-open connections", Log: true},
		Y:       lab.Axis{Label: "clients", Unit: "%", Min: 0, Max: 103},
		Caption: "At once: with their first SYN. The mark is how many SYNs the flood had in all.",
	}
	scale := lab.Figure{
		Name: "options", Title: "Connected clients that kept window scaling",
		X:       share.X,
		Y:       lab.Axis{Label: "connected clients", Unit: "%", Min: 0, Max: 103},
		Caption: "What a cookie cannot carry is lost to the connection. No point: nobody connected.",
	}
	var sent int
	for _, f := range all {
		sent = max(sent, f.sent)
		var scaled any
		if n := len(f.took); n > 0 {
			scaled = percent(n-f.unscaled, n)
			point(&scale, f.series(), float64(f.size), percent(n-f.unscaled, n))
		}
		r.Row(f.cookies, f.size, f.sent, f.status.SynHigh, f.status.Fates["syn-queue-full"], f.status.Fates["syn-cookie"], f.clients,
			percent(len(f.took), f.clients), percent(f.atOnce, f.clients), quantile(f.took, 0.5), scaled)
		if f.clients > 0 {
			point(&share, f.series(), float64(f.size), percent(f.atOnce, f.clients))
		}
	}
	if sent > 0 {
		share.Marks = []lab.Mark{{X: float64(sent), Label: fmt.Sprintf("the flood: %d SYNs", sent)}}
	}
	r.Figure(share)
	r.Figure(scale)
}

func (f *flooded) series() lab.Series {
	return lab.Series{Name: "cookies " + f.cookies, Kind: lab.Measured, Group: slices.Index(cookieModes, f.cookies)}
}

func sawSYNFlood(r *lab.Run, all []*flooded) {
	s := fmt.Sprintf("Under %d SYNs/s that nobody finished", r.Int("rate"))
	for i, mode := range r.Texts("cookies") {
		var small, large *flooded
		for _, f := range all {
			if f.cookies != mode {
				continue
			}
			if small == nil || f.size < small.size {
				small = f
			}
			if large == nil || f.size > large.size {
				large = f
			}
		}
		sep := ", "
		if i > 0 {
			sep = "; "
		}
		s += fmt.Sprintf("%s%.0f %% of the clients connected at once at a SYN queue of %d with cookies %s", sep, percent(small.atOnce, small.clients), small.size, mode)
		if large != small {
			s += fmt.Sprintf(", %.0f %% at %d", percent(large.atOnce, large.clients), large.size)
		}
	}
	r.Saw("%s.", s)
}
