package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"porthole"
	"porthole/cmd/porthole/internal/lab"
	"porthole/cmd/porthole/internal/pause"
	"porthole/impair"
	"porthole/services"
)

// Window uploads through receive windows of several sizes.
var Window = lab.Experiment{
	Name:     "window",
	Question: "How fast is one connection by its receive window, on a wire of a given rate and delay?",
	Kind:     lab.Rig,
	About: "A client uploads as fast as it can to a service whose receive buffer is set (porthole set PORT receive-buffer=...), over " +
		"a wire with a rate and a delay; one size after the other. TCP may have one window on the way in a round trip, so that " +
		"throughput is window/RTT until the wire is full: at the bandwidth-delay product. The window drawn is the mean of what the " +
		"client's kernel was offered meanwhile (TCP_INFO): less than the buffer, of which a part is left for overhead, and less " +
		"again while data waits to be read. What comes before the connection has found its speed is not counted.",
	Means: "Below the bandwidth-delay product the receiver's window is the limit, whatever the wire can do: double the window or halve " +
		"the delay and it is twice as fast. Above it a larger window only fills the queue before the bottleneck: no faster, and later.",
	Params: []lab.Param{
		lab.Ints("buffer", []int{8192, 16384, 32768, 65536, 131072, 262144, 524288, 1048576, 2097152}, 4096, 4<<20, "bytes", "of receive buffer").
			WithQuick([]int{16384, 65536, 262144, 1048576}),
		lab.Duration("delay", 20*time.Millisecond, 0, 400*time.Millisecond, "of the wire, in each direction"),
		lab.Float("rate", 40, 0.1, 1000, "Mbit/s", "of the wire, towards the service"),
		lab.Duration("warm", 500*time.Millisecond, 0, 10*time.Second, "before anything is counted").WithQuick(400 * time.Millisecond),
		lab.Duration("over", time.Second, 50*time.Millisecond, time.Minute, "how long it is counted").WithQuick(500 * time.Millisecond),
	},
	Columns: []lab.Column{
		{Name: "buffer", Unit: "bytes"}, {Name: "window", Unit: "bytes"}, {Name: "window", Unit: "of BDP", Digits: 2}, {Name: "throughput", Unit: "Mbit/s", Digits: 2},
		{Name: "theory", Unit: "Mbit/s", Digits: 2}, {Name: "smallest RTT", Unit: "ms", Digits: 1}, {Name: "waiting at most", Unit: "packets"}, {Name: "resent", Unit: "segments"},
	},
	Takes: 15 * time.Second, QuickTakes: 5 * time.Second,
	Run: runWindow,
}

// upload is one connection through one window.
type upload struct {
	buffer int
	window int     // bytes, the mean of what was offered
	rate   float64 // of payload, in bits a second
	theory float64
	info   connInfo
	queue  int // most packets that waited for the wire
}

// payloadShare is what a full packet of 1500 bytes carries of data, with timestamps.
const payloadShare = 1448. / 1500

func runWindow(ctx context.Context, r *lab.Run) (err error) {
	g, link, err := UpLink(ctx, r, Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	rate := r.Float("rate") * 1e6
	rtt := 2 * r.Duration("delay")
	bdp := rate / 8 * rtt.Seconds()
	r.Setup("bandwidth-delay product: %.0f bytes (%g Mbit/s, %v)", bdp, r.Float("rate"), rtt)
	var all []*upload
	defer func() { reportWindow(r, all, bdp) }()
	for i, n := range r.Ints("buffer") {
		// Setting the rules anew empties the queue and its counters.
		link.Set(r, impair.Rules{Rate: impair.Rate(rate), Delay: r.Duration("delay"), Limit: 8192}, impair.Rules{Delay: r.Duration("delay")})
		u, err := uploadThrough(ctx, r, g, link, 7000+uint16(i), n)
		if err != nil {
			return err
		}
		u.theory = rate * payloadShare
		if rtt > 0 {
			u.theory = min(u.theory, float64(u.window)*8/rtt.Seconds())
		}
		all = append(all, u)
		r.Progress(float64(i+1) / float64(len(r.Ints("buffer"))))
	}
	sawWindow(r, all, bdp)
	return nil
}

// uploadThrough uploads to a port with that receive buffer.
func uploadThrough(ctx context.Context, r *lab.Run, g *Rig, link *Link, port uint16, buffer int) (*upload, error) {
	t := g.Targets()[0]
	ln, err := t.Listen(port, 16)
	if err != nil {
		return nil, err
	}
	size := int64(buffer)
	if err := g.Host.Set(services.TCP(port), porthole.Settings{ReceiveBuffer: &size}); err != nil {
		return nil, err
	}
	var got atomic.Int64
	done := make(chan struct{})
	go func() { defer close(done); count(ln, &got) }()
	d := net.Dialer{Timeout: 4*r.Duration("delay") + patience}
	conn, err := d.DialContext(ctx, "tcp4", t.At(port).String())
	if err != nil {
		_ = ln.Close()
		<-done
		return nil, err
	}
	c := conn.(*net.TCPConn)
	// The buffer is set when the service has taken the connection, and a window that was
	// offered is never taken back: the upload begins after a byte that says so.
	_ = c.SetReadDeadline(time.Now().Add(d.Timeout))
	_, rerr := io.ReadFull(c, make([]byte, 1))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		chunk := make([]byte, 32<<10)
		for {
			if _, err := c.Write(chunk); err != nil {
				return // the other side of this function has ended it
			}
		}
	}()
	u := &upload{buffer: buffer}
	var last connInfo
	var windows, looks int
	watch := func(over time.Duration) error {
		for began := time.Now(); time.Since(began) < over; {
			if !pause.For(ctx, min(5*time.Millisecond, over)) {
				return ctx.Err()
			}
			info, err := tcpInfo(c)
			if err != nil {
				return err
			}
			last, windows, looks = info, windows+info.window, looks+1
		}
		return nil
	}
	err = rerr
	if err == nil {
		err = watch(r.Duration("warm"))
	}
	began, before := time.Now(), got.Load()
	windows, looks = 0, 0 // the first ones were offered before
	if err == nil {
		err = watch(r.Duration("over"))
	}
	u.rate = float64(got.Load()-before) * 8 / time.Since(began).Seconds()
	u.window = windows / max(looks, 1)
	u.info, u.queue = last, link.dev.InStats().High
	_ = c.SetLinger(0) // what is still on the way is of no use
	_ = c.Close()
	_ = ln.Close()
	<-sent
	<-done
	return u, err
}

// count reads one connection to its end and counts the bytes. It begins with a byte of
// its own: it is there.
func count(ln net.Listener, n *atomic.Int64) {
	c, err := ln.Accept()
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	_, _ = c.Write([]byte{'.'})
	buf := make([]byte, 64<<10)
	for {
		_ = c.SetReadDeadline(time.Now().Add(2 * time.Second)) // the RST may be lost on the way
		m, err := c.Read(buf)
		n.Add(int64(m))
		if err != nil {
			return
		}
	}
}

func reportWindow(r *lab.Run, all []*upload, bdp float64) {
	f := lab.Figure{
		Name: "throughput", Title: "Throughput of one connection by its window",
		X:       lab.Axis{Label: "receive window", Unit: "bytes", Log: true},
		Y:       lab.Axis{Label: "throughput", Unit: "Mbit/s", Log: true},
		Caption: "The line is window/RTT up to the wire's rate; they meet at the bandwidth-delay product (BDP). A window of few segments carries whole ones only, and is below the line.",
	}
	low, high := bdp, bdp
	for _, u := range all {
		of := any(nil)
		if bdp > 0 {
			of = float64(u.window) / bdp
		}
		r.Row(u.buffer, u.window, of, u.rate/1e6, u.theory/1e6, u.info.rtt, u.queue, u.info.retransmits)
		if u.window > 0 && u.rate > 0 {
			point(&f, lab.Series{Name: "measured", Kind: lab.Measured}, float64(u.window), u.rate/1e6)
			low, high = min(low, float64(u.window)), max(high, float64(u.window))
		}
	}
	if bdp > 0 && len(all) > 0 {
		rate, rtt := r.Float("rate"), 2*r.Duration("delay").Seconds()
		line(&f, "window / RTT", 0, spread(low, high, 60), func(x float64) float64 { return min(rate*payloadShare, x*8/rtt/1e6) })
		f.Marks = []lab.Mark{{X: bdp, Label: fmt.Sprintf("BDP: %.0f bytes", bdp)}}
	}
	r.Figure(f)
}

func sawWindow(r *lab.Run, all []*upload, bdp float64) {
	var small, large *upload
	off := 0.
	for _, u := range all {
		if small == nil || u.window < small.window {
			small = u
		}
		if large == nil || u.window > large.window {
			large = u
		}
		off = max(off, abs(u.rate/u.theory-1))
	}
	r.Saw("A window of %d bytes gave %.2f Mbit/s and one of %d bytes %.2f Mbit/s on a wire of %g Mbit/s whose bandwidth-delay product is %.0f bytes; "+
		"the farthest from min(window/RTT, rate) was %.0f %% off.", small.window, small.rate/1e6, large.window, large.rate/1e6, r.Float("rate"), bdp, 100*off)
}

func abs(x float64) float64 { return max(x, -x) }
