package demux

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/demux/packet"
)

// A thousand datagrams into a queue of 64: exactly 64 stay, 936 are counted.
func TestExactly64Of1000(t *testing.T) {
	for name, mk := range map[string]func(uint16, uint16, ...byte) []byte{"v4": udp4, "v6": udp6} {
		t.Run(name, func(t *testing.T) {
			r := newRig(Options{})
			require.NoError(t, r.t.Bind(UDPPort(53), Config{Owner: "dns", Socket: true, Limits: Limits{Packets: 64}}))
			for i := range uint32(1000) {
				r.send(mk(4000, 53, numbered(i, 100)...))
			}
			s := r.t.Port(UDPPort(53))
			require.EqualValues(t, 1000, s.Arrived)
			require.Equal(t, 64, s.Queued)
			require.EqualValues(t, 936, s.Fates[QueueFull])
			require.Equal(t, 64, s.High)
			require.Equal(t, 64*(100+Overhead), s.Bytes)
			for i := range uint32(64) {
				p, ok, err := r.t.Pop(UDPPort(53))
				require.True(t, ok)
				require.NoError(t, err)
				require.Equal(t, i, number(p)) // the newest are the ones that were lost
				r.t.Free(p)
			}
			require.EqualValues(t, 64, r.t.Port(UDPPort(53)).Fates[ToService])
			r.law(t)
			require.Zero(t, r.held())
		})
	}
}

// Floods on a few ports take the memory that is to be had, and not the reserve of
// those that hold little.
func TestScarceMemoryIsolates(t *testing.T) {
	r := newRig(Options{Packets: 4096})
	big := Limits{Packets: 1 << 20, Bytes: 1 << 30}
	for p := range uint16(4) {
		require.NoError(t, r.t.Bind(UDPPort(100+p), Config{Socket: true, Limits: big}))
	}
	for i := range 8000 {
		r.send(udp4(4000, 100+uint16(i%4)))
	}
	var lost uint64
	for p := range uint16(4) {
		lost += r.t.Port(UDPPort(100 + p)).Fates[NoBuffer]
	}
	require.Greater(t, lost, uint64(8000-4096))
	require.Equal(t, 8000-int(lost), r.held())

	require.NoError(t, r.t.Bind(UDPPort(53), Config{Socket: true, Limits: big}))
	for range littlePackets + 10 {
		r.send(udp4(4000, 53))
	}
	s := r.t.Port(UDPPort(53))
	require.Equal(t, littlePackets, s.Queued)
	require.EqualValues(t, 10, s.Fates[NoBuffer])
	r.law(t)

	for p := range uint16(4) { // room again
		r.t.Release(UDPPort(100 + p))
	}
	r.send(udp4(4000, 53))
	require.Equal(t, littlePackets+1, r.t.Port(UDPPort(53)).Queued)
	r.t.Release(UDPPort(53))
	require.Zero(t, r.held())
}

// When even the reserve is gone, packets are lost with a fate, and nothing else.
func TestMemoryUsedUp(t *testing.T) {
	r := newRig(Options{Packets: 256})
	for i := range 1000 {
		p := uint16(1 + i%500)
		if i < 500 {
			require.NoError(t, r.t.Bind(UDPPort(p), Config{Socket: true}))
		}
		r.send(udp4(4000, p))
	}
	var queued int
	var lost uint64
	for _, s := range r.t.Ports() {
		queued += s.Queued
		lost += s.Fates[NoBuffer]
	}
	tot := r.t.Totals()
	require.LessOrEqual(t, tot.InUse, tot.Capacity)
	require.EqualValues(t, 1000-queued, lost)
	require.Greater(t, queued, 100)
	r.law(t)
	for p := range uint16(500) {
		r.t.Release(UDPPort(1 + p))
	}
	require.Zero(t, r.held())
	r.send(udp4(4000, 99), udp4(4000, 99)) // and the rest of the host lives on
	require.Equal(t, 2, r.t.Port(LaneClosed).Queued)
}

// The smallest pool has room for the table's own entrances and a reader.
func TestSmallestPool(t *testing.T) {
	r := newRig(Options{Packets: 1})
	require.NoError(t, r.t.Bind(UDPPort(53), Config{Socket: true}))
	r.send(udp4(4000, 53))
	require.Equal(t, 1, r.t.Port(UDPPort(53)).Queued)
	require.NotPanics(t, func() { r.t.NewIngress(nil).Close() })
	require.Panics(t, func() {
		for range 5 {
			r.t.NewIngress(nil)
		}
	})
}

// super is a segment whose rest lies in a tail.
func super(port uint16, size int) []byte {
	b := make([]byte, 120)
	from, to := netip.AddrPortFrom(peerAddr, 4000), netip.AddrPortFrom(hostAddr, port)
	payload := bytes.Repeat([]byte("porthole"), size/8)
	n := packet.PutTCP(b, from, to, 64, 1, packet.TCPHeader{Flags: packet.ACK, Window: 1}, payload)
	return append(b[:n], payload...)
}

func TestTailsAreAccounted(t *testing.T) {
	const size = 16000
	port := TCPPort(80)
	held := func(r *rig) int64 { return r.t.pool.tailBytes.Load() }
	for name, end := range map[string]func(t *testing.T, r *rig){
		"queued and released": func(t *testing.T, r *rig) {
			require.NoError(t, r.t.Bind(port, Config{}))
			r.send(super(80, size), super(80, size))
			require.Greater(t, held(r), int64(2*(size-HeadSize)))
			r.t.Release(port)
		},
		"dropped at the limit": func(t *testing.T, r *rig) {
			require.NoError(t, r.t.Bind(port, Config{Limits: Limits{Packets: 1}}))
			r.send(super(80, size))
			before := held(r)
			r.send(super(80, size))
			require.Equal(t, before, held(r))
			r.t.Drain()
		},
		"malformed": func(_ *testing.T, r *rig) {
			b := super(80, size)
			b[0] = 0x55
			r.send(b)
		},
		"closed and served": func(t *testing.T, r *rig) {
			r.send(super(80, size))
			require.Positive(t, held(r))
			run, _ := r.take()
			r.t.ServeRun(run, toClosed)
		},
		"handed over": func(t *testing.T, r *rig) {
			require.NoError(t, r.t.Bind(port, Config{}))
			want := super(80, size)
			r.send(want)
			run, _ := r.take()
			var got []byte
			r.t.ServeRun(run, func(_ Port, p Packet) Fate {
				require.Equal(t, want[HeadSize:], p.Rest())
				got = append(append(got, p.Frame()...), p.TakeTail(r.t).Bytes...)
				require.Zero(t, held(r))
				require.Nil(t, p.TakeTail(r.t).Bytes, "taken twice")
				return ToStack
			})
			require.Equal(t, want, got)
		},
		"popped and freed": func(t *testing.T, r *rig) {
			require.NoError(t, r.t.Bind(port, Config{Socket: true}))
			r.send(super(80, size))
			p, ok, _ := r.t.Pop(port)
			require.True(t, ok)
			buf := make([]byte, size+1)
			n, all := p.CopyPayload(buf)
			require.Equal(t, size, n)
			require.Equal(t, size, all)
			require.Equal(t, bytes.Repeat([]byte("porthole"), size/8), buf[:n])
			n, all = p.CopyPayload(buf[:3000])
			require.Equal(t, []int{3000, size}, []int{n, all})
			r.t.Free(p)
		},
		"put and never delivered": func(t *testing.T, r *rig) {
			put(r.in, 0, super(80, size), Offload{})
			put(r.in, 0, super(80, size), Offload{})
			put(r.in, 1, super(80, size), Offload{})
			require.Positive(t, held(r))
			r.in.Close()
		},
		"padding only": func(t *testing.T, r *rig) {
			require.NoError(t, r.t.Bind(port, Config{}))
			r.send(append(tcp4(4000, 80, packet.ACK), make([]byte, 50000)...))
			require.Equal(t, 1, r.t.Port(port).Queued)
			require.Zero(t, held(r), "padding is kept for nobody")
			r.t.Drain()
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(Options{})
			end(t, r)
			r.law(t)
			require.Zero(t, held(r))
			require.Zero(t, r.held())
		})
	}
}

// Tails have a limit of their own, which ports that hold much meet first.
func TestTailLimit(t *testing.T) {
	const limit = 1 << 20
	r := newRig(Options{TailBytes: limit})
	big := Limits{Packets: 1000, Bytes: 1 << 30}
	for p := range uint16(100) {
		require.NoError(t, r.t.Bind(TCPPort(1000+p), Config{Limits: big}))
	}
	for range 150 {
		r.send(super(1000, 40000))
	}
	require.LessOrEqual(t, r.t.pool.tailBytes.Load(), int64(limit))
	first := r.t.Port(TCPPort(1000))
	require.Positive(t, first.Fates[NoBuffer])
	r.send(super(1001, 40000))
	require.Equal(t, 1, r.t.Port(TCPPort(1001)).Queued, "a port that holds nothing keeps its share")
	for i := range 1000 {
		r.send(super(1000+uint16(i%100), 40000))
	}
	require.LessOrEqual(t, r.t.pool.tailBytes.Load(), int64(limit))
	r.send(tcp4(4000, 1099, packet.ACK)) // packets without a tail pass
	require.Equal(t, r.t.Port(TCPPort(1098)).Queued+1, r.t.Port(TCPPort(1099)).Queued)
	r.law(t)
}

// A UDP datagram may end before its packet does: what follows is not payload.
func TestPayloadEndsWhereUDPSays(t *testing.T) {
	for name, f := range map[string][]byte{"v4": udp4(4000, 53, numbered(7, 40)...), "v6": udp6(4000, 53, numbered(7, 40)...)} {
		t.Run(name, func(t *testing.T) {
			r := newRig(Options{})
			require.NoError(t, r.t.Bind(UDPPort(53), Config{Socket: true}))
			at := 24
			if name == "v6" {
				at = 44
			}
			f[at], f[at+1] = 0, 18 // ten bytes of payload
			put(r.in, 0, f, Offload{Flags: 2})
			r.in.Deliver(1)
			p, ok, _ := r.t.Pop(UDPPort(53))
			require.True(t, ok)
			buf := make([]byte, 100)
			n, size := p.CopyPayload(buf)
			require.Equal(t, []int{10, 10}, []int{n, size})
			require.EqualValues(t, Overhead+10, p.s.charge)
			r.t.Free(p)
		})
	}
}

func TestCloseIngressTwice(t *testing.T) {
	r := newRig(Options{})
	before := r.t.Totals().InUse
	in := r.t.NewIngress(nil)
	put(in, 0, udp4(4000, 99), Offload{})
	in.Deliver(1)
	in.Close()
	in.Close()
	tot := r.t.Totals()
	require.EqualValues(t, 1, tot.Arrived, "what a reader counted outlives it")
	require.EqualValues(t, 1, tot.Kinds[FromDevice])
	require.NoError(t, tot.Check())
	require.Equal(t, before+1, tot.InUse)
	r.t.Drain()
	require.Equal(t, before, r.t.Totals().InUse)
}

// Injected packets count by their kind and need no inline service.
func TestInject(t *testing.T) {
	r := newRig(Options{})
	require.NoError(t, r.t.Bind(UDPPort(53), Config{Socket: true}))
	require.NoError(t, r.t.Bind(TCPPort(80), Config{}))
	r.t.SetInline(TCPPort(80), true)
	f := udp4(4000, 53, numbered(1, 30000)...)
	r.t.Inject(Reassembled, Offload{}, f[:20], f[20:5000], f[5000:])
	own := tcp(netip.AddrPortFrom(hostAddr, 5000), netip.AddrPortFrom(hostAddr, 80), packet.SYN)
	r.t.Inject(SelfTest, Offload{}, own)
	r.send(own)

	s := r.t.Port(UDPPort(53))
	require.EqualValues(t, 1, s.Kinds[Reassembled])
	require.Zero(t, s.Kinds[FromDevice])
	require.Equal(t, 30000+Overhead, s.Bytes)
	require.EqualValues(t, 1, r.t.Port(TCPPort(80)).Kinds[SelfTest])
	require.Equal(t, 1, r.t.Port(TCPPort(80)).Queued)
	require.EqualValues(t, 1, r.t.Port(LaneHost).Fates[Martian], "from outside it is a lie")
	tot := r.t.Totals()
	require.Equal(t, [NumKinds]uint64{FromDevice: 1, Reassembled: 1, SelfTest: 1}, tot.Kinds)

	p, ok, _ := r.t.Pop(UDPPort(53))
	require.True(t, ok)
	require.Equal(t, Reassembled, p.Kind())
	buf := make([]byte, 30000)
	n, size := p.CopyPayload(buf)
	require.Equal(t, []int{30000, 30000}, []int{n, size})
	require.Equal(t, numbered(1, 30000), buf)
	require.Equal(t, netip.AddrPortFrom(peerAddr, 4000), p.From())
	require.Equal(t, netip.AddrPortFrom(hostAddr, 53), p.To())
	r.t.Free(p)
	r.law(t)
}
