package rig

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"porthole/cmd/porthole/internal/lab"
)

// Ports uses a client's ports up.
var Ports = lab.Experiment{
	Name:     "ports",
	Question: "How many connections can a client open before it has no port left, and who decides that?",
	Kind:     lab.Rig,
	Kernel:   true,
	About: "The client's range of ephemeral ports is narrowed (net.ipv4.ip_local_port_range, in the private network), and it opens " +
		"one short connection after the other at a steady rate. Whoever closes first keeps the pair of addresses and ports in " +
		"TIME-WAIT (60 s on Linux). The cases: the client closes first; it does so towards two ports of the server in turn; it may " +
		"reuse a pair that has waited a second (net.ipv4.tcp_tw_reuse=1, by timestamps); it resets instead of closing (SO_LINGER 0, " +
		"no TIME-WAIT); the server closes first, so that the server has to take a new SYN for a pair in TIME-WAIT (RFC 6191).",
	Means: "A client that closes first can open one connection for each ephemeral port, destination and minute, then connect fails with " +
		"EADDRNOTAVAIL before any packet is sent: nothing is to be seen at the server. A second destination, tw_reuse, or a server " +
		"that closes first gives it ports again.",
	Params: []lab.Param{
		lab.Int("range", 64, 2, 20000, "ports", "that the client may use"),
		lab.Int("rate", 400, 1, 5000, "connections/s", "that the client tries"),
		lab.Duration("over", 3*time.Second, 200*time.Millisecond, 50*time.Second, "how long it tries").WithQuick(1400 * time.Millisecond),
	},
	Columns: []lab.Column{
		{Name: "server"}, {Name: "closes first"}, {Name: "tried"}, {Name: "connected"}, {Name: "no port", Unit: "EADDRNOTAVAIL"},
		{Name: "first after", Unit: "connections"}, {Name: "at", Unit: "ms"}, {Name: "other errors"}, {Name: "TIME-WAIT", Unit: "at the client"},
	},
	Takes: 8 * time.Second, QuickTakes: 4 * time.Second,
	Run: runPorts,
}

// portCase is one way of using ports.
type portCase struct {
	name    string
	servers int  // ports of the server
	server  bool // closes first
	reset   bool // the client does
	reuse   bool // net.ipv4.tcp_tw_reuse=1
}

var portCases = []portCase{
	{name: "client", servers: 1},
	{name: "client, two destinations", servers: 2},
	{name: "client, by RST", servers: 1, reset: true},
	{name: "server", servers: 1, server: true},
	{name: "client, tw_reuse", servers: 1, reuse: true},
}

// used is what a client met in one case at one target.
type used struct {
	target    Target
	portCase  portCase
	port      uint16 // the first of the server's
	tried     int
	connected []time.Duration // when, since the case began
	noPort    int
	first     int           // connections before the first EADDRNOTAVAIL
	firstAt   time.Duration // when that was
	other     map[string]int
	timeWait  int
}

func runPorts(ctx context.Context, r *lab.Run) (err error) {
	g, err := Up(ctx, r, Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	const low = 40000
	if err := Sysctl("net.ipv4.ip_local_port_range", fmt.Sprintf("%d %d", low, low+r.Int("range")-1)); err != nil {
		return fmt.Errorf("narrow the client's ports: %w", err)
	}
	r.Setup("the client's ports: %d to %d", low, low+r.Int("range")-1)
	var all []*used
	defer func() { reportPorts(r, all) }()
	stop := progressBy(ctx, r, 2*r.Duration("over"))
	defer stop()
	for _, reuse := range []bool{false, true} { // one setting for the whole network
		if err := Sysctl("net.ipv4.tcp_tw_reuse", map[bool]string{false: "0", true: "1"}[reuse]); err != nil {
			return err
		}
		var wg sync.WaitGroup
		var now []*used
		errs := make([]error, len(portCases)*len(g.Targets()))
		for i, c := range portCases {
			if c.reuse != reuse {
				continue
			}
			for _, t := range g.Targets() {
				f := &used{target: t, portCase: c, port: 7000 + uint16(10*i), other: map[string]int{}}
				now = append(now, f)
				at := len(now) - 1
				wg.Go(func() { errs[at] = f.run(ctx, r) })
			}
		}
		wg.Wait()
		all = append(all, now...)
		for i, f := range now { // when nobody opens or closes: see timeWaits
			errs[i] = errors.Join(errs[i], f.countTimeWaits(ctx))
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	sawPorts(r, all)
	return nil
}

// run opens and closes connections to ports of its own.
func (f *used) run(ctx context.Context, r *lab.Run) error {
	var serving sync.WaitGroup
	defer serving.Wait()
	for i := range f.portCase.servers {
		ln, err := f.target.Listen(f.port+uint16(i), 128)
		if err != nil {
			return err
		}
		defer func() { _ = ln.Close() }()
		serving.Go(func() { f.serve(ln) })
	}
	began := time.Now()
	d := net.Dialer{Timeout: patience}
	return steadily(ctx, float64(r.Int("rate")), 1, r.Duration("over"), func() error {
		c, err := d.DialContext(ctx, "tcp4", f.target.At(f.port+uint16(f.tried%f.portCase.servers)).String())
		switch {
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			if f.noPort == 0 {
				f.first, f.firstAt = len(f.connected), time.Since(began)
			}
			f.noPort++
		case err != nil:
			f.other[why(err)]++
		default:
			f.connected = append(f.connected, time.Since(began))
			if err := f.talk(c.(*net.TCPConn)); err != nil {
				f.other[why(err)]++
			}
		}
		f.tried++
		return nil
	})
}

// why names an error as a client's log would.
func why(err error) string {
	var errno syscall.Errno
	var timeout net.Error
	switch {
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timed out"
	}
	return err.Error()
}

// serve takes connections and closes them, first or last.
func (f *used) serve(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		if f.portCase.server {
			_, _ = c.Write([]byte{'.'})
			if tc, ok := c.(interface{ CloseWrite() error }); ok {
				_ = tc.CloseWrite()
			}
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	}
}

// talk is the client's part.
func (f *used) talk(c *net.TCPConn) error {
	defer func() { _ = c.Close() }()
	switch {
	case f.portCase.reset:
		return c.SetLinger(0)
	case f.portCase.server:
		_ = c.SetReadDeadline(time.Now().Add(patience))
		_, err := io.Copy(io.Discard, c)
		return err
	}
	_, err := c.Write([]byte{'.'})
	return err
}

// countTimeWaits waits until none of the client's sockets is on its way to TIME-WAIT,
// and counts those that are in it.
func (f *used) countTimeWaits(ctx context.Context) error {
	var others int
	var err error
	_ = until(ctx, patience, func() bool { // who is on the way for longer does not count
		f.timeWait, others, err = timeWaits(f.target, f.port, f.portCase.servers)
		return err != nil || others == 0
	}, "the last FIN")
	return err
}

// timeWaits counts the client's sockets towards those ports: those in TIME-WAIT and the
// others. The kernel gives its list in parts, and finds its place again by counting: a
// list that changes meanwhile has one twice, or not at all.
func timeWaits(t Target, port uint16, n int) (waiting, others int, err error) {
	file, err := os.Open("/proc/thread-self/net/tcp")
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = file.Close() }()
	a := t.Addr.As4()
	lines := bufio.NewScanner(file)
	for lines.Scan() { // sl local_address rem_address st ...
		w := strings.Fields(lines.Text())
		if len(w) < 4 {
			continue
		}
		addr, p, _ := strings.Cut(w[2], ":")
		v, err := strconv.ParseUint(p, 16, 16)
		switch ours := err == nil && addr == fmt.Sprintf("%02X%02X%02X%02X", a[3], a[2], a[1], a[0]) && int(v) >= int(port) && int(v) < int(port)+n; {
		case ours && w[3] == "06":
			waiting++
		case ours:
			others++
		}
	}
	return waiting, others, lines.Err()
}

func (f *used) errors() string {
	s := ""
	for e, n := range f.other {
		if s != "" {
			s += ", "
		}
		s += fmt.Sprintf("%d %s", n, e)
	}
	return s
}

func reportPorts(r *lab.Run, all []*used) {
	opened := lab.Figure{
		Name: "opened", Title: fmt.Sprintf("Connections opened with %d ephemeral ports", r.Int("range")),
		X:       lab.Axis{Label: "time", Unit: "s", Max: r.Duration("over").Seconds()},
		Y:       lab.Axis{Label: "connections so far", Log: true, Min: max(1, float64(r.Int("range")/4))},
		Caption: "A flat line is a client without a port; with tw_reuse each second gives the range once more. The legend says who closes first.",
	}
	over := r.Duration("over").Seconds()
	for _, f := range all {
		var first, at, other any
		if f.noPort > 0 {
			first, at = f.first, f.firstAt
		}
		if len(f.other) > 0 {
			other = f.errors()
		}
		r.Row(f.target.Name, f.portCase.name, f.tried, len(f.connected), f.noPort, first, at, other, f.timeWait)
		g := 0
		for i := range portCases {
			if portCases[i].name == f.portCase.name {
				g = i
			}
		}
		const looks = 14 // points a line
		s := f.target.series(f.portCase.name, g)
		for i := range looks {
			at := over * float64(i+1) / looks
			n := 0
			for _, d := range f.connected {
				if d.Seconds() <= at {
					n++
				}
			}
			if n > 0 {
				point(&opened, s, at, float64(n))
			}
		}
	}
	ports, rate := float64(r.Int("range")), float64(r.Int("rate"))
	var xs []float64
	for i := range 200 {
		xs = append(xs, over*float64(i+1)/200)
	}
	line(&opened, "range", 0, xs, func(x float64) float64 { return min(ports, rate*x) })
	line(&opened, "twice the range", 1, xs, func(x float64) float64 { return min(2*ports, rate*x) })
	line(&opened, "range, each second", 4, xs, func(x float64) float64 {
		n := 0.0
		for t, left := 0.0, x; left > 0; t, left = t+1, left-max(1, ports/rate) {
			n += min(ports, rate*left)
		}
		return n
	})
	r.Figure(opened)
}

func sawPorts(r *lab.Run, all []*used) {
	s := fmt.Sprintf("With %d ports", r.Int("range"))
	for i, f := range all {
		if f.target.Kernel {
			continue
		}
		if i > 0 {
			s += ";"
		}
		s += fmt.Sprintf(" a client had %d of %d connections (closes first: %s)", len(f.connected), f.tried, f.portCase.name)
		if f.noPort > 0 {
			s += fmt.Sprintf(" and heard EADDRNOTAVAIL %d times, first after %d", f.noPort, f.first)
		}
	}
	r.Saw("%s.", s)
}
