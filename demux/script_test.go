package demux

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/demux/packet"
)

// TestScripts plays behaviour over time: one command a line, and what each says.
// Packets are numbered from 1 in the order in which they are sent. The law holds
// after every line.
func TestScripts(t *testing.T) {
	for _, s := range []struct{ name, script, want string }{
		{"socket keeps order and limit", `
			bind 53/udp socket packets=3
			udp 53 5
			show 53/udp
			pop 53/udp 2
			udp 53 2
			pop 53/udp 9
			show 53/udp`, `
			53/udp: arrived 5, queued 3, high 3; queue-full 2
			1 2
			3 6 7 empty
			53/udp: arrived 7, queued 0, high 3; queue-full 2, to-service 5`},
		{"limit in bytes, at the bound and one beyond", `
			bind 53/udp socket bytes=1352
			udp 53 1 size=100
			udp 53 1 size=100
			udp 53 1 size=0
			show 53/udp
			pop 53/udp
			resize 53/udp bytes=1351
			udp 53 1 size=100
			udp 53 1 size=99
			show 53/udp`, `
			53/udp: arrived 3, queued 2, high 2; queue-full 1
			1
			53/udp: arrived 5, queued 2, high 2; queue-full 2, to-service 1`},
		{"the reader answers for a socket while its owner waits", `
			bind 53/udp socket packets=20
			inline 53/udp
			serve 99
			udp 53
			wake 53/udp
			pop 53/udp 2
			udp 53 2
			udp 53 18
			wake 53/udp
			udp 53
			pop 53/udp 9
			show 53/udp
			udp 53
			release 53/udp
			udp 53
			show 53/udp`, `
			asleep
			1 empty
			inline 53/udp 2 3
			inline 53/udp 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19
			woken
			20 21 22 empty
			53/udp: arrived 22, queued 0, high 18; to-service 22
			inline 53/udp 23
			53/udp: arrived 23, queued 0, high 18, knocked 1; to-service 23`},
		{"what the reader gives back is first, and within the limit", `
			bind 53/udp socket packets=20
			inline 53/udp
			pop 53/udp
			serve 2
			udp 53 30
			show 53/udp
			wake 53/udp
			udp 53
			pop 53/udp 99
			show 53/udp
			serve 0
			udp 53
			pop 53/udp 9`, `
			empty
			inline 53/udp 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
			53/udp: arrived 30, queued 18, high 20; queue-full 10, to-service 2
			woken
			3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 31 empty
			53/udp: arrived 31, queued 0, high 20; queue-full 10, to-service 21
			inline 53/udp 32
			32 empty`},
		{"in bytes too", `
			bind 53/udp socket bytes=1740
			inline 53/udp
			pop 53/udp
			udp 53 5
			show 53/udp
			pop 53/udp 9`, `
			empty
			inline 53/udp 1 2 3
			53/udp: arrived 5, queued 3, high 3; queue-full 2
			1 2 3 empty`},
		{"what came for others in between does not end a run", `
			bind 53/udp socket
			bind 80/tcp
			bind 81/tcp
			inline 53/udp
			inline 80/tcp
			inline closed
			pop 53/udp
			serve 99
			mixed 9 80/tcp 53/udp 9/tcp 81/tcp
			turn to-stack
			mixed 36 80/tcp 53/udp
			wake 53/udp
			show 53/udp
			pop 53/udp 9
			turn to-stack
			turn to-stack
			serve 2
			mixed 6 53/udp 80/tcp
			pop 53/udp 9`, `
			empty
			inline 80/tcp 1 5 9
			inline 53/udp 2 6
			inline closed 3 7
			81/tcp 4 8
			inline 80/tcp 10 12 14 16 18 20 22 24 26 28 30 32 34 36 38 40
			inline 53/udp 11 13 15 17 19 21 23 25 27 29 31 33 35 37 39 41
			woken
			53/udp: arrived 20, queued 2, high 18; to-service 18
			43 45 empty
			80/tcp 42 44
			nothing
			inline 53/udp 46 48 50
			inline 80/tcp 47 49 51
			50 empty`},
		{"no more of it than the queue could have held", `
			bind 53/udp socket bytes=1352
			bind 80/tcp packets=2
			bind 81/tcp bytes=1320
			inline 53/udp
			inline 80/tcp
			inline 81/tcp
			pop 53/udp
			serve 99
			mixed 9 80/tcp 53/udp 81/tcp size=100
			show 53/udp
			turn to-stack
			turn to-stack`, `
			empty
			inline 80/tcp 1 4
			inline 53/udp 2 5
			inline 81/tcp 3
			53/udp: arrived 3, queued 0, high 2; queue-full 1, to-service 2
			80/tcp 7
			81/tcp 6`},
		{"an empty datagram has a price", `
			bind 53/udp socket bytes=1152
			udp 53 3 size=0
			show 53/udp`, `
			53/udp: arrived 3, queued 2, high 2; queue-full 1`},
		{"one larger than the whole queue", `
			bind 53/udp socket bytes=1000
			udp 53 1 size=425
			udp 53 1 size=424
			pop 53/udp`, `
			2`},
		{"resize below what is queued throws nothing away", `
			bind 53/udp socket packets=8
			udp 53 8
			resize 53/udp packets=2
			udp 53 1
			show 53/udp
			pop 53/udp 6
			udp 53 1
			pop 53/udp
			udp 53 2
			show 53/udp
			resize 53/udp packets=4
			udp 53 4
			pop 53/udp 9`, `
			53/udp: arrived 9, queued 8, high 8; queue-full 1
			1 2 3 4 5 6
			7
			53/udp: arrived 12, queued 2, high 8; queue-full 3, to-service 7
			8 11 13 14 empty`},
		{"a queue that fills says so once until it is half empty", `
			bind 53/udp socket packets=4
			udp 53 6
			pop 53/udp 1
			udp 53 2
			pop 53/udp 2
			udp 53 3
			events`, `
			1
			2 3
			53/udp bound test 0
			53/udp queue-filled  4
			53/udp queue-filled  4`},
		{"a larger queue may fill again", `
			bind 53/udp socket packets=2
			udp 53 3
			resize 53/udp packets=4
			udp 53 3
			resize 53/udp packets=5
			udp 53 2
			events`, `
			53/udp bound test 0
			53/udp queue-filled  2
			53/udp limits-set  4
			53/udp queue-filled  4
			53/udp limits-set  5`},
		{"release and bind again", `
			bind 53/udp socket owner=dns
			udp 53 2
			release 53/udp
			pop 53/udp
			udp 53 1
			show 53/udp
			bind 53/udp socket owner=other
			udp 53 1
			pop 53/udp 2
			release 53/udp
			release 53/udp
			events`, `
			released
			53/udp: arrived 2, queued 0, high 2, knocked 1; port-released 2
			4 empty
			53/udp bound dns 0
			53/udp released dns 2
			53/udp knocked 10.77.0.2 0
			53/udp bound other 0
			53/udp released other 0`},
		{"who has it, has it", `
			bind 80/tcp owner=http
			bind 80/tcp owner=other
			bind 0/tcp
			bind 0/udp
			bind 80/udp socket`, `
			bind 80/tcp: already in use by http
			bind 0/tcp: no such port
			bind 0/udp: no such port`},
		{"nobody has the port", `
			udp 99 2
			tcp 99 1
			show 99/udp
			show 99/tcp
			show closed
			turn closed
			show closed`, `
			99/udp: arrived 0, queued 0, high 0, knocked 2
			99/tcp: arrived 0, queued 0, high 0, knocked 1
			closed: arrived 3, queued 3, high 3
			closed 1 2 3
			closed: arrived 3, queued 0, high 3; closed 3`},
		{"lanes are bounded", `
			udp 99 600
			show closed`, `
			closed: arrived 600, queued 512, high 512; queue-full 88`},
		{"workers take ports in turn", `
			bind 80/tcp
			bind 81/tcp
			tcp 80 20
			tcp 81 2
			turn to-stack
			turn to-stack
			turn to-stack
			turn
			show 80/tcp`, `
			80/tcp 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
			81/tcp 21 22
			80/tcp 17 18 19 20
			nothing
			80/tcp: arrived 20, queued 0, high 20; to-stack 20`},
		{"one server per port", `
			bind 80/tcp
			tcp 80 1
			take
			tcp 80 2
			take
			show 80/tcp
			finish to-stack
			take
			finish to-stack`, `
			80/tcp 1
			nothing
			80/tcp: arrived 3, queued 3, high 2
			80/tcp 2 3`},
		{"the reader serves an empty port, and no other", `
			bind 80/tcp
			inline 80/tcp
			tcp 80 1
			tcp 80 20
			tcp 80 1
			turn to-stack
			tcp 80 1
			show 80/tcp`, `
			inline 80/tcp 1
			inline 80/tcp 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17
			80/tcp 18 19 20 21 22
			inline 80/tcp 23
			80/tcp: arrived 23, queued 0, high 5; to-stack 23`},
		{"the reader serves no more than the queue could hold", `
			bind 80/tcp packets=2
			inline 80/tcp
			tcp 80 5
			show 80/tcp
			bind 81/tcp bytes=1300
			inline 81/tcp
			tcp 81 1 size=700
			tcp 81 3 size=20`, `
			inline 80/tcp 1 2
			80/tcp: arrived 5, queued 2, high 2; queue-full 1, to-stack 2
			inline 81/tcp 7 8`},
		{"a port that a worker holds changes hands", `
			bind 53/udp
			udp 53 2
			take
			release 53/udp
			bind 53/udp socket
			udp 53 2
			take
			finish to-stack
			take
			pop 53/udp 3
			show 53/udp`, `
			53/udp 1 2
			nothing
			nothing
			3 4 empty
			53/udp: arrived 4, queued 0, high 2; to-stack 2, to-service 2`},
		{"a port that stands in the run queue changes hands", `
			bind 53/udp
			udp 53 2
			release 53/udp
			bind 53/udp socket
			udp 53 2
			take
			pop 53/udp 3
			release 53/udp
			bind 53/udp
			udp 53 1
			turn to-stack`, `
			nothing
			3 4 empty
			53/udp 5`},
		{"and back to workers while it is held", `
			bind 80/tcp
			tcp 80 1
			take
			release 80/tcp
			bind 80/tcp
			tcp 80 1
			take
			finish to-stack
			turn to-stack
			turn`, `
			80/tcp 1
			nothing
			80/tcp 2
			nothing`},
		{"fates of a worker's turn", `
			bind 80/tcp
			tcp 80 2
			turn accept-queue-full
			tcp 80 1
			turn syn-queue-full
			show 80/tcp`, `
			80/tcp 1 2
			80/tcp 3
			80/tcp: arrived 3, queued 0, high 2; syn-queue-full 1, accept-queue-full 2`},
		{"the end", `
			bind 80/tcp
			bind 53/udp socket
			tcp 80 2
			udp 53 3
			udp 99 1
			drain
			show 80/tcp
			show 53/udp
			show closed
			turn`, `
			80/tcp: arrived 2, queued 0, high 2; host-stopped 2
			53/udp: arrived 3, queued 0, high 3; host-stopped 3
			closed: arrived 1, queued 0, high 1; host-stopped 1
			nothing`},
		{"a lane cannot be released", `
			release closed
			udp 99 1
			turn closed`, `
			closed 1`},
	} {
		t.Run(s.name, func(t *testing.T) {
			p := &player{T: t, rig: newRig(Options{})}
			for line := range strings.Lines(s.script) {
				if f := strings.Fields(line); len(f) > 0 {
					p.play(f)
					p.law(t)
				}
			}
			require.Equal(t, trim(s.want), trim(strings.Join(p.out, "\n")))
			p.t.Drain()
			p.law(t)
			require.Zero(t, p.held(), "slots lost")
		})
	}
}

func trim(s string) string {
	var out []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}

// player runs a script's commands against a rig.
type player struct {
	*testing.T
	*rig
	sent   uint32
	run    Run
	serves int // of a run of a socket port
	out    []string
}

func (p *player) say(words ...string) { p.out = append(p.out, strings.Join(words, " ")) }

func (p *player) play(f []string) {
	cmd, args := f[0], f[1:]
	opt := map[string]string{"owner": "test"}
	var plain []string
	for _, a := range args {
		if k, v, ok := strings.Cut(a, "="); ok {
			opt[k] = v
		} else {
			plain = append(plain, a)
		}
	}
	num := func(s string) int {
		n, _ := strconv.Atoi(s)
		return n
	}
	count := func(i int) int {
		if i < len(plain) {
			return num(plain[i])
		}
		return 1
	}
	lim := Limits{num(opt["packets"]), num(opt["bytes"])}
	switch cmd {
	case "bind":
		socket := len(plain) > 1 && plain[1] == "socket"
		if err := p.t.Bind(p.port(plain[0]), Config{Owner: opt["owner"], Limits: lim, Socket: socket}); err != nil {
			p.say(err.Error())
		}
	case "release":
		p.t.Release(p.port(plain[0]))
	case "resize":
		require.NoError(p, p.t.SetLimits(p.port(plain[0]), lim))
	case "inline":
		p.t.SetInline(p.port(plain[0]), true)
	case "serve": // from now on the reader serves so many of a run, and gives the rest back
		p.serves = count(0)
	case "wake":
		select {
		case <-p.t.Wake(p.port(plain[0])):
			p.say("woken")
		default:
			p.say("asleep")
		}
	case "udp", "tcp":
		p.frames(count(1), opt["size"], p.port(plain[0]+"/"+cmd))
	case "mixed":
		var ports []Port
		for _, s := range plain[1:] {
			ports = append(ports, p.port(s))
		}
		p.frames(num(plain[0]), opt["size"], ports...)
	case "pop":
		p.pop(p.port(plain[0]), count(1))
	case "take":
		run, ok := p.take()
		if !ok {
			p.say("nothing")
			return
		}
		p.run = run
		p.say(run.Port.String(), p.numbers(run))
	case "finish":
		fate, _ := ParseFate(plain[0])
		p.t.ServeRun(p.run, func(Port, Packet) Fate { return fate })
	case "turn":
		if run, ok := p.take(); ok {
			fate, _ := ParseFate(plain[0])
			p.say(run.Port.String(), p.numbers(run))
			p.t.ServeRun(run, func(Port, Packet) Fate { return fate })
		} else {
			p.say("nothing")
		}
	case "drain":
		p.t.Drain()
	case "show":
		p.say(state(p.t.Port(p.port(plain[0]))))
	case "events":
		evs, _, _ := p.t.Log().Since(nil, 0)
		for _, e := range evs {
			if !e.Port.IsLane() {
				p.say(e.Port.String(), e.Type.String(), e.Who, strconv.Itoa(int(e.Count)))
			}
		}
	default:
		p.Fatalf("script: no command %q", cmd)
	}
}

func (p *player) port(s string) Port {
	num, proto, ok := strings.Cut(s, "/")
	if !ok {
		for l := LaneClosed; l < numLines; l++ {
			if l.String() == s {
				return l
			}
		}
		p.Fatalf("script: no lane %q", s)
	}
	n, err := strconv.ParseUint(num, 10, 16)
	require.NoError(p, err)
	if proto == "udp" {
		return UDPPort(uint16(n))
	}
	return TCPPort(uint16(n))
}

// frames sends n packets to ports, in turn, in as few batches as they fit; size is their
// payload's, or 0 for none at all, and then they carry no number.
func (p *player) frames(n int, size string, ports ...Port) {
	for n > 0 {
		batch := min(n, BatchSize)
		for i := range batch {
			p.sent++
			k := 4
			if size != "" {
				k, _ = strconv.Atoi(size)
			}
			payload := numbered(p.sent, k)[:k]
			if port := ports[i%len(ports)]; port.IsUDP() {
				put(p.in, i, udp4(4000, port.Number(), payload...), Offload{})
			} else {
				put(p.in, i, tcp4(4000, port.Number(), packet.ACK, payload...), Offload{})
			}
		}
		for _, run := range p.in.Deliver(batch) {
			p.say("inline", run.Port.String(), p.numbers(run))
			k := 0
			p.in.ServeRun(run, func(port Port, _ Packet) Fate {
				if k++; port.IsUDP() && k > p.serves {
					return NoFate
				}
				return port.usual()
			})
		}
		n -= batch
	}
}

func (p *player) pop(port Port, n int) {
	var got []string
	for range n {
		pkt, ok, err := p.t.Pop(port)
		switch {
		case errors.Is(err, ErrReleased):
			got = append(got, "released")
		case !ok:
			got = append(got, "empty")
		default:
			got = append(got, fmt.Sprint(number(pkt)))
			p.t.Free(pkt)
			continue
		}
		break
	}
	p.say(got...)
}

// numbers looks at a run without serving it.
func (p *player) numbers(r Run) string {
	var got []string
	for h, i := r.first, 0; i < int(r.n); i++ {
		s := p.t.pool.slot(h)
		got = append(got, fmt.Sprint(number(p.t.packet(h, s))))
		h = s.next
	}
	return strings.Join(got, " ")
}

// state is a port's ledger in one line.
func state(s PortStats) string {
	line := fmt.Sprintf("%v: arrived %d, queued %d, high %d", s.Port, s.Arrived, s.Queued, s.High)
	if s.Knocked > 0 {
		line += fmt.Sprintf(", knocked %d", s.Knocked)
	}
	var fates []string
	for f, n := range s.Fates {
		if n > 0 {
			fates = append(fates, fmt.Sprintf("%v %d", Fate(f), n))
		}
	}
	if len(fates) > 0 {
		line += "; " + strings.Join(fates, ", ")
	}
	return line
}
