package flow

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/demux"
	"porthole/demux/packet"
)

var zero = time.Date(2026, 1, 2, 12, 0, 21, 840e6, time.UTC)

// script plays segments past a table and says what it tells of them. A line is
//
//	[+1.5s] > PORT FLAGS SEQ [ACK] [len=N] [win=N] [opts] [fate D/L]   a segment in
//	[+1.5s] < PORT ...                                                 a segment out
//	[+1.5s] established|accepted|read|admitted|refused PORT [...]      an event
//	flows | ladder ID | why ID|last|80/tcp | since CURSOR              a question
//
// Times are since the beginning; the host is 10.77.0.1:80, the other 10.77.0.2:PORT,
// with 6 before > or < both are IPv6. For udp, "udp > PORT len=N ...".
type script struct {
	testing.TB
	t   *Table
	now int64
	out []string
}

func play(tb testing.TB, o Options, text string) []string {
	o.Start = zero
	s := &script{TB: tb, t: New(o)}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 0 {
			s.line(f)
		}
	}
	return s.out
}

var flagBits = map[string]uint8{"FIN": packet.FIN, "SYN": packet.SYN, "RST": packet.RST, "PSH": packet.PSH,
	"ACK": packet.ACK, "URG": packet.URG, "ECE": packet.ECE, "CWR": packet.CWR}

var optBytes = map[string][]byte{
	"mss":    {2, 4, 0x05, 0xb4},              // 1460
	"ws":     {3, 3, 7},                       // 7
	"sack":   {4, 2},                          //
	"ts":     {8, 10, 0, 0, 0, 1, 0, 0, 0, 0}, // TSval 1
	"tfo":    {34, 2},                         // asks for a cookie
	"cookie": {34, 6, 1, 2, 3, 4},             //
	"bad":    {2, 1},                          // a length below 2
}

func (s *script) line(f []string) {
	if d, err := time.ParseDuration(strings.TrimPrefix(f[0], "+")); err == nil && f[0][0] == '+' {
		s.now = int64(d)
		f = f[1:]
	}
	host, peer, proto := hostAddr, peerAddr, packet.TCP
	if f[0] == "udp" {
		proto, f = packet.UDP, f[1:]
	}
	if strings.HasPrefix(f[0], "6") {
		host, peer, f[0] = hostAddr6, peerAddr6, f[0][1:]
	}
	hostPort := uint16(80)
	if proto == packet.UDP {
		hostPort = 53
	}
	k := Key{Proto: proto, Local: netip.AddrPortFrom(host, hostPort)}
	if len(f) > 1 {
		if n, err := strconv.Atoi(f[1]); err == nil {
			k.Remote = netip.AddrPortFrom(peer, uint16(n))
		}
	}
	w := wire{s.TB, s.t, s.now, k, 1000, 1<<32 - 500}
	switch f[0] {
	case ">", "<":
		d := In
		if f[0] == "<" {
			d = Out
		}
		if proto == packet.UDP {
			s.udp(&w, d, f[2:])
		} else {
			s.tcp(&w, d, f[2:])
		}
	case "admitted", "established":
		dep, lim := depth(f[2])
		if f[0] == "admitted" {
			s.t.Admitted(s.now, k, dep, lim)
		} else {
			s.t.Established(s.now, k, dep, lim)
		}
	case "refused":
		fate, _ := demux.ParseFate(f[2])
		dep, lim := depth(f[3])
		s.t.Refused(s.now, k, fate, dep, lim)
	case "accepted":
		d, err := time.ParseDuration(f[2])
		require.NoError(s, err)
		s.t.Accepted(s.now, k, int64(d))
	case "read":
		if proto == packet.UDP {
			d, err := time.ParseDuration(f[2])
			require.NoError(s, err)
			b := w.datagram(In, 10)
			i, _ := packet.Parse(b, len(b))
			s.t.Read(s.now, b, &i, int64(d))
		} else {
			s.t.FirstRead(s.now, k)
		}
	case "flows":
		for _, fl := range s.t.Flows(s.now, Filter{}) {
			s.out = append(s.out, fl.ID.String()+" "+fl.State.String()+" "+fl.Line())
		}
	case "since":
		n, _ := strconv.ParseUint(f[1], 10, 64)
		fl, next, missed := s.t.Since(s.now, n, 0)
		line := fmt.Sprintf("next %d missed %d:", next, missed)
		for _, x := range fl {
			line += " " + x.ID.String()
		}
		s.out = append(s.out, line)
	case "ladder":
		id, err := ParseID(f[1])
		require.NoError(s, err)
		fl, ok := s.t.Get(s.now, id)
		require.True(s, ok)
		var b bytes.Buffer
		require.NoError(s, fl.WriteLadder(&b))
		s.out = append(s.out, strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")...)
	case "why":
		s.why(f[1])
	default:
		s.Fatalf("script: no command %q", f[0])
	}
}

func (s *script) why(what string) {
	var y Why
	ok := true
	if what == "last" {
		y, ok = s.t.WhyLast(s.now)
	} else if n, proto, is := strings.Cut(what, "/"); is {
		p, _ := strconv.Atoi(n)
		port := demux.TCPPort(uint16(p))
		if proto == "udp" {
			port = demux.UDPPort(uint16(p))
		}
		y = s.t.WhyPort(s.now, port)
	} else {
		id, err := ParseID(what)
		require.NoError(s, err)
		y, ok = s.t.WhyFlow(s.now, id)
	}
	require.True(s, ok)
	s.out = append(s.out, string(y.Cause)+": "+y.Text)
}

func depth(q string) (uint32, uint32) {
	a, b, _ := strings.Cut(q, "/")
	x, _ := strconv.Atoi(a)
	y, _ := strconv.Atoi(b)
	return uint32(x), uint32(y)
}

// decision reads what is left of a line: a fate and the queue's state.
func decision(d Decision, f string) Decision {
	if fate, ok := demux.ParseFate(f); ok {
		d.Fate = fate
	} else if f == "none" {
		d.Fate = demux.NoFate
	} else if strings.HasSuffix(f, "B") {
		d.Bytes, d.LimitBytes = depth(strings.TrimSuffix(f, "B"))
	} else {
		d.Depth, d.Limit = depth(f)
	}
	return d
}

func (s *script) tcp(w *wire, d Direction, f []string) {
	var flags uint8
	for n := range strings.SplitSeq(f[0], "+") {
		require.NotZero(s, flagBits[n], n)
		flags |= flagBits[n]
	}
	var nums []uint32
	size, window, opts, dec := 0, uint16(65535), []byte(nil), Decision{Fate: demux.ToStack}
	for _, a := range f[1:] {
		n, err := strconv.ParseUint(a, 10, 32)
		switch {
		case err == nil:
			nums = append(nums, uint32(n))
		case strings.HasPrefix(a, "len="):
			size, _ = strconv.Atoi(a[4:])
		case strings.HasPrefix(a, "win="):
			v, _ := strconv.Atoi(a[4:])
			window = uint16(v)
		case optBytes[a] != nil:
			opts = append(opts, optBytes[a]...)
		default:
			dec = decision(dec, a)
		}
	}
	nums = append(nums, 0, 0)
	w.tap(d, w.window(d, flags, nums[0], nums[1], size, window, opts...), dec)
}

func (w *wire) datagram(d Direction, size int) []byte {
	from, to := w.k.Remote, w.k.Local
	if d == Out {
		from, to = to, from
	}
	b := make([]byte, 64+size)
	n := packet.PutUDP(b, from, to, 64, 1, b[64:])
	require.NotZero(w, n)
	return b[:n+size]
}

func (s *script) udp(w *wire, d Direction, f []string) {
	size, dec, count := 10, Decision{}, 1
	for _, a := range f {
		if strings.HasPrefix(a, "len=") {
			size, _ = strconv.Atoi(a[4:])
		} else if strings.HasPrefix(a, "x") {
			count, _ = strconv.Atoi(a[1:])
		} else {
			dec = decision(dec, a)
		}
	}
	for range count {
		w.tap(d, w.datagram(d, size), dec)
	}
}
