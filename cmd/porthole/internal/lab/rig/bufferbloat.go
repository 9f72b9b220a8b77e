package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"porthole"
	"porthole/cmd/porthole/internal/lab"
	"porthole/cmd/porthole/internal/pause"
	"porthole/impair"
	"porthole/services"
)

// Bufferbloat shares the queue of a slow wire between bulk and small requests.
var Bufferbloat = lab.Experiment{
	Name:     "bufferbloat",
	Question: "What do small requests wait for behind a bulk transfer, by the size of the queue before a slow wire and by what it drops?",
	Kind:     lab.Rig,
	About: "Some connections upload as fast as they can over a wire with a rate and a delay; small UDP requests go the same way and " +
		"are answered at once. Both share the one queue before the wire, bounded in packets. Each size has a host and a wire of its " +
		"own, under tail drop and under CoDel (RFC 8289, target 5 ms), all at the same time. The line is the round trip and a full " +
		"queue of full packets. What comes before the queue has filled is not counted. TCP is the client kernel's; reno " +
		"fills what it is given until something is dropped, cubic feels the delay when it begins and takes some ten seconds to do so.",
	Means: "A queue that only drops when it is full stands full under TCP: its size is everybody's delay, and beyond the bandwidth-delay " +
		"product it buys no throughput. One that drops by the time packets wait keeps the delay small at any size.",
	Params: []lab.Param{
		lab.Ints("queue", []int{8, 32, 128, 512}, 1, 8192, "packets", "that wait before the wire at most").WithQuick([]int{16, 256}),
		lab.Words("policy", []string{"tail-drop", "codel"}, []string{"tail-drop", "codel"}, "what the queue drops"),
		lab.Float("rate", 20, 0.5, 200, "Mbit/s", "of the wire, towards the host"),
		lab.Duration("delay", 10*time.Millisecond, 0, 400*time.Millisecond, "of the wire, in each direction"),
		lab.Int("bulk", 2, 0, 64, "connections", "that upload"),
		lab.Word("control", "reno", []string{"reno", "cubic"}, "congestion control of the uploads"),
		lab.Float("requests", 50, 1, 1000, "requests/s", "of 100 bytes"),
		lab.Duration("warm", 2500*time.Millisecond, 0, 30*time.Second, "before anything is counted").WithQuick(1500 * time.Millisecond),
		lab.Duration("over", 4*time.Second, 200*time.Millisecond, time.Minute, "how long it is counted").WithQuick(2 * time.Second),
	},
	Columns: []lab.Column{
		{Name: "policy"}, {Name: "queue", Unit: "packets"}, {Name: "upload", Unit: "Mbit/s", Digits: 2}, {Name: "requests"},
		{Name: "answered", Unit: "%", Digits: 1}, {Name: "median", Unit: "ms", Digits: 1}, {Name: "99th", Unit: "ms", Digits: 1},
		{Name: "full queue", Unit: "ms", Digits: 1}, {Name: "waiting at most", Unit: "packets"}, {Name: "dropped", Unit: "packets"},
	},
	Takes: 8 * time.Second, QuickTakes: 5 * time.Second,
	Run: runBufferbloat,
}

// maxWindow is a receive buffer that is no limit to an upload.
const maxWindow = 4 << 20

// bloat is what passed through one queue.
type bloat struct {
	policy string
	size   int
	upload float64 // bits of payload a second
	*pinged
	stats impair.Stats
}

func runBufferbloat(ctx context.Context, r *lab.Run) (err error) {
	var all []*bloat
	for _, p := range r.Texts("policy") {
		for _, n := range r.Ints("queue") {
			all = append(all, &bloat{policy: p, size: n})
		}
	}
	lanes, err := UpLanes(ctx, r, len(all))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, CloseLanes(lanes)) }()
	defer func() { reportBufferbloat(r, all) }()
	stop := progressBy(ctx, r, r.Duration("warm")+r.Duration("over"))
	defer stop()
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, b := range all {
		wg.Go(func() { errs[i] = b.run(ctx, r, lanes[i]) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	sawBufferbloat(r, all)
	return nil
}

// run uploads and asks over one wire.
func (b *bloat) run(ctx context.Context, r *lab.Run, lane Lane) error {
	in := impair.Rules{Rate: impair.Rate(r.Float("rate") * 1e6), Limit: b.size, Delay: r.Duration("delay")}
	if b.policy == "codel" {
		in.Policy = impair.CoDelPolicy
	}
	lane.Link.Set(r, in, impair.Rules{Delay: r.Duration("delay")})
	const port = 7000
	t := lane.Targets()[0]
	pc, err := t.ListenPacket(port, 0, 0)
	if err != nil {
		return err
	}
	ln, err := t.Listen(port, 128)
	if err != nil {
		_ = pc.Close()
		return err
	}
	window := int64(maxWindow)
	if err := lane.Host.Set(services.TCP(port), porthole.Settings{ReceiveBuffer: &window}); err != nil {
		return errors.Join(err, pc.Close(), ln.Close())
	}
	var got atomic.Int64
	var serving sync.WaitGroup
	serving.Go(func() { answer(pc, 0) })
	for range r.Int("bulk") {
		serving.Go(func() { count(ln, &got) })
	}
	defer func() { _ = pc.Close(); _ = ln.Close(); serving.Wait() }()
	sending, stop := context.WithCancel(ctx)
	var sends sync.WaitGroup
	defer func() { stop(); sends.Wait() }()
	for range r.Int("bulk") {
		sends.Go(func() { upBulk(sending, t.At(port).String(), r.Text("control")) })
	}
	pause.For(ctx, r.Duration("warm"))
	began, before := time.Now(), got.Load()
	full := time.Duration(float64(time.Second) * 8 * 1500 * float64(b.size) / float64(in.Rate))
	p, err := ping(ctx, t.At(port), r.Float("requests"), 100, r.Duration("over"), min(full, 3*time.Second)+2*r.Duration("delay")+200*time.Millisecond)
	b.upload = float64(got.Load()-before) * 8 / time.Since(began).Seconds()
	b.stats, b.pinged = lane.Link.dev.InStats(), p
	return err
}

// upBulk uploads until ctx ends. Who cannot connect tries again.
func upBulk(ctx context.Context, at, control string) {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error { return congestionControl(c, control) }}
	chunk := make([]byte, 32<<10)
	for ctx.Err() == nil {
		conn, err := d.DialContext(ctx, "tcp4", at)
		if err != nil {
			pause.For(ctx, 100*time.Millisecond)
			continue
		}
		c := conn.(*net.TCPConn)
		unblock := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) })
		for {
			if _, err := c.Write(chunk); err != nil {
				break
			}
		}
		unblock()
		_ = c.SetLinger(0) // what still waits is of no use
		_ = c.Close()
	}
}

// fullQueue is the round trip behind a full queue of full packets, in ms.
func fullQueue(r *lab.Run, packets float64) float64 {
	return 2*ms(r.Duration("delay")) + packets*1500*8/r.Float("rate")/1e3
}

func reportBufferbloat(r *lab.Run, all []*bloat) {
	x := lab.Axis{Label: "queue before the wire", Unit: "packets", Log: true}
	wait := lab.Figure{
		Name: "wait", Title: "What a small request waits for behind bulk", X: x, Y: lab.Axis{Label: "median time to the answer", Unit: "ms", Log: true},
		Caption: "The lines are the round trip of the wire with a full queue, and with a wait of CoDel's target.",
	}
	upload := lab.Figure{
		Name: "upload", Title: "What the bulk transfer gets", X: x, Y: lab.Axis{Label: "upload, all connections", Unit: "Mbit/s", Min: 0, Max: 1.1 * r.Float("rate")},
		Caption: "The line is the rate of the wire without headers.",
	}
	shown := false
	for _, b := range all {
		if b.pinged == nil {
			continue
		}
		shown = true
		r.Row(b.policy, b.size, b.upload/1e6, b.sent, b.answered(), quantile(b.took, 0.5), quantile(b.took, 0.99), fullQueue(r, float64(b.size)),
			b.stats.High, b.stats.OverLimit+b.stats.Aged)
		s := lab.Series{Name: b.policy, Kind: lab.Measured, Group: slices.Index([]string{"tail-drop", "codel"}, b.policy)}
		if len(b.took) > 0 {
			point(&wait, s, float64(b.size), ms(b.took[len(b.took)/2]))
		}
		point(&upload, s, float64(b.size), b.upload/1e6)
	}
	if !shown {
		return
	}
	sizes := floats(r.Ints("queue"))
	low, high := slices.Min(sizes), slices.Max(sizes)
	line(&wait, "full queue", 0, spread(low, high, 50), func(n float64) float64 { return fullQueue(r, n) })
	line(&wait, "CoDel's target", 1, []float64{low, high}, func(float64) float64 { return 2*ms(r.Duration("delay")) + ms(impair.DefaultTarget) })
	line(&upload, "the wire", 2, []float64{low, high}, func(float64) float64 { return r.Float("rate") * payloadShare })
	r.Figure(wait)
	r.Figure(upload)
}

func sawBufferbloat(r *lab.Run, all []*bloat) {
	s := ""
	for _, b := range all {
		if n := r.Ints("queue"); b.size != slices.Min(n) && b.size != slices.Max(n) {
			continue
		}
		if s != "" {
			s += "; "
		}
		s += fmt.Sprintf("a queue of %d packets under %s let the upload have %.1f Mbit/s", b.size, b.policy, b.upload/1e6)
		if len(b.took) > 0 {
			s += fmt.Sprintf(" and half of the requests wait more than %.0f ms", ms(b.took[len(b.took)/2]))
		}
	}
	r.Saw("%s.", "A"+s[1:])
}
