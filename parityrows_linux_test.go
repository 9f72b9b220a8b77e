package porthole_test

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/stack"
)

type parityRow struct {
	name   string
	set    paritySettings
	six    bool // on IPv6 too
	loud   bool // keeps the machine busy
	script func(x *parityRun)
}

var parityRows = []parityRow{
	{"backlog 0", paritySettings{backlog: 0}, false, false, fillAndServe},
	{"backlog 1", paritySettings{backlog: 1}, true, false, fillAndServe},
	{"backlog 4", paritySettings{backlog: 4}, false, false, fillAndServe},
	{"backlog 128", paritySettings{backlog: 128}, false, false, fillAndServe},
	{"backlog 4, cookies auto", paritySettings{backlog: 4, cookies: 1}, false, false, fillAndServe},
	{"backlog 1, cookies always", paritySettings{backlog: 1, cookies: 2}, false, false, fillAndServe},
	{"final ACK dropped, SYN+ACK again", paritySettings{backlog: 1}, true, false, finalACKs},
	{"final ACK dropped, data completes", paritySettings{backlog: 0}, false, false, dataCompletes},
	{"abort on overflow", paritySettings{backlog: 0, abort: true}, false, false, abortOnOverflow},
	{"SYN queue of 0 full", paritySettings{backlog: 0}, false, false, synQueueFull},
	{"SYN queue of 1 full", paritySettings{backlog: 1}, true, false, synQueueFull},
	{"SYN queue of 4 full", paritySettings{backlog: 4}, false, false, synQueueFull},
	{"SYN queue full, cookies auto", paritySettings{backlog: 1, cookies: 1}, true, false, cookiesAuto},
	{"cookies always", paritySettings{backlog: 1, cookies: 2}, false, false, cookiesAlways},
	{"SYN repeated", paritySettings{backlog: 4}, true, false, synRepeated},
	{"RST gives a half-open place back", paritySettings{backlog: 1}, false, false, rstFrees},
	{"half-open, first seconds", paritySettings{backlog: 4}, false, false, halfOpenLife},
	{"half-open, forged segments", paritySettings{backlog: 4}, false, false, forged},
	{"other flags to a listener", paritySettings{backlog: 64}, false, false, oddFlags},
	{"backlog changed while it waits", paritySettings{backlog: 4}, false, false, relisten},
	{"closed while they wait", paritySettings{backlog: 4}, true, false, closeWhileWaiting},
	{"flood of 20,000 SYN, cookies auto", paritySettings{backlog: 64, cookies: 1}, false, true, flood},
}

// TestKernelParity prints and compares the table. What happens in one moment may differ
// on a busy machine, so those that differ are run again, with ever less beside them. It
// takes three times on a machine that was on time, or each time that there is.
func TestKernelParity(t *testing.T) {
	if testing.Short() {
		t.Skip("two hosts' timers are compared: not beside the race detector")
	}
	need(t)
	rows := parityRows
	if os.Getenv("PORTHOLE_LONG") != "" {
		rows = append(rows[:len(rows):len(rows)], parityRow{"half-open, to its end", paritySettings{backlog: 4}, false, false, halfOpenEnd})
	}
	onTime := map[string]int{}
	for range parityRounds {
		differ, late, table := kernelParity(t, rows)
		t.Log(table)
		rows = nil
		for _, r := range differ {
			if !late[r.name] {
				onTime[r.name]++
			}
			if onTime[r.name] < 3 {
				rows = append(rows, r)
			} else {
				t.Errorf("differs: %s", r.name)
			}
		}
		if len(rows) == 0 {
			return
		}
	}
	for _, r := range rows {
		t.Errorf("differs %d times, %d of them on a machine that was on time: %s", parityRounds, onTime[r.name], r.name)
	}
}

const parityRounds = 8

// lateness notes when this process did not get to run for a while.
type lateness struct {
	quit  chan struct{}
	ended sync.WaitGroup
	times [][2]time.Time
}

// lateBy is how late the machine may be: scripts wait for a fifth of a second at least.
const lateBy = 50 * time.Millisecond

func watchLateness() *lateness {
	l := &lateness{quit: make(chan struct{})}
	l.ended.Go(func() {
		tick := time.NewTicker(lateBy / 10)
		defer tick.Stop()
		for last := time.Now(); ; {
			select {
			case <-l.quit:
				return
			case <-tick.C:
			}
			now := time.Now()
			if now.Sub(last) > lateBy {
				l.times = append(l.times, [2]time.Time{last, now})
			}
			last = now
		}
	})
	return l
}

func (l *lateness) stop() {
	close(l.quit)
	l.ended.Wait()
}

// during reports whether it was late in the time of a run. It has stopped.
func (l *lateness) during(x *parityRun) bool {
	return slices.ContainsFunc(l.times, func(t [2]time.Time) bool { return t[0].Before(x.end) && t[1].After(x.start) })
}

// kernelParity runs rows on both sides and returns those that differ, and in whose time
// the machine was late.
func kernelParity(t *testing.T, rows []parityRow) (bad []parityRow, late map[string]bool, table string) {
	type result struct {
		row          parityRow
		v6           bool
		kernel, ours *parityRun
	}
	var results []result
	type place struct {
		ns    string
		wire  *wire
		stack *stack.Stack
	}
	places := map[paritySettings]place{} // one for each way the sysctls are set
	more := kernelAdmits(t)
	for i, row := range rows {
		key := row.set
		key.backlog = 0
		p, ok := places[key]
		if !ok {
			ns := parityNamespace(t, row.set)
			s, _ := newOurStack(t, ns)
			p = place{ns, newWire(t, ns), s}
			places[key] = p
		}
		for _, v6 := range []bool{false, true} {
			if v6 && !row.six {
				continue
			}
			kernelAt, ourAt := netip.MustParseAddr("10.78.0.1"), netip.MustParseAddr("10.77.0.1")
			port := uint16(80 + i)
			if v6 {
				kernelAt, ourAt = netip.MustParseAddr("fd78::1"), netip.MustParseAddr("fd77::1")
				port += 1000
			}
			k := &parityRun{t: t, ns: p.ns, wire: p.wire, to: netip.AddrPortFrom(kernelAt, port)}
			k.server = newKernelServer(t, p.ns, k.to, row.set.backlog)
			o := &parityRun{t: t, ns: p.ns, wire: p.wire, to: netip.AddrPortFrom(ourAt, port), differ: map[int]string{}}
			o.server = newOurServer(t, p.stack, port, row.set, more-1)
			results = append(results, result{row, v6, k, o})
		}
	}
	// All at once, since they mostly wait; but for the flood, which would delay them.
	watch := watchLateness()
	var scripts sync.WaitGroup
	for _, loud := range []bool{false, true} {
		for i, r := range results {
			for _, x := range []*parityRun{r.kernel, r.ours} {
				if r.row.loud == loud {
					later := time.After(time.Duration(i) * 40 * time.Millisecond) // not all in the same instant
					scripts.Go(func() {
						<-later
						x.play(r.row.script)
					})
				}
			}
		}
		scripts.Wait()
	}
	watch.stop()
	late = map[string]bool{}
	var b strings.Builder
	fmt.Fprintf(&b, "kernel %s: a SYN queue of N holds N+%d\n", kernelVersion(), more)
	for _, row := range rows {
		differs := false
		for _, r := range results {
			if r.row.name != row.name {
				continue
			}
			family := "IPv4"
			if r.v6 {
				family = "IPv6"
			}
			fmt.Fprintf(&b, "\n%s, %s\n", row.name, family)
			differs = differs || r.kernel.gaveUp || r.ours.gaveUp
			if watch.during(r.kernel) || watch.during(r.ours) {
				late[row.name] = true
				fmt.Fprintf(&b, "  the machine was late by more than %v\n", lateBy)
			}
			for i := range max(len(r.kernel.saw), len(r.ours.saw)) {
				var k, o saw
				if i < len(r.kernel.saw) {
					k = r.kernel.saw[i]
				}
				if i < len(r.ours.saw) {
					o = r.ours.saw[i]
				}
				mark := "="
				// The kernel's timer wheel may be late by an eighth of what is waited for.
				tolerance := parityTolerance + max(0, max(k.at, o.at)-4*time.Second)/8
				if d := k.at - o.at; k.what != o.what || d > tolerance || d < -tolerance {
					mark = "DIFFERS"
					if why := r.ours.differ[i]; why != "" {
						mark = "known: " + why
					} else {
						differs = true
					}
				}
				fmt.Fprintf(&b, "  %-48s | %-48s | %s\n", k, o, mark)
			}
		}
		if differs {
			bad = append(bad, row)
		}
	}
	return bad, late, b.String()
}

// kernelAdmits is 1 for a kernel whose SYN queue of N holds N+1 (since 2025), as
// ours does, and 0 for an older one, which ours then imitates.
func kernelAdmits(t testing.TB) int {
	ns := parityNamespace(t, paritySettings{})
	x := &parityRun{t: t, ns: ns, wire: newWire(t, ns), to: netip.MustParseAddrPort("10.78.0.1:80"), start: time.Now()}
	newKernelServer(t, ns, x.to, 1)
	first, second := x.client(0), x.client(1)
	require.True(t, first.half())
	return map[bool]int{true: 1}[second.half()]
}

func (s saw) String() string {
	if s.at < 0 {
		return s.what
	}
	return fmt.Sprintf("%s, %.2f s", s.what, s.at.Seconds())
}

// fillAndServe has four more clients than the backlog, then a service that takes two.
func fillAndServe(x *parityRun) {
	var cs []*kclient
	n := 0
	for range x.backlog() + 4 {
		c := x.connect()
		cs = append(cs, c)
		if c.connected() {
			n++
		}
	}
	x.note("%d of %d connected", n, len(cs))
	last := cs[len(cs)-3:]
	<-time.After(time.Until(last[2].start.Add(1300 * time.Millisecond)))
	for i, c := range last {
		c.note(fmt.Sprintf("client N+%d", i+2))
	}
	x.note("%d accepted", x.server.accept(2))
	<-time.After(time.Until(last[2].start.Add(3300 * time.Millisecond)))
	for i, c := range last {
		c.note(fmt.Sprintf("client N+%d", i+2))
	}
	x.note("%d more accepted", x.server.accept(len(cs)))
}

func (x *parityRun) backlog() int {
	switch s := x.server.(type) {
	case *ourServer:
		return s.conf.Backlog
	case *kernelServer:
		return s.backlog
	}
	return 0
}

// finalACKs has five half-open connections whose ACKs come when there is room for two.
func finalACKs(x *parityRun) {
	var cs [5]*rclient
	for i := range cs {
		cs[i] = x.client(i)
		x.note("SYN %d answered %v", i, cs[i].half())
		if i == 1 { // the SYN queue's limit is 1 too: make room
			x.server.listen(8)
		}
	}
	x.server.listen(1)
	for _, c := range cs {
		c.ack("")
		c.ack("")
	}
	x.until(2 * time.Second)
	x.note("%d accepted", x.server.accept(2))
	x.until(3600 * time.Millisecond)
	for _, c := range cs[2:] {
		c.ack("")
	}
	// The kernel has taken them when they are sent, ours a moment later: who accepts at
	// once makes room for the third.
	x.until(5 * time.Second)
	x.note("%d accepted", x.server.accept(3))
	for i, c := range cs {
		c.note(fmt.Sprintf("client %d", i))
	}
}

func dataCompletes(x *parityRun) {
	a, b := x.client(0), x.client(1)
	x.note("%v", a.half())
	x.server.listen(4)
	x.note("%v", b.half())
	x.server.listen(0)
	a.ack("")
	x.until(100 * time.Millisecond)
	b.ack("hello")
	x.until(300 * time.Millisecond)
	x.note("%d accepted", x.server.accept(2))
	b.ack("hello")
	x.note("%d accepted", x.server.accept(1))
	x.note("read %q", x.server.read(1, 5))
	x.note("second answer %v", b.answer(1))
}

func abortOnOverflow(x *parityRun) {
	x.server.listen(8)
	var cs [4]*rclient
	for i := range cs {
		cs[i] = x.client(i)
		x.note("SYN %d answered %v", i, cs[i].half())
	}
	x.server.listen(0)
	cs[0].ack("")
	x.until(200 * time.Millisecond)
	cs[1].ack("")
	cs[2].ack("data")
	x.note("final ACK: %s", cs[1].answer(1))
	x.note("data: %s", cs[2].answer(1))
	c := x.connect()
	x.until(time.Second + 800*time.Millisecond)
	c.note("a new client")
	x.note("%d accepted", x.server.accept(2))
	cs[1].ack("")
	x.note("final ACK again: %s", cs[1].answer(2))
	x.until(3 * time.Second)
	c.note("the new client")
	for i, c := range cs {
		c.note(fmt.Sprintf("client %d", i))
	}
}

// synQueueFull fills the SYN queue with clients that do not exist; a real one tries
// for eight seconds.
func synQueueFull(x *parityRun) {
	cs := make([]*rclient, x.backlog()+4)
	for i := range cs {
		cs[i] = x.client(i)
		cs[i].syn()
	}
	count := func(answers int) (n int) {
		for _, c := range cs {
			if len(c.heard()) == answers {
				n++
			}
		}
		return n
	}
	x.until(500 * time.Millisecond)
	x.note("backlog %d: %d half-open", x.backlog(), count(1))
	c := x.connect()
	c.note("client")
	x.until(6 * time.Second)
	x.note("%d have heard SYN+ACK three times", count(3))
	c.note("client")
	x.until(8500 * time.Millisecond)
	// Which of them end first is a matter of chance.
	x.note("%d have heard SYN+ACK three times, %d four times", count(3), count(4))
	c.note("client")
}

func cookiesAuto(x *parityRun) {
	var cs [5]*rclient
	for i := range cs {
		cs[i] = x.client(i)
		x.note("SYN %d answered %v", i, cs[i].half())
	}
	k := x.connect()
	k.note("client")
	x.note("%d accepted", x.server.accept(1))
	cs[4].ack("hello") // of a cookie
	x.note("%d accepted", x.server.accept(1))
	x.note("read %q", x.server.read(1, 5))
	cs[3].send(rawSegment{flags: tACK, seq: cs[3].irs + 1, ack: 99})
	x.note("forged ACK: %s", cs[3].answer(1))
	for range 3 {
		x.connect().note("client")
	}
	cs[2].ack("") // of a cookie, the accept queue is full
	x.until(1800 * time.Millisecond)
	x.note("%d accepted", x.server.accept(2))
	for i, c := range cs {
		c.note(fmt.Sprintf("client %d", i))
	}
}

func cookiesAlways(x *parityRun) {
	a, b := x.client(0), x.client(1)
	x.note("%v %v", a.half(), b.half())
	a.ack("hello")
	x.note("%d accepted", x.server.accept(1))
	x.note("read %q", x.server.read(0, 5))
	a.syn() // on the connection that it made
	x.until(1500 * time.Millisecond)
	a.note("client")
	b.note("silent client")
}

func synRepeated(x *parityRun) {
	c := x.client(0)
	c.half()
	for _, at := range []int{100, 200, 750} {
		x.until(time.Duration(at) * time.Millisecond)
		c.syn()
	}
	x.until(950 * time.Millisecond)
	c.note("client")
	x.known = "a repeated SYN puts the kernel's own timer off, not netstack's"
	x.until(2500 * time.Millisecond)
	h := c.heard()
	for _, h := range h[min(3, len(h)):] {
		x.noteAt(h.at.Sub(c.sent), "later heard %s", flagNames(h.seg.flags))
	}
}

func rstFrees(x *parityRun) {
	var cs [4]*rclient
	for i := range cs {
		cs[i] = x.client(i)
		x.note("SYN %d answered %v", i, cs[i].half())
	}
	cs[0].send(rawSegment{flags: tRST, seq: cs[0].irs + 1})
	<-time.After(150 * time.Millisecond)
	x.note("after RST: %v", cs[3].half())
	n := len(cs[0].heard())
	cs[0].ack("")
	x.note("ACK after RST: %s", cs[0].answer(n))
}

func halfOpenLife(x *parityRun) {
	c := x.client(0)
	c.half()
	x.until(8 * time.Second)
	c.note("client")
}

func halfOpenEnd(x *parityRun) {
	c := x.client(0)
	c.half()
	x.until(62 * time.Second)
	d := x.client(1)
	d.half()
	d.ack("")
	x.note("%d accepted", x.server.accept(1))
	x.until(70 * time.Second) // 63, and an eighth of the last 32 that the kernel may be late
	c.note("client")
	n := len(c.heard())
	c.ack("")
	x.note("ACK: %s", c.answer(n))
}

func forged(x *parityRun) {
	one := func(name string, s func(c *rclient, sa rawSegment) rawSegment) {
		c := x.client(len(x.saw))
		c.half()
		sa, _ := c.synAck()
		c.send(s(c, sa))
		x.note("%s: %s", name, c.answer(1))
		n := len(c.heard())
		c.ack("")
		x.note("then ACK: %d accepted, %s", x.server.accept(1), c.answer(n))
	}
	one("wrong acknowledgement", func(c *rclient, sa rawSegment) rawSegment {
		return rawSegment{flags: tACK, seq: c.irs + 1, ack: sa.seq + 77}
	})
	one("RST outside the window", func(c *rclient, sa rawSegment) rawSegment {
		return rawSegment{flags: tRST, seq: c.irs + 9_000_000}
	})
	one("SYN with another number, in the window", func(c *rclient, sa rawSegment) rawSegment {
		return rawSegment{flags: tSYN, seq: c.irs + 100}
	})
	one("SYN with another number, outside", func(c *rclient, sa rawSegment) rawSegment {
		return rawSegment{flags: tSYN, seq: c.irs - 1000}
	})
	one("FIN alone", func(c *rclient, sa rawSegment) rawSegment {
		return rawSegment{flags: tFIN, seq: c.irs + 1}
	})
	one("no flags", func(c *rclient, sa rawSegment) rawSegment {
		return rawSegment{flags: 0, seq: c.irs + 1}
	})
}

func oddFlags(x *parityRun) {
	for i, f := range []struct {
		name string
		bits uint8
	}{
		{"nothing", 0}, {"FIN", tFIN}, {"SYN+FIN", tSYN | tFIN}, {"SYN+RST", tSYN | tRST}, {"RST", tRST}, {"ACK", tACK},
		{"SYN+ACK", tSYN | tACK}, {"FIN+ACK", tFIN | tACK}, {"RST+ACK", tRST | tACK}, {"FIN+PSH+URG", tFIN | tPSH | tURG},
		{"PSH", tPSH}, {"SYN+PSH", tSYN | tPSH}, {"SYN+URG", tSYN | tURG}, {"SYN+FIN+ACK", tSYN | tFIN | tACK},
		{"all", 0xff},
	} {
		c := x.client(i)
		c.flags(f.bits)
		x.note("%s: %s", f.name, c.answer(0))
	}
	c := x.client(100)
	c.send(rawSegment{flags: tSYN, seq: c.irs, data: "early"})
	x.note("SYN with data: %s", c.answer(0))
	if sa, ok := c.synAck(); ok {
		x.note("it acknowledges %d", sa.ack-c.irs)
	}
	c = x.client(101)
	c.send(rawSegment{flags: tSYN, seq: c.irs, options: []byte{2, 4, 5, 0xb4, 34, 2, 1, 1}})
	x.note("SYN asking for a TFO cookie: %s", c.answer(0))
	c = x.client(102)
	x.known = "netstack does not do ECN"
	c.send(rawSegment{flags: tSYN | tECE | tCWR, seq: c.irs})
	x.note("SYN+ECE+CWR: %s", c.answer(0))
}

func relisten(x *parityRun) {
	for range 3 {
		x.connect().note("client")
	}
	x.server.listen(0)
	c := x.connect()
	x.note("%d accepted", x.server.accept(2))
	x.until(1600 * time.Millisecond)
	c.note("client, shrunk to 0 with one waiting")
	x.server.listen(8)
	x.until(3500 * time.Millisecond)
	c.note("client, grown")
	x.note("%d accepted", x.server.accept(4))
}

func closeWhileWaiting(x *parityRun) {
	a, b := x.connect(), x.connect()
	h, w := x.client(0), x.client(1)
	x.note("%v %v", h.half(), w.half())
	w.ack("")
	x.note("%d accepted", x.server.accept(1)) // a
	x.until(400 * time.Millisecond)
	x.server.close()
	a.noteEnd("accepted client")
	b.noteEnd("waiting client")
	x.note("waiting client by hand: %s", w.answer(1))
	n := len(h.heard())
	x.note("half-open client: %d", n)
	h.ack("")
	x.note("its ACK: %s", h.answer(n))
	x.connect().note("new client")
}

// flood sends 20,000 SYN from clients that do not exist, while real ones connect.
func flood(x *parityRun) {
	stop := make(chan struct{})
	var flooder sync.WaitGroup
	flooder.Go(func() {
		for i := range 20000 {
			c := x.client(i)
			c.from = netip.AddrPortFrom(c.from.Addr(), uint16(1024+i%60000))
			c.syn()
			select {
			case <-stop:
				return
			default:
			}
			if i%100 == 99 {
				<-time.After(5 * time.Millisecond)
			}
		}
	})
	<-time.After(200 * time.Millisecond)
	connected, accepted := 0, 0
	for range 20 {
		c := x.connect()
		select {
		case <-c.done:
		case <-time.After(2 * time.Second):
		}
		if c.connected() {
			connected++
		}
		accepted += x.server.accept(1)
	}
	flooder.Wait()
	close(stop)
	x.note("%d of 20 connected", connected)
	x.note("%d accepted", accepted)
}
