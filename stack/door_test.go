package stack

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	gsync "gvisor.dev/gvisor/pkg/sync"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"porthole/demux"
	"porthole/demux/packet"
	"porthole/tun"
)

var (
	hostPrefix = netip.MustParsePrefix("10.77.0.1/24")
	hostAddr   = hostPrefix.Addr()
)

// truth reads netstack's private lists: half-open connections, and completed ones
// that the drain has not taken.
func truth(ln *Listener) (pending, own int) {
	ep := reflect.ValueOf(ln.ep.(*tcp.Endpoint)).Elem()
	mu := (*gsync.Mutex)(unsafe.Pointer(ep.FieldByName("acceptMu").UnsafeAddr()))
	mu.Lock()
	defer mu.Unlock()
	q := ep.FieldByName("acceptQueue")
	list := q.FieldByName("endpoints")
	for e := list.FieldByName("root").FieldByName("next"); ; e = e.Elem().FieldByName("next") {
		if e.Pointer() == list.FieldByName("root").UnsafeAddr() || e.IsNil() {
			break
		}
		own++
	}
	return q.FieldByName("pendingEndpoints").Len(), own
}

// patience is for what comes at once unless something is broken.
const patience = time.Minute

// peer plays many clients by hand at the other end of a pipe.
type peer struct {
	t   testing.TB
	dev tun.Device

	mu     sync.Mutex
	cond   sync.Cond
	got    map[uint16][]seg // by the client's port
	frames uint64           // read
}

type seg struct {
	flags    uint8
	seq, ack uint32
	window   uint16 // as sent
}

type doorRig struct {
	s    *Stack
	ln   *Listener
	p    *peer
	stop func()
}

func newDoorRig(t testing.TB, c demux.DoorConfig) *doorRig {
	t.Helper()
	a, b := tun.Pipe(tun.PipeOptions{}, tun.PipeOptions{})
	s, err := New(Config{Device: a, Table: demux.New(demux.Options{}), Addrs: []netip.Prefix{hostPrefix}})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	ln, err := s.Listen(80, ListenConfig{Owner: "test", Door: &c})
	require.NoError(t, err)
	p := &peer{t: t, dev: b, got: map[uint16][]seg{}}
	p.cond.L = &p.mu
	reader := make(chan struct{})
	go func() { defer close(reader); p.read() }()
	r := &doorRig{s, ln, p, func() {
		cancel()
		require.NoError(t, <-done)
		b.Close()
		<-reader
	}}
	t.Cleanup(r.stop)
	return r
}

func (p *peer) read() {
	frames := []tun.Frame{{}}
	head, tail := make([]byte, tun.HeadSize), make([]byte, tun.TailSize)
	for {
		frames[0].Head = head
		n, err := p.dev.Read(0, frames, tail)
		if err != nil {
			p.mu.Lock()
			p.got = nil
			p.cond.Broadcast()
			p.mu.Unlock()
			return
		}
		p.mu.Lock()
		p.frames += uint64(n)
		p.mu.Unlock()
		for _, f := range frames[:n] {
			i, prob := packet.Parse(f.Head, len(f.Head))
			if prob != packet.None || i.Kind != packet.TCP {
				continue
			}
			seq, ack, window, _ := i.TCP(f.Head)
			p.mu.Lock()
			p.got[i.DstPort] = append(p.got[i.DstPort], seg{i.TCPFlags, seq, ack, window})
			p.cond.Broadcast()
			p.mu.Unlock()
		}
	}
}

// wait waits for a segment with these flags to the client's port, after skip of them.
func (p *peer) wait(port uint16, flags uint8, skip int) seg {
	p.t.Helper()
	return p.waitFor(port, fmt.Sprintf("flags %#x", flags), skip, func(s seg) bool { return s.flags == flags })
}

// waitFor waits for a segment of that kind to the client's port, after skip of them.
func (p *peer) waitFor(port uint16, what string, skip int, is func(seg) bool) seg {
	p.t.Helper()
	late := false
	stop := time.AfterFunc(patience, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		late = true
		p.cond.Broadcast()
	})
	defer stop.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		n := 0
		for _, s := range p.got[port] {
			if is(s) {
				if n == skip {
					return s
				}
				n++
			}
		}
		if late {
			p.t.Fatalf("no segment with %s to %d; got %v", what, port, p.got[port])
		}
		p.cond.Wait()
	}
}

func (p *peer) send(port uint16, flags uint8, seq, ack uint32, payload ...byte) {
	p.sendTo(80, port, flags, seq, ack, payload...)
}

func (p *peer) sendTo(to, port uint16, flags uint8, seq, ack uint32, payload ...byte) {
	var b [60]byte
	n := packet.PutTCP(b[:], netip.AddrPortFrom(netip.MustParseAddr("10.77.0.2"), port), netip.AddrPortFrom(hostAddr, to),
		64, 1, packet.TCPHeader{Seq: seq, Ack: ack, Flags: flags, Window: 65535}, payload)
	_, err := p.dev.Write(0, []tun.Out{{Pieces: [][]byte{b[:n], payload}}}, true)
	require.NoError(p.t, err)
}

// forget drops what was heard.
func (p *peer) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.got)
}

const irs = 1000 // every client's initial sequence number

func (p *peer) syn(port uint16) { p.send(port, flagSYN, irs, 0) }

// half opens a connection half way and returns the host's sequence number.
func (p *peer) half(port uint16) uint32 {
	p.t.Helper()
	p.syn(port)
	return p.wait(port, flagSYN|flagACK, 0).seq
}

func (p *peer) open(port uint16) uint32 {
	p.t.Helper()
	iss := p.half(port)
	p.send(port, flagACK, irs+1, iss+1)
	return iss
}

// rest waits until door and netstack agree and the door's queues are as expected.
func (r *doorRig) rest(t testing.TB, half, waiting int) {
	t.Helper()
	var last string
	require.Eventually(t, func() bool {
		pending, own := truth(r.ln)
		st := r.ln.door.Stats()
		last = fmt.Sprintf("door: half %d reserved %d waiting %d; netstack: pending %d, own list %d", st.HalfOpen, st.Reserved, st.Waiting, pending, own)
		return st.Reserved == 0 && st.HalfOpen == pending && own == 0 && st.HalfOpen == half && st.Waiting == waiting
	}, patience, time.Millisecond, "want half %d waiting %d", half, waiting)
	_ = last
}

// fate waits until a fate of the port has been counted so often. Fates are counted
// when a run has been served, answers leave before.
func (r *doorRig) fate(t testing.TB, f demux.Fate, n uint64) {
	t.Helper()
	require.Eventually(t, func() bool { return r.s.table.Port(demux.TCPPort(80)).Fates[f] >= n }, patience, time.Millisecond, "fewer than %d %v", n, f)
	require.Equal(t, n, r.s.table.Port(demux.TCPPort(80)).Fates[f], "%v", f)
}

func TestDoorEqualsNetstack(t *testing.T) {
	never := demux.DoorConfig{Backlog: 2, SynQueue: 8, Cookies: demux.CookiesNever}
	t.Run("backlog 2 admits 3; the fourth SYN is dropped, and enters later", func(t *testing.T) {
		r := newDoorRig(t, never)
		for p := range uint16(3) {
			r.p.open(5000 + p)
			r.rest(t, 0, int(p)+1)
		}
		r.p.syn(5003)
		r.fate(t, demux.AcceptQueueFull, 1)
		r.rest(t, 0, 3)
		c, err := r.ln.Accept()
		require.NoError(t, err)
		defer c.Close()
		r.p.open(5003)
		r.rest(t, 0, 3)
	})
	t.Run("final ACKs beyond the backlog are dropped, and pass after Accept", func(t *testing.T) {
		r := newDoorRig(t, demux.DoorConfig{Backlog: 1, SynQueue: 8, Cookies: demux.CookiesNever})
		var iss [5]uint32
		for p := range uint16(5) {
			iss[p] = r.p.half(5000 + p)
		}
		r.rest(t, 5, 0)
		for p := range uint16(5) {
			r.p.send(5000+p, flagACK, irs+1, iss[p]+1)
			r.p.send(5000+p, flagACK, irs+1, iss[p]+1) // a duplicate changes nothing
		}
		r.rest(t, 3, 2)
		r.fate(t, demux.AcceptQueueFull, 6) // three final ACKs and their duplicates
		c, err := r.ln.Accept()
		require.NoError(t, err)
		defer c.Close()
		// netstack sends SYN+ACK again by itself after 1 s; the client answers it.
		r.p.wait(5004, flagSYN|flagACK, 1)
		r.p.send(5004, flagACK, irs+1, iss[4]+1)
		r.rest(t, 2, 2)
	})
	t.Run("data completes what the final ACK should have", func(t *testing.T) {
		r := newDoorRig(t, never)
		iss := r.p.half(5000)
		r.p.send(5000, flagACK, irs+1, iss+1, []byte("hello")...)
		r.rest(t, 0, 1)
		c, err := r.ln.Accept()
		require.NoError(t, err)
		defer c.Close()
		b := make([]byte, 10)
		n, err := c.Read(b)
		require.NoError(t, err)
		require.Equal(t, "hello", string(b[:n]))
	})
	t.Run("forged, old, and reset", func(t *testing.T) {
		r := newDoorRig(t, never)
		iss := r.p.half(5000)
		r.p.send(5000, flagACK, irs+1, 0xdeadbeef) // wrong acknowledgement: RST, still half open
		r.p.send(5000, flagACK, irs, iss+1)        // sequence number before the window
		r.rest(t, 1, 0)
		r.p.send(5000, flagRST, irs+9_000_000, 0) // out of the window
		r.rest(t, 1, 0)
		r.p.send(5000, flagRST, irs+1, 0)
		r.rest(t, 0, 0)
		iss = r.p.half(5004)
		r.p.send(5004, flagRST, irs+9, 0) // in the window: challenged (RFC 5961, 3)
		a := r.p.wait(5004, flagACK, 0)
		require.Equal(t, [2]uint32{iss + 1, irs + 1}, [2]uint32{a.seq, a.ack})
		r.rest(t, 1, 0)
		r.p.send(5004, flagRST, a.ack, 0) // what the peer itself answers
		r.rest(t, 0, 0)
		r.p.half(5001)
		r.p.send(5001, flagSYN, irs+77, 0) // another initial number: netstack ends the half-open one
		r.rest(t, 0, 0)
		r.p.open(5002)
		r.rest(t, 0, 1)
		r.p.send(5002, flagRST, irs+1, 0) // reset while it waits: stays counted, as in Linux
		r.rest(t, 0, 1)
		r.p.open(5003)
		r.p.send(5003, flagACK|0x01, irs+1, r.p.wait(5003, flagSYN|flagACK, 0).seq+1) // FIN while it waits
		r.rest(t, 0, 2)
	})
	t.Run("a SYN on a live connection and on a dead tuple", func(t *testing.T) {
		r := newDoorRig(t, never)
		r.p.open(5000)
		r.rest(t, 0, 1)
		r.p.syn(5000)
		r.rest(t, 0, 1)
		c, err := r.ln.Accept()
		require.NoError(t, err)
		c.(*Conn).Abort()
		r.p.wait(5000, flagRST|flagACK, 0)
		r.p.send(5000, flagSYN, irs+100000, 0)
		r.p.wait(5000, flagSYN|flagACK, 1)
		r.rest(t, 1, 0)
	})
	t.Run("SYN queue: full, shrunk, grown", func(t *testing.T) {
		r := newDoorRig(t, demux.DoorConfig{Backlog: 8, SynQueue: 2, Cookies: demux.CookiesNever})
		for p := range uint16(3) {
			r.p.half(5000 + p)
		}
		r.p.syn(5003)
		r.fate(t, demux.SynQueueFull, 1)
		r.rest(t, 3, 0)
		r.s.SetDoor(80, demux.DoorConfig{Backlog: 8, SynQueue: 0, Cookies: demux.CookiesNever})
		r.p.syn(5003)
		r.fate(t, demux.SynQueueFull, 2)
		r.s.SetDoor(80, demux.DoorConfig{Backlog: 8, SynQueue: 3, Cookies: demux.CookiesNever})
		r.p.half(5003)
		r.rest(t, 4, 0)
	})
	t.Run("close resets what waits", func(t *testing.T) {
		r := newDoorRig(t, never)
		r.p.open(5000)
		r.p.half(5001)
		r.rest(t, 1, 1)
		require.NoError(t, r.ln.Close())
		r.p.wait(5000, flagRST|flagACK, 0)
		require.Eventually(t, func() bool {
			for _, ep := range r.s.net.RegisteredEndpoints() {
				if port, _ := localPort(ep); port == 80 {
					return false
				}
			}
			return true
		}, patience, time.Millisecond)
	})
	t.Run("a repeated SYN gets its SYN+ACK again", func(t *testing.T) {
		r := newDoorRig(t, never)
		iss := r.p.half(5000)
		r.p.syn(5000) // at once for the first time, then twice a second at most
		require.Equal(t, iss, r.p.wait(5000, flagSYN|flagACK, 1).seq)
		r.fate(t, demux.SynRepeated, 1)
		r.rest(t, 1, 0)
	})
	t.Run("abort on overflow", func(t *testing.T) {
		r := newDoorRig(t, demux.DoorConfig{Backlog: 0, SynQueue: 8, AbortOnOverflow: true})
		a, b := r.p.half(5000), r.p.half(5001)
		r.p.send(5000, flagACK, irs+1, a+1)
		r.rest(t, 1, 1)
		r.p.send(5001, flagACK, irs+1, b+1)
		require.Equal(t, b+1, r.p.wait(5001, flagRST, 0).seq)
		r.rest(t, 0, 1)
	})
}

// TestCookiesPerPort: one port answers with cookies, exactly those SYNs that its
// full SYN queue cannot take, while another port keeps its options.
func TestCookiesPerPort(t *testing.T) {
	r := newDoorRig(t, demux.DoorConfig{Backlog: 600, SynQueue: 0, Cookies: demux.CookiesAuto})
	r.p.half(4000) // fills the SYN queue
	const n = 500
	for p := range uint16(n) {
		iss := r.p.half(5000 + p)
		r.p.send(5000+p, flagACK, irs+1, iss+1)
	}
	r.rest(t, 1, n)
	st := r.s.net.Stats().TCP
	require.Zero(t, st.ListenOverflowSynCookieSent.Value()) // ours, not netstack's
	r.fate(t, demux.SynCookie, n)
	require.EqualValues(t, n, st.ListenOverflowSynCookieRcvd.Value())
	require.Zero(t, st.ListenOverflowAckDrop.Value())
	r.p.send(6000, flagACK, irs+1, 12345) // forged: no connection
	r.p.wait(6000, flagRST, 0)
	r.rest(t, 1, n)
}

// lossy drops a share of what is written through it.
type lossy struct {
	tun.Device
	mu  sync.Mutex
	rng *rand.Rand
}

func (l *lossy) Write(q int, frames []tun.Out, wait bool) (int, error) {
	for i := range frames {
		l.mu.Lock()
		drop := l.rng.Float64() < 0.15
		l.mu.Unlock()
		if drop {
			continue
		}
		if _, err := l.Device.Write(q, frames[i:i+1], wait); err != nil {
			return i, err
		}
	}
	return len(frames), nil
}

// TestDoorUnderLoss has many clients, lost segments both ways and a slow service:
// the door is never far from netstack, and equal at rest.
func TestDoorUnderLoss(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds of retransmissions")
	}
	a, b := tun.Pipe(tun.PipeOptions{}, tun.PipeOptions{})
	s, c, _ := pairOn(t, &lossy{Device: a, rng: rand.New(rand.NewPCG(1, 1))}, &lossy{Device: b, rng: rand.New(rand.NewPCG(2, 2))})
	ln := listenOn80(t, s, &demux.DoorConfig{Backlog: 8, SynQueue: 16, Cookies: demux.CookiesNever})

	var clients, service sync.WaitGroup
	for range 100 {
		clients.Go(func() {
			dctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
			defer cancel()
			if conn, err := c.DialTCP(dctx, netip.AddrPortFrom(hostAddr, 80), DialConfig{}); err == nil {
				conn.Close()
			}
		})
	}
	service.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	})
	done := make(chan struct{})
	go func() { clients.Wait(); close(done) }()
	samples, equal, worst := 0, 0, 0
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-tick.C:
			pending, _ := truth(ln)
			st := ln.door.Stats()
			off := st.HalfOpen + st.Reserved - pending
			samples++
			if off == 0 {
				equal++
			}
			worst = max(worst, max(off, -off))
			require.LessOrEqual(t, st.HighWaiting, 9)
		}
	}
	t.Logf("%d samples, %d equal, worst difference %d, most waiting %d, most half open %d", samples, equal, worst, ln.door.Stats().HighWaiting, ln.door.Stats().HighHalfOpen)
	require.Eventually(t, func() bool {
		pending, own := truth(ln)
		st := ln.door.Stats()
		return st.HalfOpen == pending && st.Reserved == 0 && own == 0
	}, 2*patience, 10*time.Millisecond, "not equal at rest")
	ln.Close()
	service.Wait()
}
