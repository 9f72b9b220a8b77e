package stack

import (
	"runtime"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"porthole/demux"
)

const flagPSH = 0x08

// ackRig is a connection of a client that is played by hand, whose service does nothing
// by itself. Nobody but the service and what comes in lets go of its ACKs, unless late.
func ackRig(t *testing.T, late bool) (r *doorRig, server *Conn, iss uint32) {
	r = newDoorRig(t, demux.DoorConfig{Backlog: 1, SynQueue: 1})
	iss = r.p.open(5000)
	c, err := r.ln.Accept()
	require.NoError(t, err)
	server = c.(*Conn)
	server.ack.listed.Store(!late)
	return r, server, iss
}

// pure are the segments that only acknowledge.
func (p *peer) pure(port uint16) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.got[port] {
		if s.flags == flagACK {
			n++
		}
	}
	return n
}

// TestAckRides: a request is acknowledged by its answer, and by nothing else.
func TestAckRides(t *testing.T) {
	r, server, iss := ackRig(t, false)
	seq, ack := uint32(irs+1), iss+1
	b := make([]byte, 16)
	for i := range 3 {
		r.p.send(5000, flagPSH|flagACK, seq, ack, 'a', 's', 'k')
		seq += 3
		require.Eventually(t, func() bool { return server.ack.held.Load() != nil }, patience, time.Millisecond)
		n, err := server.Read(b) // which finds it there: else it would let go of the ACK
		require.NoError(t, err)
		require.Equal(t, "ask", string(b[:n]))
		_, err = server.Write([]byte("answer"))
		require.NoError(t, err)
		got := r.p.wait(5000, flagPSH|flagACK, i)
		require.Equal(t, seg{flagPSH | flagACK, ack, seq, got.window}, got)
		ack += 6
	}
	require.Zero(t, r.p.pure(5000))
	require.Nil(t, server.ack.held.Load())
}

// TestAckWhenNothingAnswers: a service that reads on wants more, and the client may wait
// for the ACK before it sends that; one that does neither has some time.
func TestAckWhenNothingAnswers(t *testing.T) {
	t.Run("reads on", func(t *testing.T) {
		r, server, iss := ackRig(t, false)
		read := make(chan error, 1)
		go func() {
			_, err := server.Read(make([]byte, 16))
			if err == nil {
				_, err = server.Read(make([]byte, 16))
			}
			read <- err
		}()
		r.p.send(5000, flagACK, irs+1, iss+1, 'h', 'a', 'l')
		require.Equal(t, uint32(irs+4), r.p.wait(5000, flagACK, 0).ack)
		r.p.send(5000, flagACK, irs+4, iss+1, 'f')
		require.NoError(t, <-read)
	})
	t.Run("listens for the end", func(t *testing.T) { // as net/http does while a handler works
		r, server, iss := ackRig(t, false)
		r.p.send(5000, flagACK, irs+1, iss+1, 'x')
		_, err := server.Read(make([]byte, 1))
		require.NoError(t, err)
		read := make(chan error, 1)
		go func() {
			_, err := server.Read(make([]byte, 1))
			read <- err
		}()
		r.p.send(5000, flagACK, irs+2, iss+1, 'y') // its ACK is the second in a row
		require.NoError(t, <-read)
		require.Equal(t, uint32(irs+3), r.p.wait(5000, flagACK, 0).ack)
	})
	t.Run("works", func(t *testing.T) {
		r, _, iss := ackRig(t, true)
		for i := range uint32(2) {
			r.p.send(5000, flagACK, irs+1+i, iss+1, 'x')
			require.Equal(t, irs+2+i, r.p.wait(5000, flagACK, int(i)).ack)
		}
	})
}

// TestAckAtOnce: what the RFCs want answered at once is, whether something is held or
// not, while the service neither reads nor writes.
func TestAckAtOnce(t *testing.T) {
	type in struct {
		seq  uint32 // from the first byte on
		size int
	}
	for _, tt := range []struct {
		name string
		in   []in
		acks []uint32 // from the first byte on
	}{
		{"a full segment", []in{{0, 1460}}, []uint32{1460}},
		{"the second of two", []in{{0, 1}, {1, 1}}, []uint32{2}},
		{"the second of two, again", []in{{0, 1}, {1, 1}, {2, 1}, {3, 1}}, []uint32{2, 4}},
		{"a duplicate of what was answered", []in{{0, 1460}, {0, 1460}}, []uint32{1460, 1460}},
		{"a duplicate of what is held", []in{{0, 1}, {0, 1}}, []uint32{1}},
		{"a keep-alive", []in{{^uint32(0), 0}}, []uint32{0}},
		{"a keep-alive after what is held", []in{{0, 1}, {0, 0}}, []uint32{1}},
		{"out of order, and what fills the gap", []in{{5, 1}, {0, 5}}, []uint32{0, 6}},
		{"out of order twice", []in{{2, 1}, {4, 1}, {0, 2}, {3, 1}}, []uint32{0, 0, 3, 5}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, _, iss := ackRig(t, false)
			for _, x := range tt.in {
				// One after another: netstack answers those that come together once.
				heard := r.s.net.Stats().TCP.SegmentsSent.Value()
				r.p.send(5000, flagACK, irs+1+x.seq, iss+1, make([]byte, x.size)...)
				require.Eventually(t, func() bool { return r.s.net.Stats().TCP.SegmentsSent.Value() > heard }, patience, time.Millisecond)
			}
			for i, want := range tt.acks {
				require.Equal(t, irs+1+want, r.p.wait(5000, flagACK, i).ack)
			}
			require.Equal(t, len(tt.acks), r.p.pure(5000))
		})
	}
}

// TestAckEnds: when the host has sent its FIN, that of the client is acknowledged at
// once, and a connection that has ended holds nothing.
func TestAckEnds(t *testing.T) {
	r, server, iss := ackRig(t, false)
	r.p.send(5000, flagACK, irs+1, iss+1, 'x')
	_, err := server.Read(make([]byte, 1))
	require.NoError(t, err)
	require.NotNil(t, server.ack.held.Load())
	require.NoError(t, server.Close())
	require.Nil(t, server.ack.held.Load())
	require.Equal(t, uint32(irs+2), r.p.wait(5000, flagFIN|flagACK, 0).ack)
	r.p.send(5000, flagFIN|flagACK, irs+2, iss+2)
	require.Equal(t, uint32(irs+3), r.p.wait(5000, flagACK, 0).ack)

	r, server, iss = ackRig(t, false)
	require.NoError(t, server.CloseWrite())
	r.p.wait(5000, flagFIN|flagACK, 0)
	r.p.send(5000, flagFIN|flagACK, irs+1, iss+2)
	require.Equal(t, uint32(irs+2), r.p.wait(5000, flagACK, 0).ack)

	r, server, iss = ackRig(t, false)
	r.p.send(5000, flagACK, irs+1, iss+1, 'x')
	_, err = server.Read(make([]byte, 1))
	require.NoError(t, err)
	r.p.send(5000, flagRST, irs+2, 0)
	_, err = server.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotNil(t, server.ack.held.Load())
	sent := r.s.Out().Sent
	server.ack.send() // as after ackMost
	require.Equal(t, sent, r.s.Out().Sent)
	require.Nil(t, server.ack.held.Load())
	require.NoError(t, server.Close())
}

// TestAckOfTimeWait: netstack keeps the connection for a minute, and nothing of ours.
func TestAckOfTimeWait(t *testing.T) {
	r, server, iss := ackRig(t, false)
	ep := server.ep.(*tcp.Endpoint)
	gone := weak.Make(server)
	require.NoError(t, server.Close())
	r.p.wait(5000, flagFIN|flagACK, 0)
	r.p.send(5000, flagFIN|flagACK, irs+1, iss+2)
	require.Equal(t, uint32(irs+2), r.p.wait(5000, flagACK, 0).ack)
	server = nil
	require.Eventually(t, func() bool { runtime.GC(); return gone.Value() == nil }, patience, time.Millisecond)
	require.Equal(t, tcp.StateTimeWait, ep.EndpointState())
}

// TestAckWithoutItsLock: what has waited for a link address comes to the link without
// its connection's lock.
func TestAckWithoutItsLock(t *testing.T) {
	_, server, iss := ackRig(t, false)
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			for i := range uint32(1000) {
				pkt := netstack.NewPacketBuffer(netstack.PacketBufferOptions{ReserveHeaderBytes: header.TCPMinimumSize})
				th := header.TCP(pkt.TransportHeader().Push(header.TCPMinimumSize))
				th.Encode(&header.TCPFields{SeqNum: iss + 1, AckNum: irs + 1 + i, DataOffset: header.TCPMinimumSize, Flags: flagACK, WindowSize: 1})
				server.ack.holds(pkt, th)
				pkt.DecRef()
			}
		})
	}
	both.Wait()
}
