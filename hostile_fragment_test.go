package porthole_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/demux/packet"
	"porthole/tun"
)

// part is the piece of a whole IP packet's payload from byte at to byte end.
func part(whole []byte, id uint16, at, end int, more bool) []byte {
	if whole[0]>>4 == 4 {
		frag := uint16(at / 8)
		if more {
			frag |= 0x2000
		}
		return v4{src: addr4(whole[12:]), dst: addr4(whole[16:]), proto: whole[9], id: id, frag: frag}.put(whole[20+at : 20+end])
	}
	off := uint16(at)
	if more {
		off |= 1
	}
	h := []byte{whole[6], 0, byte(off >> 8), byte(off), 0, 0, byte(id >> 8), byte(id)}
	return v6(evil6, host6, 44, append(h, whole[40+at:40+end]...))
}

func addr4(b []byte) netip.Addr { return netip.AddrFrom4([4]byte(b)) }

// cut cuts a whole packet into fragments of size bytes.
func cut(whole []byte, id uint16, size int) (fs [][]byte) {
	n := len(body(whole))
	for at := 0; at < n; at += size {
		fs = append(fs, part(whole, id, at, min(at+size, n), at+size < n))
	}
	return fs
}

func TestHostileFragments(t *testing.T) {
	eachLink(t, func(t *testing.T, r *hostile) {
		reassembled := func() uint64 { return r.host.Health().Arrived["reassembled"] }
		text := bytes.Repeat([]byte("0123456789abcdef"), 8) // 128 bytes after UDP's 8
		echoed := func(b []byte) bool { return bytes.HasSuffix(b, text) }
		id := uint16(100)
		for _, whole := range [][]byte{udp(ap(evil4, 1000), ap(host4, 7), text...), udp(ap(evil6, 1000), ap(host6, 7), text...)} {
			n := len(body(whole))
			// Tiny fragments, in any order; the first has the UDP header alone.
			for _, order := range []func([][]byte){func([][]byte) {}, reverse} {
				id++
				fs := cut(whole, id, 8)
				order(fs)
				before := reassembled()
				r.ip(fs...)
				r.wait("echo", echoed)
				require.Equal(t, before+1, reassembled())
			}
			before := reassembled()
			for name, fs := range map[string][][]byte{
				"teardrop":          {part(whole, 1, 0, 48, true), part(whole, 1, 24, 40, false)},
				"overlap, inner":    {part(whole, 2, 0, 64, true), part(whole, 2, 32, 96, true), part(whole, 2, 96, n, false)},
				"overlap by all":    {part(whole, 3, 8, 16, true), part(whole, 3, 0, 128, true), part(whole, 3, 128, n, false)},
				"two ends":          {part(whole, 4, 64, 72, false), part(whole, 4, 72, n, false), part(whole, 4, 0, 64, true)},
				"beyond the end":    {part(whole, 5, 8, 64, false), part(whole, 5, 64, n, true)},
				"the middle misses": {part(whole, 6, 0, 64, true), part(whole, 6, 72, n, false)},
			} {
				require.Empty(t, r.fates("to-reassembly", fs...), name)
				require.Equal(t, before, reassembled(), "%s was put together (RFC 5722: drop it all)", name)
			}
			// The same fragment twice is not an overlap that anybody gains from; Linux
			// takes it, netstack too.
			id++
			fs := cut(whole, id, 64)
			r.ip(fs[0], fs[0], fs[1], fs[1], fs[2])
			r.wait("echo", echoed)

			// Empty ones.
			require.Empty(t, r.fates("malformed", part(whole, 8, 0, 0, true), part(whole, 8, 8, 8, false)))
			// Inner ones that are no multiple of eight, and the ping of death: RFC 8200, 4.5
			// wants a parameter problem, RFC 791 nothing.
			odd, last := part(whole, 8, 0, 63, true), part(whole, 7, 0, 64, true)
			if whole[0]>>4 == 4 {
				binary.BigEndian.PutUint16(last[6:], 0x1fff)
				sum4(last)
				require.Empty(t, r.fates("malformed", odd, last))
			} else {
				binary.BigEndian.PutUint16(last[42:], 0xfff8)
				require.Equal(t, "4/0 at 4", icmpReply(t, r.fates("to-stack", odd)))
				require.Equal(t, "4/0 at 42", icmpReply(t, r.fates("to-stack", last)))
			}

			// A wrong checksum shows once the whole is there.
			id++
			fs = cut(whole, id, 64)
			fs[1][len(fs[1])-1] ^= 1
			r.ip(fs...)
			until(t, "a bad checksum", func() bool { return r.host.Health().Fates["bad-checksum"] > 0 })
			r.barrier()
		}
	})
}

func reverse(fs [][]byte) {
	for i, k := 0, len(fs)-1; i < k; i, k = i+1, k-1 {
		fs[i], fs[k] = fs[k], fs[i]
	}
}

// A handshake in fragments passes the port's own queue and door like any other: both
// fragments of each segment are counted, and the whole at the port.
func TestHostileFragmentedTCP(t *testing.T) {
	eachLink(t, func(t *testing.T, r *hostile) {
		at80 := func() uint64 {
			for _, p := range r.host.Ports() {
				if p.Port.String() == "80/tcp" {
					return p.Arrived
				}
			}
			return 0
		}
		for _, h := range []struct {
			evil, host netip.Addr
			size       int // in IPv6 the first fragment has the whole TCP header (RFC 7112)
		}{{evil4, host4, 8}, {evil6, host6, 24}} {
			before, whole := at80(), r.host.Health().Arrived["reassembled"]
			r.ip(cut(seg(ap(h.evil, 5000), ap(h.host, 80), packet.SYN, 1, 0, []byte("not yet taken")...), 900, h.size)...)
			isSeg := func(b []byte) bool {
				i, p := packet.Parse(b, len(b))
				return p == packet.None && i.Kind == packet.TCP
			}
			flags, seq, _ := tcpReply(t, [][]byte{r.wait("syn+ack", isSeg)})
			require.Equal(t, packet.SYN|packet.ACK, flags)
			r.ip(cut(seg(ap(h.evil, 5000), ap(h.host, 80), packet.ACK, 2, seq+1, []byte("GET / HTTP/1.0\r\n\r\n")...), 901, max(16, h.size))...)
			r.wait("an answer", func(b []byte) bool { return bytes.Contains(b, []byte("HTTP/1.")) })
			require.Equal(t, whole+2, r.host.Health().Arrived["reassembled"])
			require.GreaterOrEqual(t, at80(), before+2) // an earlier connection may still say goodbye
			r.ip(seg(ap(h.evil, 5000), ap(h.host, 80), packet.RST, 20, 0))
			until(t, "the connection to end", func() bool { return status(t, r.host, "80/tcp").Connections == 0 })
			r.barrier()
			r.wire.mu.Lock()
			r.wire.got = nil // what the host sent before the RST
			r.wire.mu.Unlock()
		}
	})
}

// A flood of first fragments that never become whole costs a bounded memory, and
// the link and the ports do not feel it.
func TestHostileFragmentFlood(t *testing.T) {
	r := newHostile(t, tun.PipeOptions{})
	n := 20000
	if testing.Short() {
		n = 2000
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	first := heap()
	for i := range n {
		whole := udp(ap(evil4, 1000), ap(host4, 7), make([]byte, 1400)...)
		whole6 := udp(ap(evil6, 1000), ap(host6, 7), make([]byte, 1400)...)
		r.ip(part(whole, uint16(i), 0, 1200, true), part(whole6, uint16(i), 0, 1200, true))
		if i%4096 == 0 {
			r.alive()
		}
	}
	r.barrier()
	// netstack keeps 4 MiB of each family, our lane 1 MiB.
	require.Less(t, int64(heap())-int64(first), int64(48<<20))
	r.alive()
	text := bytes.Repeat([]byte("still here"), 20)
	r.ip(cut(udp(ap(evil4, 1000), ap(host4, 7), text...), 65000, 64)...)
	r.wait("echo", func(b []byte) bool { return bytes.HasSuffix(b, text) })
}
