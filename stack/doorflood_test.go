package stack

import (
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/demux"
	"porthole/demux/packet"
	"porthole/tun"
)

// spoof sends a segment from an address of its own, which nobody has.
func (p *peer) spoof(i int, port uint16, h packet.TCPHeader) {
	var b [60]byte
	from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 77, byte(1 + i>>8), byte(i)}), 1024)
	n := packet.PutTCP(b[:], from, netip.AddrPortFrom(hostAddr, port), 64, 1, h)
	_, err := p.dev.Write(0, []tun.Out{{Pieces: [][]byte{b[:n]}}}, true)
	require.NoError(p.t, err)
}

// caughtUp reports whether the peer has read that many frames.
func (p *peer) caughtUp(sent uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.frames >= sent
}

const floodSize = 20000

// endpoints counts netstack's connections, in any state. A listener counts twice,
// for IPv4 and IPv6.
func (r *doorRig) endpoints() int { return len(r.s.net.RegisteredEndpoints()) }

// drained waits until port 80 has taken all that was sent, and the peer has read all
// answers: a flood that overflows the port's ingress queue would show nothing of the
// door, and the cookies of one that overflows the pipe are lost (the reader, who sends
// them, waits for nobody).
func (r *doorRig) drained(i int) {
	if i%500 != 499 {
		return
	}
	require.Eventually(r.p.t, func() bool {
		st := r.s.table.Port(demux.TCPPort(80))
		return st.Arrived > uint64(i) && st.Queued == 0 && r.p.caughtUp(r.s.Out().Sent)
	}, patience, time.Millisecond)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestSynFlood: 20,000 SYN from clients that do not exist cost a port its SYN queue
// and nothing else. With cookies its clients go on connecting; without, another
// port's do.
func TestSynFlood(t *testing.T) {
	for name, c := range map[string]demux.Cookies{"auto": demux.CookiesAuto, "never": demux.CookiesNever, "always": demux.CookiesAlways} {
		t.Run(name, func(t *testing.T) {
			r := newDoorRig(t, demux.DoorConfig{Backlog: 64, SynQueue: 64, Cookies: c})
			other, err := r.s.Listen(81, ListenConfig{Owner: "other"})
			require.NoError(t, err)
			defer other.Close()
			before := heap()
			for i := range floodSize {
				r.p.spoof(i, 80, packet.TCPHeader{Flags: flagSYN, Seq: uint32(i), Window: 65535})
				r.drained(i)
				if i%2000 == 1000 {
					at := uint16(5000 + i/2000)
					if c != demux.CookiesNever {
						r.p.open(at) // with or without a cookie
					}
					r.p.sendTo(81, at, flagSYN, irs, 0)
					r.p.wait(at, flagSYN|flagACK, map[bool]int{true: 0, false: 1}[c == demux.CookiesNever])
				}
			}
			table := func() demux.PortStats { return r.s.table.Port(demux.TCPPort(80)) }
			require.Eventually(t, func() bool { return table().Arrived >= floodSize && table().Queued == 0 }, patience, time.Millisecond)
			st, _ := r.s.Door(80)
			require.LessOrEqual(t, st.HighHalfOpen, 65)
			// Netstack lets those go that ended of old age a moment after the door did.
			require.Eventually(t, func() bool { return r.endpoints() <= 65+10+10+4 }, patience, time.Millisecond)
			if c != demux.CookiesNever {
				require.Eventually(t, func() bool { st, _ := r.s.Door(80); return st.Waiting == 10 && st.Reserved == 0 }, patience, time.Millisecond, "%+v", st)
			} else {
				require.GreaterOrEqual(t, table().Fates[demux.SynQueueFull], uint64(floodSize-65-1))
			}
			st81, _ := r.s.Door(81)
			require.Equal(t, 10, st81.HalfOpen, "the other port is not touched")
			require.Zero(t, r.s.table.Port(demux.TCPPort(81)).Fates[demux.SynCookie])
			r.p.forget()
			if grown := int64(heap()) - int64(before); grown > 4<<20 {
				t.Errorf("%d bytes more after the flood", grown)
			}
		})
	}
}

// TestForgedACKFlood: while cookies may come back, 2,000 ACKs that are none hold no
// place, and SYN on a live connection fill no queue.
func TestForgedACKFlood(t *testing.T) {
	r := newDoorRig(t, demux.DoorConfig{Backlog: 4, SynQueue: 4, Cookies: demux.CookiesAlways})
	iss := r.p.open(5000)
	r.rest(t, 0, 1)
	conn, err := r.ln.Accept()
	require.NoError(t, err)
	defer conn.Close()
	for i := range 2000 {
		r.p.spoof(i, 80, packet.TCPHeader{Flags: flagACK, Seq: uint32(i), Ack: uint32(i) * 7919, Window: 65535})
		r.p.send(5000, flagSYN, irs+uint32(i), 0)
		r.drained(i)
		if i%1000 == 0 {
			st, _ := r.s.Door(80)
			require.Zero(t, st.Reserved+st.HalfOpen)
		}
	}
	r.p.open(5001)
	r.rest(t, 0, 1)
	r.p.send(5000, flagACK, irs+1, iss+1, []byte("still here")...)
	b := make([]byte, 20)
	n, err := conn.Read(b)
	require.NoError(t, err)
	require.Equal(t, "still here", string(b[:n]))
	st, _ := r.s.Door(80)
	require.Equal(t, 1, st.HighWaiting)
}

// TestCloseUnderFlood opens and closes a port while SYN and ACK of all kinds come:
// nothing stays of it.
func TestCloseUnderFlood(t *testing.T) {
	r := newDoorRig(t, demux.DoorConfig{Backlog: 4, SynQueue: 4})
	stop := make(chan struct{})
	var flood sync.WaitGroup
	flood.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			r.p.spoof(i%5000, 82, packet.TCPHeader{Flags: flagSYN, Seq: uint32(i), Window: 65535})
			r.p.spoof(i%5000, 82, packet.TCPHeader{Flags: flagACK, Seq: uint32(i) + 1, Ack: uint32(i), Window: 65535})
		}
	})
	for i := range 50 {
		ln, err := r.s.Listen(82, ListenConfig{Owner: "test", Door: &demux.DoorConfig{
			Backlog: i % 3, SynQueue: i % 5, Cookies: demux.Cookies(i % 3), AbortOnOverflow: i%2 == 0}})
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			st, ok := r.s.Door(82)
			return ok && (st.HalfOpen > 0 || st.Cookies == demux.CookiesAlways)
		}, patience, time.Millisecond)
		require.NoError(t, ln.Close())
		require.False(t, ln.door.Pending())
	}
	close(stop)
	flood.Wait()
	require.Eventually(t, func() bool { return r.endpoints() == 2 }, patience, time.Millisecond, "only port 80 listens")
	require.Eventually(t, func() bool { // at the door loop's next look
		r.s.doors.mu.Lock()
		defer r.s.doors.mu.Unlock()
		return len(r.s.doors.active) <= 1
	}, patience, time.Millisecond)
}

// TestCookieIsNetstacks: what a cookie's SYN+ACK says, and that the connection that
// its ACK makes carries data both ways.
func TestCookieIsNetstacks(t *testing.T) {
	for name, mss := range map[string]uint16{"none": 0, "small": 500, "1300": 1300, "1400": 1400, "1460": 1460, "jumbo": 8960} {
		t.Run(name, func(t *testing.T) {
			r := newDoorRig(t, demux.DoorConfig{Backlog: 4, SynQueue: 4, Cookies: demux.CookiesAlways})
			var opts []byte
			if mss != 0 {
				opts = []byte{packet.OptMSS, 4, byte(mss >> 8), byte(mss), packet.OptSACKPermitted, 2, 3, 3, 7}
			}
			r.p.spoof(1, 80, packet.TCPHeader{Flags: flagSYN, Seq: irs, Window: 65535, Options: opts})
			sa := r.p.wait(1024, flagSYN|flagACK, 0)
			require.EqualValues(t, irs+1, sa.ack)
			r.rest(t, 0, 0)
			require.Equal(t, 2, r.endpoints(), "nothing is kept")
			r.p.spoof(1, 80, packet.TCPHeader{Flags: flagACK, Seq: irs + 1, Ack: sa.seq + 1, Window: 65535})
			r.rest(t, 0, 1)
			conn, err := r.ln.Accept()
			require.NoError(t, err)
			defer conn.Close()
			_, err = conn.Write([]byte("hello"))
			require.NoError(t, err)
			require.Equal(t, sa.seq+1, r.p.wait(1024, flagACK|0x08, 0).seq)
		})
	}
}
