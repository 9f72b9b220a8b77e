package demux

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var verdicts = map[Verdict]string{
	Pass: "pass", SendCookie: "cookie", AskStack: "ask", Repeat: "repeat",
	Refuse: "accept-queue-full", RefuseSyn: "syn-queue-full", Reset: "reset", Ignore: "ignore",
	Challenge: "challenge",
}

// doorScript runs one line after the other against a door on a virtual clock.
// "syn a" and its like judge a segment of client a; what stands behind -> is
// expected. "half" is the SYN queue, "res" the reserved places, "wait" the accept queue.
type doorScript struct {
	d   *Door
	now int64
}

func (s *doorScript) key(name string) FlowKey {
	return FlowKey{Remote: netip.AddrPortFrom(peerAddr, uint16(name[0])<<8|uint16(len(name))), Local: hostAddr}
}

// seqs of a client: its initial number, and ours.
func seqs(name string) (irs, iss uint32) { return uint32(name[0]) * 1000, uint32(name[0]) * 7000 }

// cookieOf is the sequence number of the SYN cookie that a client would get.
func cookieOf(name string) uint32 { return uint32(name[0]) * 9000 }

func (s *doorScript) run(line string) string {
	f := strings.Fields(line)
	name := ""
	if len(f) > 1 {
		name = f[1]
	}
	judge := func(name string, seg Segment) string {
		return verdicts[s.d.Judge(s.now, func() FlowKey { return s.key(name) }, seg)]
	}
	var irs, iss uint32
	if name != "" {
		irs, iss = seqs(name)
	}
	switch f[0] {
	case "door":
		c := DoorConfig{Backlog: 4, SynQueue: 4}
		for _, kv := range f[1:] {
			k, v, _ := strings.Cut(kv, "=")
			n, _ := strconv.Atoi(v)
			switch k {
			case "backlog":
				c.Backlog = n
			case "syn":
				c.SynQueue = n
			case "cookies":
				c.Cookies = map[string]Cookies{"auto": CookiesAuto, "never": CookiesNever, "always": CookiesAlways}[v]
			case "abort":
				c.AbortOnOverflow = true
			}
		}
		if s.d == nil {
			s.d = NewDoor(c, func(k FlowKey, g Segment) bool {
				return g.Ack == cookieOf(string(rune(k.Remote.Port()>>8)))+1
			})
		} else {
			s.d.Set(c)
		}
		return "ok"
	case "syn":
		return judge(name, Segment{Flags: syn, Seq: irs})
	case "syn-fin":
		return judge(name, Segment{Flags: syn | fin, Seq: irs})
	case "syn-reopen": // on a pair in TIME-WAIT
		return judge(name, Segment{Flags: syn, Seq: irs, Reopens: true})
	case "other-syn": // the same pair, another initial sequence number
		return judge(name, Segment{Flags: syn, Seq: irs + 99})
	case "answer":
		s.d.Answered(s.now, s.key(name), iss, irs, 65535, func() []byte { return []byte("SYN+ACK " + name) })
		return "ok"
	case "ack", "data":
		return judge(name, Segment{Flags: ack, Seq: irs + 1, Ack: iss + 1})
	case "forged-ack":
		return judge(name, Segment{Flags: ack, Seq: irs + 1, Ack: 0xdeadbeef})
	case "old-ack": // right acknowledgement, sequence number before the window
		return judge(name, Segment{Flags: ack, Seq: irs, Ack: iss + 1})
	case "fin-ack":
		return judge(name, Segment{Flags: fin | ack, Seq: irs + 1, Ack: iss + 1})
	case "rst":
		return judge(name, Segment{Flags: rst, Seq: irs + 1})
	case "rst-at": // so many after that
		off, _ := strconv.Atoi(f[2])
		return judge(name, Segment{Flags: rst, Seq: irs + 1 + uint32(int32(off))})
	case "cookie-ack":
		return judge(name, Segment{Flags: ack, Seq: irs + 1, Ack: cookieOf(name) + 1})
	case "take": // the stack knows no connection of a cookie's ACK
		return verdicts[s.d.CookieAck(s.now, s.key(name))]
	case "arrive":
		return fmt.Sprint(s.d.Arrive(s.now, s.key(name), name))
	case "accept":
		c, ok := s.d.Accept()
		return fmt.Sprint(c, " ", ok)
	case "half", "established", "gone":
		s.d.Confirm(s.now, s.key(name), map[string]State{"half": HalfOpen, "established": Established, "gone": Gone}[f[0]])
		return "ok"
	case "asked": // the stack, again and again, and each time it says so
		state, times := f[2], f[3]
		n, _ := strconv.Atoi(times)
		for range n {
			s.now += int64(DoubtAfter)
			if out := s.run("due"); out != "ask "+name {
				return out
			}
			s.run(state + " " + name)
		}
		return "ok"
	case "due":
		ask, end, _ := s.d.Due(s.now, 0, nil, nil)
		var out []string
		for _, k := range ask {
			out = append(out, "ask "+string(rune(k.Remote.Port()>>8)))
		}
		for _, k := range end {
			out = append(out, "end "+string(rune(k.Remote.Port()>>8)))
		}
		return strings.Join(out, " ")
	case "again":
		b, again := s.d.SynAck(s.key(name))
		return fmt.Sprint(string(b), " ", again)
	case "wait":
		d, err := time.ParseDuration(name)
		if err != nil {
			panic(err)
		}
		s.now += int64(d)
		return "ok"
	case "queues":
		st := s.d.Stats()
		return fmt.Sprintf("half %d res %d wait %d", st.HalfOpen, st.Reserved, st.Waiting)
	case "filled":
		f, n := s.d.Filled()
		return fmt.Sprint(f, " ", n)
	case "close":
		return fmt.Sprint(len(s.d.Close()))
	}
	panic(line)
}

func TestDoorScripts(t *testing.T) {
	for name, script := range map[string]string{
		"backlog N admits N+1, the next SYN is dropped until one is accepted": `
			door backlog=1 -> ok
			syn a -> pass
			answer a -> ok
			ack a -> pass
			arrive a -> true
			syn b -> pass
			answer b -> ok
			ack b -> pass
			arrive b -> true
			queues -> half 0 res 0 wait 2
			syn c -> accept-queue-full
			accept -> a true
			syn c -> pass
			answer c -> ok
			ack c -> pass
			arrive c -> true
			queues -> half 0 res 0 wait 2`,
		"backlog 0 admits one": `
			door backlog=0 -> ok
			syn a -> pass
			answer a -> ok
			ack a -> pass
			syn b -> accept-queue-full
			arrive a -> true
			syn b -> accept-queue-full
			queues -> half 0 res 0 wait 1`,
		"a reserved place counts before the connection arrives": `
			door backlog=0 -> ok
			syn a -> pass
			syn b -> pass
			answer a -> ok
			answer b -> ok
			ack a -> pass
			ack b -> accept-queue-full
			queues -> half 1 res 1 wait 0
			arrive a -> true
			ack b -> accept-queue-full
			accept -> a true
			ack b -> pass
			arrive b -> true
			queues -> half 0 res 0 wait 1`,
		"what the stack said before a new connection of the pair is not of that one": `
			door -> ok
			syn a -> pass
			answer a -> ok
			ack a -> pass
			wait 20ms -> ok
			due -> ask a
			arrive a -> true
			syn a -> pass
			answer a -> ok
			gone a -> ok
			queues -> half 1 res 0 wait 1
			wait 20ms -> ok
			due -> ask a
			gone a -> ok
			queues -> half 0 res 0 wait 1`,
		"nor before its answer": `
			door -> ok
			syn a -> pass
			wait 20ms -> ok
			due -> ask a
			answer a -> ok
			gone a -> ok
			queues -> half 1 res 0 wait 0
			wait 20ms -> ok
			due -> ask a
			half a -> ok
			queues -> half 1 res 0 wait 0
			due -> `,
		"a queue that fills says so once, until it has been half empty": `
			door backlog=1 syn=1 cookies=never -> ok
			filled -> none 0
			syn a -> pass
			syn b -> pass
			syn c -> syn-queue-full
			syn d -> syn-queue-full
			filled -> syn-queue-full 2
			filled -> none 0
			answer a -> ok
			ack a -> pass
			arrive a -> true
			answer b -> ok
			ack b -> pass
			arrive b -> true
			syn c -> accept-queue-full
			filled -> accept-queue-full 2
			syn c -> accept-queue-full
			filled -> none 0
			accept -> a true
			syn c -> pass
			syn d -> pass
			syn e -> syn-queue-full
			filled -> syn-queue-full 2
			answer c -> ok
			ack c -> pass
			arrive c -> true
			answer d -> ok
			ack d -> accept-queue-full
			filled -> none 0
			accept -> b true
			accept -> c true
			ack d -> pass
			arrive d -> true
			syn e -> pass
			answer e -> ok
			ack e -> pass
			arrive e -> true
			syn f -> accept-queue-full
			filled -> accept-queue-full 2
			door backlog=9 syn=0 cookies=auto -> ok
			syn f -> pass
			syn g -> cookie
			filled -> syn-cookie 1
			door backlog=0 syn=0 cookies=always -> ok
			cookie-ack g -> ask
			take g -> accept-queue-full
			filled -> accept-queue-full 2
			filled -> none 0`,
		"abort on overflow": `
			door backlog=0 abort -> ok
			syn a -> pass
			syn b -> pass
			answer a -> ok
			answer b -> ok
			ack a -> pass
			ack b -> reset`,
		"SYN queue of N holds N+1, then cookies or nothing": `
			door syn=1 cookies=never -> ok
			syn a -> pass
			syn b -> pass
			syn c -> syn-queue-full
			door syn=1 cookies=auto -> ok
			syn c -> cookie
			queues -> half 2 res 0 wait 0
			cookie-ack x -> ask
			take x -> pass
			cookie-ack x -> pass
			queues -> half 2 res 1 wait 0
			arrive x -> true
			queues -> half 2 res 0 wait 1`,
		"a forged ACK is no cookie's and reserves nothing": `
			door backlog=0 cookies=always -> ok
			syn a -> cookie
			ack b -> pass
			forged-ack a -> pass
			queues -> half 0 res 0 wait 0`,
		"a cookie's ACK for a connection that got room meanwhile": `
			door backlog=0 syn=0 -> ok
			syn a -> pass
			answer a -> ok
			syn b -> cookie
			rst a -> pass
			wait 20ms -> ok
			due -> ask a
			gone a -> ok
			syn b -> pass
			answer b -> ok
			cookie-ack b -> pass
			queues -> half 0 res 1 wait 0
			arrive b -> true
			queues -> half 0 res 0 wait 1`,
		"a cookie's connection that does not come gives its place back": `
			door backlog=0 cookies=always -> ok
			syn a -> cookie
			cookie-ack a -> ask
			take a -> pass
			asked a gone 49 -> ok
			queues -> half 0 res 1 wait 0
			asked a gone 1 -> ok
			queues -> half 0 res 0 wait 0`,
		"cookies always keep no state": `
			door cookies=always -> ok
			syn a -> cookie
			queues -> half 0 res 0 wait 0
			cookie-ack a -> ask
			wait 193s -> ok
			due ->
			cookie-ack a -> pass`,
		"TIME-WAIT is reopened whatever the SYN queue holds": `
			door syn=0 cookies=never -> ok
			syn a -> pass
			syn b -> syn-queue-full
			syn-reopen b -> pass
			door syn=0 cookies=always -> ok
			syn c -> cookie
			syn-reopen c -> pass
			queues -> half 3 res 0 wait 0`,
		"SYN and FIN in one open nothing": `
			door -> ok
			syn-fin a -> ignore
			queues -> half 0 res 0 wait 0
			syn a -> pass
			answer a -> ok
			syn-fin a -> repeat`,
		"with both queues full and cookies off, the SYN queue is named, as in Linux": `
			door backlog=0 syn=0 cookies=never -> ok
			syn a -> pass
			answer a -> ok
			ack a -> pass
			arrive a -> true
			syn b -> accept-queue-full
			accept -> a true
			syn b -> pass
			syn c -> syn-queue-full
			answer b -> ok
			arrive z -> true
			syn c -> syn-queue-full`,
		"the order is that of the final ACKs": `
			door -> ok
			syn a -> pass
			syn b -> pass
			syn c -> pass
			answer a -> ok
			answer b -> ok
			answer c -> ok
			ack b -> pass
			ack a -> pass
			ack c -> pass
			arrive c -> true
			arrive a -> true
			arrive b -> true
			accept -> b true
			accept -> a true
			accept -> c true`,
		"who arrives without a place is turned away when there is none": `
			door backlog=0 -> ok
			arrive a -> true
			arrive b -> false
			queues -> half 0 res 0 wait 1`,
		"a cookie's ACK finds the accept queue full": `
			door backlog=0 cookies=always -> ok
			syn a -> cookie
			syn b -> cookie
			cookie-ack a -> ask
			take a -> pass
			cookie-ack b -> ask
			take b -> accept-queue-full`,
		"a forged ACK reserves nothing": `
			door backlog=0 -> ok
			syn a -> pass
			answer a -> ok
			forged-ack a -> pass
			old-ack a -> pass
			queues -> half 1 res 0 wait 0
			wait 20ms -> ok
			due -> ask a
			half a -> ok
			queues -> half 1 res 0 wait 0
			ack a -> pass
			queues -> half 0 res 1 wait 0`,
		"FIN on the final ACK reserves too": `
			door -> ok
			syn a -> pass
			answer a -> ok
			fin-ack a -> pass
			queues -> half 0 res 1 wait 0`,
		"a reservation that the stack did not take is given back": `
			door backlog=0 -> ok
			syn a -> pass
			answer a -> ok
			ack a -> pass
			queues -> half 0 res 1 wait 0
			due ->
			asked a half 49 -> ok
			queues -> half 0 res 1 wait 0
			asked a half 1 -> ok
			queues -> half 1 res 0 wait 0`,
		"nor one whose connection has gone": `
			door backlog=0 -> ok
			syn a -> pass
			answer a -> ok
			rst a -> pass
			ack a -> pass
			queues -> half 0 res 1 wait 0
			asked a gone 4 -> ok
			queues -> half 0 res 1 wait 0
			asked a gone 1 -> ok
			queues -> half 0 res 0 wait 0`,
		"a final ACK that the stack comes to late has its place": `
			door backlog=0 -> ok
			syn a -> pass
			answer a -> ok
			syn b -> pass
			answer b -> ok
			ack a -> pass
			wait 20ms -> ok
			due -> ask b ask a
			half a -> ok
			half b -> ok
			asked a half 48 -> ok
			ack b -> accept-queue-full
			arrive a -> true
			queues -> half 1 res 0 wait 1`,
		"nobody can put a question off": `
			door -> ok
			syn a -> pass
			answer a -> ok
			wait 15ms -> ok
			rst a -> pass
			wait 5ms -> ok
			due -> ask a
			rst a -> pass
			half a -> ok
			wait 20ms -> ok
			due -> ask a
			half a -> ok
			wait 20ms -> ok
			due ->`,
		"an established connection keeps its place until it arrives": `
			door backlog=0 -> ok
			syn a -> pass
			answer a -> ok
			ack a -> pass
			wait 20ms -> ok
			due -> ask a
			established a -> ok
			queues -> half 0 res 1 wait 0
			wait 20ms -> ok
			due -> ask a
			arrive a -> true
			queues -> half 0 res 0 wait 1`,
		"a RST is a doubt, and the stack's word decides": `
			door -> ok
			syn a -> pass
			answer a -> ok
			rst a -> pass
			queues -> half 1 res 0 wait 0
			wait 20ms -> ok
			due -> ask a
			gone a -> ok
			queues -> half 0 res 0 wait 0`,
		"a RST in the window that is not exact is challenged": `
			door -> ok
			syn a -> pass
			rst-at a 9 -> pass
			answer a -> ok
			rst-at a 1 -> challenge
			rst-at a 65534 -> challenge
			rst-at a 65535 -> pass
			rst-at a -1 -> pass
			queues -> half 1 res 0 wait 0
			rst-at a 0 -> pass
			ack a -> pass
			rst-at a 9 -> pass`,
		"a repeated SYN is answered again, at most twice a second": `
			door -> ok
			syn a -> pass
			syn a -> repeat
			again a ->  false
			answer a -> ok
			wait 1ms -> ok
			syn a -> repeat
			again a -> SYN+ACK a true
			syn a -> repeat
			again a -> SYN+ACK a false
			wait 500ms -> ok
			syn a -> repeat
			again a -> SYN+ACK a true
			queues -> half 1 res 0 wait 0`,
		"another SYN of the pair goes to the stack": `
			door -> ok
			syn a -> pass
			answer a -> ok
			other-syn a -> pass
			wait 20ms -> ok
			due -> ask a`,
		"a SYN that the stack never answered leaves": `
			door -> ok
			syn a -> pass
			asked a gone 4 -> ok
			queues -> half 1 res 0 wait 0
			asked a gone 1 -> ok
			queues -> half 0 res 0 wait 0`,
		"half-open connections end after 63 s": `
			door -> ok
			syn a -> pass
			answer a -> ok
			wait 1s -> ok
			due -> ask a
			half a -> ok
			syn b -> pass
			answer b -> ok
			wait 20ms -> ok
			due -> ask b
			half b -> ok
			wait 61979ms -> ok
			due ->
			wait 1ms -> ok
			due -> end a
			queues -> half 1 res 0 wait 0
			wait 1s -> ok
			due -> end b`,
		"old ones end after 7 s while they fill more than half of the SYN queue": `
			door syn=8 -> ok
			syn a -> pass
			syn b -> pass
			syn c -> pass
			syn d -> pass
			answer a -> ok
			answer b -> ok
			answer c -> ok
			answer d -> ok
			wait 20ms -> ok
			due -> ask a ask b ask c ask d
			wait 7s -> ok
			due ->
			queues -> half 4 res 0 wait 0
			wait 7s -> ok
			syn e -> pass
			answer e -> ok
			wait 20ms -> ok
			due -> ask e
			wait 900ms -> ok
			due ->
			queues -> half 5 res 0 wait 0
			wait 60ms -> ok
			due -> end a
			queues -> half 4 res 0 wait 0`,
		"a full queue of old ones frees itself after 7 s": `
			door syn=4 cookies=never -> ok
			syn a -> pass
			syn b -> pass
			syn c -> pass
			syn d -> pass
			syn e -> pass
			answer a -> ok
			answer b -> ok
			answer c -> ok
			answer d -> ok
			answer e -> ok
			syn f -> syn-queue-full
			wait 6999ms -> ok
			due -> ask a ask b ask c ask d ask e
			wait 1ms -> ok
			due -> end a
			syn f -> pass`,
		"a SYN+ACK of an unknown connection is taken into the books": `
			door -> ok
			answer a -> ok
			queues -> half 1 res 0 wait 0
			ack a -> pass
			queues -> half 0 res 1 wait 0`,
		"shrinking keeps what waits": `
			door backlog=4 -> ok
			syn a -> pass
			answer a -> ok
			ack a -> pass
			arrive a -> true
			syn b -> pass
			answer b -> ok
			ack b -> pass
			arrive b -> true
			door backlog=0 -> ok
			queues -> half 0 res 0 wait 2
			syn c -> accept-queue-full
			accept -> a true
			syn c -> accept-queue-full
			accept -> b true
			syn c -> pass`,
		"close gives back what waited": `
			door -> ok
			syn a -> pass
			answer a -> ok
			ack a -> pass
			arrive a -> true
			syn b -> pass
			close -> 1
			syn c -> pass
			answer c -> ok
			accept -> <nil> false
			arrive b -> false
			queues -> half 0 res 0 wait 0`,
		"segments of connections long established do not disturb": `
			door -> ok
			data z -> pass
			fin-ack z -> pass
			rst z -> pass
			queues -> half 0 res 0 wait 0`,
	} {
		t.Run(name, func(t *testing.T) {
			s := &doorScript{}
			for _, line := range strings.Split(strings.TrimSpace(script), "\n") {
				cmd, want, ok := strings.Cut(strings.TrimSpace(line), " ->")
				require.True(t, ok, line)
				require.Equal(t, strings.TrimPrefix(want, " "), s.run(cmd), cmd)
			}
			s.d.check(t, true)
		})
	}
}

// TestDoorBounds drives a door with anything and looks at its bounds after each step.
func TestDoorBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &doorScript{}
		backlog, synq := rapid.IntRange(0, 4).Draw(t, "backlog"), rapid.IntRange(0, 4).Draw(t, "syn")
		cookies := rapid.SampledFrom([]string{"auto", "never", "always"}).Draw(t, "cookies")
		s.run(fmt.Sprintf("door backlog=%d syn=%d cookies=%s", backlog, synq, cookies))
		type client struct{ asked, answered, passed, here bool }
		clients := map[string]*client{}
		waiting := 0
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			name := rapid.StringMatching(`[a-j]`).Draw(t, "client")
			c := clients[name]
			if c == nil {
				c = &client{}
				clients[name] = c
			}
			switch rapid.SampledFrom([]string{"syn", "answer", "ack", "arrive", "accept", "rst", "due", "wait 10ms", "forged-ack"}).Draw(t, "step") {
			case "syn":
				if !c.here && s.run("syn "+name) == "pass" {
					c.asked = true
				}
			case "answer":
				if c.asked && !c.answered {
					s.run("answer " + name)
					c.answered = true
				}
			case "ack":
				if c.answered && !c.passed && s.run("ack "+name) == "pass" {
					c.passed = true
				}
			case "forged-ack":
				s.run("forged-ack " + name)
			case "arrive":
				if c.passed && !c.here {
					s.run("arrive " + name)
					c.here = true
					waiting++
				}
			case "accept":
				if waiting > 0 {
					s.run("accept")
					waiting--
				}
			case "rst":
				s.run("rst " + name)
			case "wait 10ms":
				s.run("wait 10ms")
			case "due": // the stack's true word
				ask, _, _ := s.d.Due(s.now, 0, nil, nil)
				for _, k := range ask {
					n := string(rune(k.Remote.Port() >> 8))
					st := Gone
					if c := clients[n]; c != nil && c.passed {
						st = Established
					} else if c != nil && c.asked {
						st = HalfOpen
					}
					s.d.Confirm(s.now, k, st)
				}
			}
			st := s.d.Stats()
			if st.Waiting+st.Reserved > backlog+1 {
				t.Fatalf("accept queue %d + reserved %d > %d + 1", st.Waiting, st.Reserved, backlog)
			}
			if st.HalfOpen > synq+1 {
				t.Fatalf("SYN queue %d > %d + 1", st.HalfOpen, synq)
			}
			if st.Waiting != waiting {
				t.Fatalf("%d wait, not %d", st.Waiting, waiting)
			}
		}
	})
}

func noCookie(FlowKey, Segment) bool { return false }

// check holds the door's lists against each other. Between Due and Confirm nobody
// asks about a place for a moment: then it is not at rest.
func (d *Door) check(t require.TestingT, rest bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	reserved, aged := 0, 0
	for k, h := range d.half {
		require.Equal(t, k, h.key)
		require.NotNil(t, h.age.h, "in no list")
		if h.reserved {
			reserved++
			require.True(t, h.dbt.h != nil || !rest, "a place that nobody asks about")
		}
	}
	for i := range d.ages {
		n, last := 0, int64(0)
		for k := d.ages[i].head; k != nil; k = k.next {
			require.Same(t, k.h, d.half[k.h.key])
			require.EqualValues(t, i, k.h.stage)
			require.GreaterOrEqual(t, k.h.due, last, "out of order")
			n, last = n+1, k.h.due
		}
		require.Equal(t, d.ages[i].n, n)
		aged += n
	}
	for k := d.doubts.head; k != nil; k = k.next {
		require.Same(t, k.h, d.half[k.h.key])
	}
	require.Equal(t, len(d.half), aged)
	require.Equal(t, reserved, d.reserved)
	require.True(t, d.busy.Load() || len(d.half) == 0)
}

func BenchmarkDoor(b *testing.B) {
	for _, half := range []int{0, 1, 256, 60000} {
		b.Run(fmt.Sprintf("half-open=%d", half), func(b *testing.B) {
			d := NewDoor(DoorConfig{Backlog: 1 << 20, SynQueue: 1 << 20}, noCookie)
			for i := range half {
				k := FlowKey{netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 9), hostAddr}
				d.Judge(0, func() FlowKey { return k }, Segment{Flags: syn, Seq: 1})
			}
			k := FlowKey{netip.AddrPortFrom(peerAddr, 5000), hostAddr}
			key := func() FlowKey { return k }
			b.ReportAllocs()
			for b.Loop() {
				d.Judge(0, key, Segment{Flags: ack, Seq: 5, Ack: 6})
			}
		})
	}
}
