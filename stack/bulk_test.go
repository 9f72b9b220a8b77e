package stack

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/demux/packet"
	"porthole/tun"
)

// gated is a device that shows what is written to it, and may hold super-packets back.
type gated struct {
	tun.Device
	see    func(size int, seq, payload uint32)
	shut   chan struct{} // until it is closed, super-packets wait; nil: they do not
	waits  chan struct{} // told when one does
	closed chan struct{}
	once   sync.Once
}

func (g *gated) Write(queue int, frames []tun.Out, wait bool) (int, error) {
	for i := range frames {
		head, size := frames[i].Pieces[0], 0
		for _, p := range frames[i].Pieces {
			size += len(p)
		}
		var in packet.Info
		if in.Parse(head, size) == packet.None && in.Kind == packet.TCP && in.SrcPort == 80 {
			g.see(size, binary.BigEndian.Uint32(head[in.L4+4:]), uint32(in.PayloadLen()))
		}
		if size >= bulkSize && g.shut != nil {
			poke(g.waits)
			select {
			case <-g.shut:
			case <-g.closed:
				return i, os.ErrClosed
			}
		}
	}
	return g.Device.Write(queue, frames, wait)
}

func (g *gated) Close() error {
	g.once.Do(func() { close(g.closed) })
	return g.Device.Close()
}

// bulkRig is a host that writes to g and a client, with two processors at least.
func bulkRig(t *testing.T, g *gated) (s, c *Stack, ln *Listener, stop func()) {
	procs := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(max(2, procs))
	t.Cleanup(func() { runtime.GOMAXPROCS(procs) })
	a, b := tun.Pipe(tun.PipeOptions{GSO: true, Frames: 2}, tun.PipeOptions{GSO: true})
	g.Device, g.closed = a, make(chan struct{})
	s, c, stop = pairOn(t, g, b)
	require.NotEmpty(t, s.link.bulk.lanes)
	return s, c, listenOn80(t, s, nil), stop
}

// TestBulkOrder: super-packets are written on another goroutine than what is small, and
// no frame of a flow overtakes one before it, the FIN included.
func TestBulkOrder(t *testing.T) {
	var mu sync.Mutex
	var next uint32
	var large, small, overtook, direct int
	g := &gated{see: func(size int, seq, payload uint32) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case payload == 0 && next == 0: // SYN+ACK
			next = seq + 1
			return
		case size >= bulkSize:
			large++
			if !calledBy("writeBulk") {
				direct++
			}
		case payload > 0:
			small++
		}
		if int32(seq-next) > 0 {
			overtook++
		}
		if end := seq + payload; int32(end-next) > 0 {
			next = end
		}
	}}
	_, c, ln, _ := bulkRig(t, g)
	client, server := connected(t, c, ln)
	wrote := make(chan int, 1)
	go func() {
		sent := 0
		defer func() { wrote <- sent }()
		b := make([]byte, 300<<10)
		for i := range 200 {
			for _, n := range []int{200 << 10, 1 + i, 40 << 10, 10, 10, len(b)} {
				m, err := server.Write(b[:n])
				sent += m
				if err != nil {
					return
				}
			}
		}
		server.Close()
	}()
	n, err := io.Copy(io.Discard, client)
	require.NoError(t, err)
	mu.Lock()
	defer mu.Unlock()
	require.EqualValues(t, <-wrote, n)
	require.Greater(t, large, 500)
	require.Greater(t, small, 100)
	require.Zero(t, direct)
	require.Zero(t, overtook)
}

// TestCrowdOrder: while crowds come and go, small frames are written on another goroutine
// or by who sends, and none overtakes the one before it.
func TestCrowdOrder(t *testing.T) {
	var mu sync.Mutex
	var next uint32
	var overtook, direct, shared int
	g := &gated{see: func(size int, seq, payload uint32) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case payload == 0 && next == 0: // SYN+ACK
			next = seq + 1
			return
		case payload == 0:
		case calledBy("writeBulk"):
			shared++
		default:
			direct++
		}
		if int32(seq-next) > 0 {
			overtook++
		}
		if end := seq + payload; int32(end-next) > 0 {
			next = end
		}
	}}
	s, c, ln, _ := bulkRig(t, g)
	client, server := connected(t, c, ln)
	go func() {
		defer server.Close()
		b := make([]byte, 100)
		for i := 0; ; i++ {
			s.link.bulk.came(i % (2 * crowdFrames))
			if _, err := server.Write(b); err != nil {
				return
			}
			mu.Lock()
			enough := direct > 500 && shared > 500
			mu.Unlock()
			if enough {
				return
			}
		}
	}()
	_, err := io.Copy(io.Discard, client)
	require.NoError(t, err)
	mu.Lock()
	defer mu.Unlock()
	require.Zero(t, overtook)
}

func calledBy(name string) bool {
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs)])
	for {
		f, more := frames.Next()
		if strings.Contains(f.Function, name) {
			return true
		}
		if !more {
			return false
		}
	}
}

// TestBulkFull: while the device takes no super-packets, a few of them wait, small
// frames of other flows pass, and the end of the stack frees and counts them all.
func TestBulkFull(t *testing.T) {
	g := &gated{see: func(int, uint32, uint32) {}, shut: make(chan struct{}), waits: make(chan struct{}, 1)}
	s, c, ln, stop := bulkRig(t, g)
	_, server := connected(t, c, ln)
	done := make(chan error, 1)
	go func() {
		b := make([]byte, 1<<20)
		for {
			if _, err := server.Write(b); err != nil {
				done <- err
				return
			}
		}
	}()
	<-g.waits
	other, far := connected(t, c, ln)
	flow := func(c net.Conn) int {
		return s.link.bulk.flowOf(80, uint16(c.RemoteAddr().(*net.TCPAddr).Port))
	}
	for flow(far) == flow(server) {
		other, far = connected(t, c, ln)
	}
	_, err := far.Write([]byte("small"))
	require.NoError(t, err)
	_, err = io.ReadFull(other, make([]byte, 5))
	require.NoError(t, err)
	lane := s.link.bulk.lanes[flow(server)%len(s.link.bulk.lanes)]

	stop()
	require.Error(t, <-done)
	require.Empty(t, lane)
	for i := range s.link.bulk.held {
		require.Zero(t, s.link.bulk.held[i].Load())
	}
	require.NotZero(t, s.Out().Closed)
}

// TestBulkLanesShare: Linux gives a client's connections ports of one parity; they use all
// lanes and most numbers all the same.
func TestBulkLanesShare(t *testing.T) {
	var b bulk
	const lanes = 8
	var perLane [lanes]int
	numbers := map[int]bool{}
	const n = 10000
	for i := range n {
		f := b.flowOf(80, uint16(32768+2*i))
		require.Less(t, f, len(b.held))
		perLane[f%lanes]++
		numbers[f] = true
	}
	for i, got := range perLane {
		require.InDelta(t, n/lanes, got, n/lanes/2, "lane %d", i)
	}
	require.Greater(t, len(numbers), len(b.held)/2)
}
