package rig

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"porthole/cmd/porthole/internal/lab"
	"porthole/impair"
)

// Loss sends a file by TCP and by UDP over wires that lose packets.
var Loss = lab.Experiment{
	Name:     "loss",
	Question: "What arrives of a file over a wire that loses packets, by TCP and by UDP, when, and with how much sent again?",
	Kind:     lab.Rig,
	About: "A client sends a file to the host: over TCP, and as numbered datagrams at a steady pace that nobody repeats. Each loss has " +
		"a host and a wire of its own, all at the same time; the wire loses packets by chance in both directions and delays them. " +
		"Several files go over each wire; the table has the medians of their times and the sums of the rest. TCP is the client " +
		"kernel's; what it sent again it says itself (TCP_INFO). The lines: 1-p of the datagrams arrive; TCP that repeats nothing " +
		"but what was lost would send p/(1-p) of its segments again.",
	Means: "Loss costs UDP the data and TCP the time. A few percent are enough to make TCP much slower than the wire: each loss " +
		"halves its window, and one that its duplicate ACKs do not tell of costs a whole retransmission timeout.",
	Params: []lab.Param{
		lab.Floats("loss", []float64{0, 1, 2, 5, 10, 20}, 0, 60, "%", "of the packets, in each direction").WithQuick([]float64{0, 2, 10, 20}),
		lab.Int("file", 256<<10, 1400, 16<<20, "bytes", "of one file").WithQuick(96 << 10),
		lab.Int("files", 5, 1, 50, "files", "by each protocol, at each loss"),
		lab.Duration("delay", 10*time.Millisecond, 0, 400*time.Millisecond, "of the wire, in each direction"),
		lab.Float("pace", 10, 0.1, 200, "Mbit/s", "of each UDP sender"),
		lab.Duration("timeout", 20*time.Second, 500*time.Millisecond, 5*time.Minute, "after which a file is as it is").WithQuick(7 * time.Second),
	},
	Columns: []lab.Column{
		{Name: "protocol"}, {Name: "loss", Unit: "%", Digits: 1}, {Name: "files"}, {Name: "whole"}, {Name: "arrived", Unit: "%", Digits: 2},
		{Name: "theory", Unit: "%", Digits: 2}, {Name: "last byte", Unit: "ms"}, {Name: "slowest", Unit: "ms"},
		{Name: "sent", Unit: "packets"}, {Name: "sent again", Unit: "packets"}, {Name: "again", Unit: "%", Digits: 1},
	},
	Takes: 16 * time.Second, QuickTakes: 7 * time.Second,
	Run: runLoss,
}

// datagramData is the data in one datagram of a file.
const datagramData = 1400

// sentFile is what became of one file.
type sentFile struct {
	arrived int // bytes
	whole   bool
	took    time.Duration // until its last byte, or that of what arrived
	sent    int           // packets
	again   int           // of those
}

// lossy is what became of the files of one protocol over one wire.
type lossy struct {
	proto string
	loss  float64
	files []sentFile
}

func runLoss(ctx context.Context, r *lab.Run) (err error) {
	losses := r.Floats("loss")
	lanes, err := UpLanes(ctx, r, len(losses))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, CloseLanes(lanes)) }()
	all := make([]*lossy, 2*len(losses))
	var mu sync.Mutex // guards the files of all
	defer func() {
		mu.Lock()
		defer mu.Unlock()
		reportLoss(r, all)
	}()
	var wg sync.WaitGroup
	errs := make([]error, 2*len(losses))
	n, done := r.Int("files"), 0
	for i, p := range losses {
		rules := impair.Rules{Loss: p, Delay: r.Duration("delay")}
		lanes[i].Link.Set(r, rules, rules)
		for j, proto := range []string{"tcp", "udp"} {
			at := 2*i + j
			all[at] = &lossy{proto: proto, loss: p}
			send := sendTCP
			if proto == "udp" {
				send = sendUDP
			}
			wg.Go(func() {
				errs[at] = send(ctx, r, lanes[i].Targets()[0], n, func(f sentFile) {
					mu.Lock()
					defer mu.Unlock()
					all[at].files = append(all[at].files, f)
					done++
					r.Progress(float64(done) / float64(len(all)*n))
				})
			})
		}
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	sawLoss(r, all)
	return nil
}

// sendTCP sends n files at once, a connection each; the first bytes of each are its
// number.
func sendTCP(ctx context.Context, r *lab.Run, t Target, n int, ready func(sentFile)) error {
	const port = 7000
	ln, err := t.Listen(port, n)
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, r.Duration("timeout"))
	defer stop()
	size := r.Int("file")
	began := time.Now()
	type arrival struct {
		bytes int
		last  time.Duration
	}
	got := make([]arrival, n)
	whole := make([]chan struct{}, n) // closed when the file is
	for i := range whole {
		whole[i] = make(chan struct{})
	}
	var mu sync.Mutex // guards got
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer func() { _ = c.Close() }()
				unblock := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) })
				defer unblock()
				var head [8]byte
				if _, err := io.ReadFull(c, head[:]); err != nil {
					return
				}
				i := int(binary.BigEndian.Uint64(head[:])) % n
				buf := make([]byte, 32<<10)
				for at := len(head); ; {
					mu.Lock()
					got[i] = arrival{at, time.Since(began)}
					mu.Unlock()
					if at >= size {
						close(whole[i])
						return
					}
					m, err := c.Read(buf)
					if err != nil {
						return
					}
					at += m
				}
			})
		}
	})
	var clients sync.WaitGroup
	for i := range n {
		clients.Go(func() {
			f := sentFile{}
			defer func() {
				if f.sent > 0 || ctx.Err() == nil || context.Cause(ctx) == context.DeadlineExceeded {
					mu.Lock()
					f.arrived, f.took = got[i].bytes, got[i].last
					mu.Unlock()
					f.whole = f.arrived >= size
					ready(f)
				}
			}()
			var d net.Dialer
			conn, err := d.DialContext(ctx, "tcp4", t.At(port).String())
			if err != nil {
				return // the wire lost too much for a connection
			}
			c := conn.(*net.TCPConn)
			defer func() { _ = c.Close() }()
			unblock := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) })
			defer unblock()
			b := make([]byte, size)
			binary.BigEndian.PutUint64(b, uint64(i))
			_, _ = c.Write(b) // what did not arrive is the answer
			select {
			case <-whole[i]:
			case <-ctx.Done():
			}
			if info, err := tcpInfo(c); err == nil {
				f.sent, f.again = info.sent, info.retransmits
			}
			_ = c.SetLinger(0)
		})
	}
	clients.Wait()
	stop()
	_ = ln.Close()
	serving.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return nil
}

// sendUDP sends n files at once as numbered datagrams.
func sendUDP(ctx context.Context, r *lab.Run, t Target, n int, ready func(sentFile)) error {
	const port = 7000
	pc, err := t.ListenPacket(port, farPackets, farBytes)
	if err != nil {
		return err
	}
	size := r.Int("file")
	count := (size + datagramData - 1) / datagramData
	began := time.Now()
	var mu sync.Mutex // guards files and seen
	files := make([]sentFile, n)
	seen := make([][]bool, n)
	for i := range seen {
		seen[i] = make([]bool, count)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for {
			m, _, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if m < 8 {
				continue
			}
			i, seq := int(binary.BigEndian.Uint32(buf)), int(binary.BigEndian.Uint32(buf[4:]))
			mu.Lock()
			if i < n && seq < count && !seen[i][seq] {
				seen[i][seq] = true
				files[i].arrived += m
				files[i].took = time.Since(began)
			}
			mu.Unlock()
		}
	}()
	errs := make([]error, n)
	var clients sync.WaitGroup
	for i := range n {
		clients.Go(func() { errs[i] = sendDatagrams(ctx, r, t.At(port), i, size) })
	}
	clients.Wait()
	// Until all is there, or nothing has come for long: a busy machine may be late.
	quiet := 2*r.Duration("delay") + time.Second
	last := time.Since(began)
	over := func() bool {
		mu.Lock()
		defer mu.Unlock()
		missing := false
		for _, f := range files {
			missing, last = missing || f.arrived < size, max(last, f.took)
		}
		return !missing || time.Since(began)-last > quiet
	}
	_ = until(ctx, time.Minute, over, "the last datagrams") // what has not come by then is lost
	_ = pc.Close()
	<-done
	for _, f := range files {
		f.whole, f.sent = f.arrived >= size, count
		ready(f)
	}
	return errors.Join(errs...)
}

// sendDatagrams sends one file.
func sendDatagrams(ctx context.Context, r *lab.Run, to netip.AddrPort, file, size int) error {
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	rate := r.Float("pace") * 1e6 / 8 / datagramData
	b := make([]byte, datagramData)
	binary.BigEndian.PutUint32(b, uint32(file))
	seq := 0
	for ctx.Err() == nil && size > 0 {
		// A little at a time: steadily forgets what it is late for, and a file has an end.
		err := steadily(ctx, rate, 16, time.Duration(float64(time.Second)*16/rate), func() error {
			if size <= 0 {
				return nil
			}
			binary.BigEndian.PutUint32(b[4:], uint32(seq))
			_, err := c.Write(b[:max(8, min(size, datagramData))])
			seq, size = seq+1, size-datagramData
			return refusedIsFine(err)
		})
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// sums of the files over one wire.
func (l *lossy) sums(size int) (whole, sent, again int, arrived float64, took []time.Duration) {
	bytes := 0
	for _, f := range l.files {
		bytes, sent, again = bytes+min(f.arrived, size), sent+f.sent, again+f.again
		if f.whole {
			whole++
		}
		if f.arrived > 0 {
			took = append(took, f.took)
		}
	}
	slices.Sort(took)
	return whole, sent, again, percent(bytes, size*len(l.files)), took
}

func reportLoss(r *lab.Run, all []*lossy) {
	x := lab.Axis{Label: "loss of the wire, each way", Unit: "%"}
	arrived := lab.Figure{
		Name: "arrived", Title: "What arrived of the files", X: x, Y: lab.Axis{Label: "bytes", Unit: "%", Min: 0, Max: 103},
		Caption: "Nobody repeats a datagram: 1-p of them arrive. TCP repeats until all is there, or the time is over.",
	}
	took := lab.Figure{
		Name: "time", Title: "When the last byte arrived", X: x, Y: lab.Axis{Label: "time since the beginning, median", Unit: "ms", Log: true},
		Caption: "UDP keeps its pace whatever is lost.",
	}
	again := lab.Figure{
		Name: "again", Title: "What TCP sent again", X: x, Y: lab.Axis{Label: "segments sent again", Unit: "% of those needed"},
		Caption: "The line is p/(1-p): every lost segment, and every lost repetition, once more.",
	}
	size := r.Int("file")
	var ps []float64
	for _, l := range all {
		if l == nil || len(l.files) == 0 {
			continue
		}
		whole, sent, resent, share, times := l.sums(size)
		g, theory := 0, 100.
		var last, slowest, resentShare any
		if l.proto == "udp" {
			g, theory = 1, 100-l.loss
		} else {
			ps = append(ps, l.loss)
			if sent > resent {
				resentShare = percent(resent, sent-resent)
				point(&again, lab.Series{Name: "TCP", Kind: lab.Measured}, l.loss, percent(resent, sent-resent))
			}
		}
		s := lab.Series{Name: map[string]string{"tcp": "TCP", "udp": "UDP"}[l.proto], Kind: lab.Measured, Group: g}
		point(&arrived, s, l.loss, share)
		if len(times) > 0 {
			last, slowest = times[len(times)/2], times[len(times)-1]
			point(&took, s, l.loss, ms(times[len(times)/2]))
		}
		r.Row(l.proto, l.loss, len(l.files), whole, share, theory, last, slowest, sent, resent, resentShare)
	}
	if len(ps) > 0 {
		line(&arrived, "1-p", 1, ps, func(p float64) float64 { return 100 - p })
		line(&again, "p/(1-p)", 0, ps, func(p float64) float64 { return 100 * p / (100 - p) })
	}
	r.Figure(arrived)
	r.Figure(took)
	r.Figure(again)
}

func sawLoss(r *lab.Run, all []*lossy) {
	size := r.Int("file")
	s := ""
	for _, l := range all {
		if l.loss != slices.Min(r.Floats("loss")) && l.loss != slices.Max(r.Floats("loss")) {
			continue
		}
		whole, _, again, share, times := l.sums(size)
		if s != "" {
			s += "; "
		}
		s += fmt.Sprintf("at %g %% loss %.1f %% of the data arrived by %s", l.loss, share, l.proto)
		if len(times) > 0 {
			s += fmt.Sprintf(" in %.0f ms (median)", ms(times[len(times)/2]))
		}
		if l.proto == "tcp" {
			s += fmt.Sprintf(", %d of %d files whole, with %d segments sent again", whole, len(l.files), again)
		}
	}
	r.Saw("%s.", "A"+s[1:])
}
