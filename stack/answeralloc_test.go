package stack

import (
	"context"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/demux"
	"porthole/demux/packet"
	"porthole/tun"
)

// lent is a host without goroutines whose 53/udp the reader answers for, and one frame
// to it.
type lent struct {
	s          *Stack
	in         *demux.Ingress
	peer       tun.Device
	frame      []byte
	got        []tun.Frame
	head, tail []byte
}

func newLent(t testing.TB) *lent {
	a, b := tun.Pipe(tun.PipeOptions{}, tun.PipeOptions{})
	host := netip.MustParsePrefix("10.77.0.1/24")
	s, err := New(Config{Device: a, Table: demux.New(demux.Options{}), Addrs: []netip.Prefix{host}})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		require.NoError(t, s.Run(ctx)) // closes everything
	})
	pc, err := s.ListenPacket(53, PacketConfig{Owner: "test"})
	require.NoError(t, err)
	t.Cleanup(func() { pc.Close() })
	pc.Answer(func(msg []byte, from netip.AddrPort, reply func([]byte, netip.AddrPort) bool) bool {
		return reply(msg, from)
	})
	_, ok, err := s.table.Pop(pc.port) // it waits from now on
	require.NoError(t, err)
	require.False(t, ok)
	l := &lent{
		s: s, in: s.table.NewIngress(nil), peer: b, got: make([]tun.Frame, 1),
		head: make([]byte, tun.HeadSize), tail: make([]byte, tun.TailSize),
	}
	t.Cleanup(l.in.Close)
	var hdr [48]byte
	body := make([]byte, 36)
	n := packet.PutUDP(hdr[:], netip.AddrPortFrom(host.Addr().Next(), 5000), netip.AddrPortFrom(host.Addr(), 53), 64, 0, body)
	l.frame = append(hdr[:n:n], body...)
	return l
}

// round brings the frame in, has it answered, and takes the answer.
func (l *lent) round() (answers int) {
	l.bring(l.frame)
	return l.take()
}

// bring does what the reader does with a batch.
func (l *lent) bring(frames ...[]byte) {
	for i, f := range frames {
		l.in.Put(i, copy(l.in.Room(i), f), &demux.Offload{})
	}
	for _, run := range l.in.Deliver(len(frames)) {
		l.in.ServeRun(run, l.s.serve)
	}
}

// take takes what the host has sent.
func (l *lent) take() int {
	l.got[0] = tun.Frame{Head: l.head}
	n, err := l.peer.Read(0, l.got, l.tail)
	if err != nil {
		panic(err)
	}
	return n
}

func TestAnswerAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("pools drop what they hold under the race detector")
	}
	l := newLent(t)
	require.Equal(t, 1, l.round())
	require.Zero(t, testing.AllocsPerRun(1000, func() { l.round() }))
}

// BenchmarkAnswer is a datagram's way in and its answer's way out, without a kernel.
func BenchmarkAnswer(b *testing.B) {
	l := newLent(b)
	b.ReportAllocs()
	for range b.N {
		l.round()
	}
}
