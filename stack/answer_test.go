package stack_test

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/demux"
	"porthole/stack"
	"porthole/stack/stacktest"
	"porthole/tun"
)

// answering is a service on 53/udp that answers where the host reads and, for the rest,
// from ReadFrom. Its answer is what it got and who gave it.
type answering struct {
	*stack.PacketConn
	inline, read atomic.Int64
	got          chan string // of ReadFrom, in order
	wg           sync.WaitGroup
}

func answer53(t testing.TB, host *stack.Stack, f func(msg []byte) bool) *answering {
	t.Helper()
	pc, err := host.ListenPacket(53, stack.PacketConfig{Owner: "test"})
	require.NoError(t, err)
	a := &answering{PacketConn: pc, got: make(chan string, 1000)}
	pc.Answer(func(msg []byte, from netip.AddrPort, reply func([]byte, netip.AddrPort) bool) bool {
		if !f(msg) {
			return false
		}
		a.inline.Add(1)
		return reply(append([]byte("inline "), msg...), from)
	})
	a.wg.Go(func() {
		b := make([]byte, 2000)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			a.read.Add(1)
			a.got <- string(b[:n])
			pc.WriteToUDPAddrPort(append([]byte("read "), b[:n]...), from)
		}
	})
	t.Cleanup(func() {
		pc.Close()
		a.wg.Wait()
	})
	return a
}

func always([]byte) bool { return true }

// ask sends one datagram and returns its answer.
func ask(t testing.TB, c net.Conn, msg string) string {
	t.Helper()
	_, err := c.Write([]byte(msg))
	require.NoError(t, err)
	return hear(t, c)
}

func hear(t testing.TB, c net.Conn) string {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
	b := make([]byte, 4000)
	n, err := c.Read(b)
	require.NoError(t, err)
	return string(b[:n])
}

// untilInline asks until the service waits in ReadFrom and the reader answers.
func untilInline(t testing.TB, a *answering, c net.Conn) {
	t.Helper()
	for range 1000 {
		if ask(t, c, "?") == "inline ?" {
			for len(a.got) > 0 {
				<-a.got
			}
			return
		}
	}
	t.Fatal("the reader never answers")
}

// TestAnswer: where the reader may answer it does, elsewhere the service does, and
// nobody can tell by the ledger.
func TestAnswer(t *testing.T) {
	each(t, func(t *testing.T, r *rig, host netip.Addr) {
		a := answer53(t, r.host, always)
		c, err := r.client.DialUDP(netip.AddrPortFrom(host, 53), stack.DialConfig{})
		require.NoError(t, err)
		defer c.Close()
		if strings.Contains(t.Name(), "ethernet") { // an answer may have to wait for its next hop
			for range 10 {
				require.Equal(t, "read x", ask(t, c, "x"))
			}
			require.Zero(t, a.inline.Load())
			return
		}
		untilInline(t, a, c)
		before := a.inline.Load()
		for range 100 {
			require.Equal(t, "inline hello", ask(t, c, "hello"))
		}
		require.EqualValues(t, before+100, a.inline.Load())

		// In pieces: put together by netstack, answered by the service.
		long := string(make([]byte, 1900))
		require.Equal(t, "read "+long, ask(t, c, long))
		// From the host itself.
		self, err := r.host.DialUDP(netip.AddrPortFrom(host, 53), stack.DialConfig{})
		require.NoError(t, err)
		defer self.Close()
		require.Equal(t, "read self", ask(t, self, "self"))
		// Longer with the answer than one packet.
		most := 1500 - 28
		if host.Is6() {
			most = 1500 - 48
		}
		long = string(make([]byte, most))
		require.Equal(t, "read "+long, ask(t, c, long))
		long = string(make([]byte, most-len("inline ")))
		untilInline(t, a, c)
		require.Equal(t, "inline "+long, ask(t, c, long))

		untilInline(t, a, c)
		a.Answer(nil)
		require.Equal(t, "read last", ask(t, c, "last"))
		s := r.table.Port(demux.UDPPort(53))
		require.EqualValues(t, s.Arrived, s.Fates[demux.ToService])
	})
}

// TestAnswerLeaves: what the function leaves comes to ReadFrom, with all that follow,
// in order.
func TestAnswerLeaves(t *testing.T) {
	r := newRig(t, tun.PipeOptions{})
	a := answer53(t, r.host, func(msg []byte) bool { return string(msg) != "leave" })
	c, err := r.client.DialUDP(netip.AddrPortFrom(stacktest.Host4.Addr(), 53), stack.DialConfig{})
	require.NoError(t, err)
	defer c.Close()
	for range 100 {
		untilInline(t, a, c)
		require.Equal(t, "read leave", ask(t, c, "leave"))
		require.Equal(t, "leave", <-a.got)
	}
}

// TestAnswerSlow: one that is slow is left to ReadFrom, in order and with the same fates,
// so that the reader is there for others, and is tried again later.
func TestAnswerSlow(t *testing.T) {
	const long, burst = 20 * time.Millisecond, 64
	r := newRig(t, tun.PipeOptions{})
	var slow atomic.Bool
	a := answer53(t, r.host, func([]byte) bool {
		for begun := time.Now(); slow.Load() && time.Since(begun) < long; {
		}
		return true
	})
	c, err := r.client.DialUDP(netip.AddrPortFrom(stacktest.Host4.Addr(), 53), stack.DialConfig{})
	require.NoError(t, err)
	defer c.Close()
	untilInline(t, a, c)
	slow.Store(true)
	quick := a.inline.Load()
	for n := 0; n < 20; n++ { // the first that is timed is one of eight, the fourth after it one too many
		if strings.HasPrefix(ask(t, c, "?"), "inline") {
			n = 0
		}
	}
	before := a.inline.Load()
	require.LessOrEqual(t, before, quick+13)
	for len(a.got) > 0 {
		<-a.got
	}
	again := time.Now().Add(long * 64 / 2) // half of its rest at least
	for i := range burst {
		_, err := c.Write([]byte{byte(i)})
		require.NoError(t, err)
	}
	for i := range burst {
		require.Equal(t, string([]byte{byte(i)}), <-a.got)
		hear(t, c)
	}
	if inline := a.inline.Load(); time.Now().Before(again) {
		require.Equal(t, before, inline)
	}
	s := r.table.Port(demux.UDPPort(53))
	require.EqualValues(t, s.Arrived, s.Fates[demux.ToService])

	slow.Store(false)
	require.Eventually(t, func() bool { return strings.HasPrefix(ask(t, c, "?"), "inline") }, patience, 10*time.Millisecond)
	untilInline(t, a, c)
	for range 200 { // it counts as quick again
		untilInline(t, a, c)
	}
}

// TestAnswerHeld: a service that is held back answers nothing, inline neither; its
// queue is the bound, and it gets the oldest when it is let go.
func TestAnswerHeld(t *testing.T) {
	r := newRig(t, tun.PipeOptions{})
	a := answer53(t, r.host, always)
	c, err := r.client.DialUDP(netip.AddrPortFrom(stacktest.Host4.Addr(), 53), stack.DialConfig{})
	require.NoError(t, err)
	defer c.Close()
	port := demux.UDPPort(53)
	st := func() demux.PortStats { return r.table.Port(port) }
	require.NoError(t, r.table.SetLimits(port, demux.Limits{Packets: 8}))
	for _, delay := range []time.Duration{0, time.Hour} {
		hold := func(on bool) {
			d := stack.Delay{}
			if on {
				d.Mean = delay
			}
			r.host.SetPace(false, 53, d, on && delay == 0)
		}
		untilInline(t, a, c)
		hold(true)
		if delay > 0 { // the service waits for a packet already: it takes one more
			require.Equal(t, "read 0", ask(t, c, "0"))
			require.Equal(t, "0", <-a.got)
		}
		inline, lost, arrived := a.inline.Load(), st().Fates[demux.QueueFull], st().Arrived
		for i := range 20 {
			_, err := c.Write([]byte{'a' + byte(i)})
			require.NoError(t, err)
		}
		require.Eventually(t, func() bool { return st().Arrived == arrived+20 }, patience, time.Millisecond)
		require.Equal(t, 8, st().Queued)
		require.EqualValues(t, lost+12, st().Fates[demux.QueueFull])
		require.Equal(t, inline, a.inline.Load())
		hold(false)
		for i := range 8 {
			require.Equal(t, "read "+string(rune('a'+i)), hear(t, c))
			require.Equal(t, string(rune('a'+i)), <-a.got)
		}
	}
}

// TestAnswerOrder: whoever answers, one flow's datagrams are taken in order.
func TestAnswerOrder(t *testing.T) {
	r := newRig(t, tun.PipeOptions{})
	pc, err := r.host.ListenPacket(53, stack.PacketConfig{Owner: "test", Limits: demux.Limits{Packets: 20000, Bytes: 64 << 20}})
	require.NoError(t, err)
	const n = 20000
	var mu sync.Mutex // that the two never take at once is not for the test to assume
	var last, inline uint32
	taken := make(chan uint32, n)
	take := func(msg []byte) {
		k := binary.BigEndian.Uint32(msg)
		if k != last+1 {
			t.Errorf("%d after %d", k, last)
		}
		last = k
		taken <- k
	}
	await := func(k uint32) {
		t.Helper()
		for {
			select {
			case got := <-taken:
				if got == k {
					return
				}
			case <-time.After(patience):
				t.Fatalf("%d never came", k)
			}
		}
	}
	pc.Answer(func(msg []byte, _ netip.AddrPort, _ func([]byte, netip.AddrPort) bool) bool {
		mu.Lock()
		defer mu.Unlock()
		if msg[3]%64 == 63 {
			return false
		}
		inline++
		take(msg)
		return true
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 10)
		for {
			if _, _, err := pc.ReadFromUDPAddrPort(b); err != nil {
				return
			}
			mu.Lock()
			take(b)
			mu.Unlock()
		}
	})
	defer wg.Wait()
	defer pc.Close()
	c, err := r.client.DialUDP(netip.AddrPortFrom(stacktest.Host4.Addr(), 53), stack.DialConfig{})
	require.NoError(t, err)
	defer c.Close()
	alone := func() bool { mu.Lock(); defer mu.Unlock(); return inline == 0 }
	for k := uint32(1); k <= n; k++ {
		_, err := c.Write(binary.BigEndian.AppendUint32(nil, k))
		require.NoError(t, err)
		if alone() { // until the reader has found the service waiting, one by one
			await(k)
		}
	}
	require.False(t, alone(), "the reader answers nothing")
	await(n)
	mu.Lock()
	defer mu.Unlock()
	require.NotZero(t, inline)
	require.Less(t, inline, uint32(n))
}

// TestAnswerCloses: a socket is closed and bound again under a flood; once Close or
// Answer has returned, the function does not run.
func TestAnswerCloses(t *testing.T) {
	r := newRig(t, tun.PipeOptions{Queues: 2})
	var flood sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		c, err := r.client.DialUDP(netip.AddrPortFrom(stacktest.Host4.Addr(), 53), stack.DialConfig{})
		require.NoError(t, err)
		defer c.Close()
		flood.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					c.Write([]byte("x"))
				}
			}
		})
	}
	answered := 0
	for i := 0; i < 300 || answered == 0 && i < 3000; i++ {
		pc, err := r.host.ListenPacket(53, stack.PacketConfig{Owner: "test"})
		require.NoError(t, err)
		over, calls := false, 0 // unguarded: the race detector knows
		pc.Answer(func(msg []byte, from netip.AddrPort, reply func([]byte, netip.AddrPort) bool) bool {
			if over {
				t.Error("called after the end")
			}
			calls++
			return reply(msg, from)
		})
		b := make([]byte, 10)
		for range 3 {
			_, _, err := pc.ReadFrom(b)
			require.NoError(t, err)
		}
		go pc.ReadFrom(b) // waits, so that the reader may answer
		if i%2 == 0 {
			pc.Answer(nil)
			over = true
		}
		pc.Close()
		over = true
		answered += calls
	}
	close(done)
	flood.Wait()
}

// TestAnswerFullDevice: a device that takes nothing holds up neither the reader nor
// the shutdown; what waits for it is bounded, what is lost counted.
func TestAnswerFullDevice(t *testing.T) {
	a, b := tun.Pipe(tun.PipeOptions{}, tun.PipeOptions{Frames: 4})
	table := demux.New(demux.Options{})
	host, err := stack.New(stack.Config{Device: a, Table: table, Addrs: []netip.Prefix{stacktest.Host4}})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- host.Run(ctx) }()
	pc, err := host.ListenPacket(53, stack.PacketConfig{Owner: "test"})
	require.NoError(t, err)
	var replies atomic.Int64
	pc.Answer(func(msg []byte, from netip.AddrPort, reply func([]byte, netip.AddrPort) bool) bool {
		replies.Add(1)
		return reply(msg, from)
	})
	var wg sync.WaitGroup
	wg.Go(func() { // answers nothing
		for {
			if _, _, err := pc.ReadFrom(make([]byte, 10)); err != nil {
				return
			}
		}
	})

	const room = 4 + stack.OutQueueFrames // in the pipe, and before it
	frame := datagram(netip.MustParseAddrPort("10.77.0.2:5000"), netip.MustParseAddrPort("10.77.0.1:53"), []byte("ask"))
	idle := func() bool { return table.Port(demux.UDPPort(53)).Queued == 0 }
	ask := func(answers int64) {
		for sent := 1; replies.Load() < answers; sent++ {
			_, err := b.Write(0, []tun.Out{{Pieces: [][]byte{frame}}}, true)
			require.NoError(t, err)
			if sent%64 == 0 { // what finds the service busy gets no answer; on one core it would always be
				require.Eventually(t, idle, patience, time.Millisecond)
			}
		}
	}
	ask(room + 10)
	require.Eventually(t, func() bool { return host.Out().Full > 0 && idle() }, patience, time.Millisecond)
	o := host.Out()
	require.EqualValues(t, 4, o.Sent)
	// One that reads again gets what waited, in order, and then what is new.
	frames := make([]tun.Frame, 1)
	tail := make([]byte, tun.TailSize)
	for range room {
		frames[0] = tun.Frame{Head: make([]byte, tun.HeadSize)}
		n, err := b.Read(0, frames, tail)
		require.NoError(t, err)
		require.Equal(t, 1, n)
	}
	ask(replies.Load() + room + 10) // and so once more
	require.Eventually(t, func() bool { return host.Out().Full > o.Full }, patience, time.Millisecond)
	cancel()
	require.NoError(t, <-ended)
	pc.Close()
	wg.Wait()
	o = host.Out()
	require.EqualValues(t, replies.Load(), o.Sent+o.Full+o.Closed+o.Refused)
	require.NoError(t, table.Totals().Check())
}
