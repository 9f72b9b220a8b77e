package stack

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/demux"
	"porthole/demux/packet"
	"porthole/tun"
)

// TestOutQueue: 2,000 SYN are answered with cookies while nobody reads. The reader
// waits for none: the device's 4 and the queue's 512 answers wait, the rest is lost
// and counted. Read later, they come in order.
func TestOutQueue(t *testing.T) {
	const ring, syns = 4, 2000
	a, b := tun.Pipe(tun.PipeOptions{}, tun.PipeOptions{Frames: ring})
	s, err := New(Config{Device: a, Table: demux.New(demux.Options{}), Addrs: []netip.Prefix{hostPrefix}})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	ln, err := s.Listen(80, ListenConfig{Owner: "test", Door: &demux.DoorConfig{Backlog: 8, SynQueue: 8, Cookies: demux.CookiesAlways}})
	require.NoError(t, err)
	p := &peer{t: t, dev: b}
	for i := range syns {
		p.send(uint16(1000+i), flagSYN, irs, 0)
		require.Eventually(t, func() bool { return s.table.Port(demux.TCPPort(80)).Fates[demux.SynCookie] == uint64(i+1) },
			patience, 100*time.Microsecond)
	}
	const held = OutQueueFrames
	out := s.Out()
	require.EqualValues(t, ring, out.Sent)
	require.EqualValues(t, syns-ring-held, out.Full)
	require.Zero(t, out.Refused)

	frames := []tun.Frame{{}}
	head, tail := make([]byte, tun.HeadSize), make([]byte, tun.TailSize)
	last := uint16(0)
	for range ring + held {
		frames[0].Head = head
		n, err := b.Read(0, frames, tail)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		i, prob := packet.Parse(frames[0].Head, len(frames[0].Head))
		require.Equal(t, packet.None, prob)
		require.Greater(t, i.DstPort, last)
		last = i.DstPort
	}
	require.Eventually(t, func() bool { return int(s.Out().Sent) == ring+held }, patience, time.Millisecond)
	p.send(999, flagSYN, irs, 0)
	frames[0].Head = head
	_, err = b.Read(0, frames, tail)
	require.NoError(t, err)
	i, _ := packet.Parse(frames[0].Head, len(frames[0].Head))
	require.EqualValues(t, 999, i.DstPort)

	// The stack ends while answers wait: all of them are accounted for.
	for i := range 100 {
		p.send(uint16(1000+i), flagSYN, irs, 0)
	}
	require.Eventually(t, func() bool { return s.table.Port(demux.TCPPort(80)).Fates[demux.SynCookie] == syns+1+100 }, patience, time.Millisecond)
	ln.Close()
	cancel()
	require.NoError(t, <-done)
	b.Close()
	out = s.Out()
	require.EqualValues(t, syns+1+100, out.Sent+out.Full+out.Closed+out.Refused)
}
