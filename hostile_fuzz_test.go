package porthole_test

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/demux/packet"
	"porthole/tun"
)

// FuzzHost gives a whole host any sequence of frames: nothing panics, the ledger's
// law holds, and the host still answers. Each frame of the input has two bytes
// before it: its length, and what to mend so that it gets deeper in (bit 0: to the
// host's address from evil's, bit 1: the IPv4 header sum, bit 2: the device vouches
// for the transport's). One host serves all inputs of a process, as one would in life.
func FuzzHost(f *testing.F) {
	join := func(mend byte, frames ...[]byte) (b []byte) {
		for _, p := range frames {
			b = append(b, byte(len(p)), mend)
			b = append(b, p[:min(len(p), 255)]...)
		}
		return b
	}
	text := make([]byte, 100)
	u4, u6 := udp(ap(evil4, 1000), ap(host4, 7), text...), udp(ap(evil6, 1000), ap(host6, 7), text...)
	f.Add(join(0, u4, u6, icmp4(evil4, host4, 8, 0, 1, nil), icmp6(evil6, host6, 128, 0, 1, nil)))
	f.Add(join(0, cut(u4, 1, 16)...))
	f.Add(join(0, cut(u6, 1, 16)...))
	f.Add(join(0, part(u4, 1, 0, 48, true), part(u4, 1, 24, 40, false)))
	f.Add(join(7, seg(ap(evil4, 1), ap(host4, 80), packet.SYN, 1, 0), seg(ap(evil4, 1), ap(host4, 80), packet.ACK, 2, 2), seg(ap(evil4, 1), ap(host4, 80), packet.RST, 2, 0)))
	f.Add(join(7, seg(ap(evil6, 1), ap(host6, 21), packet.SYN|packet.FIN, 1, 0, 'x'), seg(ap(evil6, 1), ap(host6, 81), 0, 1, 0)))
	f.Add(join(7, v4{src: evil4, dst: host4, proto: 6, id: 1, opts: []byte{7, 7, 3, 0, 0, 0, 0, 0}}.put(body(seg(ap(evil4, 2), ap(host4, 80), packet.SYN, 1, 0)))))
	f.Add(join(7, v6(evil6, host6, 0, append([]byte{6, 0, 0x9e, 4, 0, 0, 0, 0}, body(seg(ap(evil6, 2), ap(host6, 80), packet.SYN, 1, 0))...))))
	f.Add(join(7, icmp4(evil4, host4, 3, 4, 0, seg(ap(host4, 80), ap(evil4, 1), packet.ACK, 1, 1)), icmp6(evil6, host6, 2, 0, 0, seg(ap(host6, 80), ap(evil6, 1), packet.ACK, 1, 1))))
	f.Add(join(7, neighbour(135, evil6, host6.AsSlice(), 1, evilHW), neighbour(136, evil6, host6.AsSlice(), 2, evilHW)))
	f.Add(join(7, v4{src: evil4, dst: host4, proto: 2, id: 1}.put([]byte{0x11, 0, 0, 0, 0, 0, 0, 0})))

	plain, ethernet := newHostile(f, tun.PipeOptions{}), newHostile(f, tun.PipeOptions{HW: hostHW})
	inputs := 0
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, r := range []*hostile{plain, ethernet} {
			r.t = t
			for b := in; len(b) > 2; {
				n, mend := int(b[0]), b[1]
				b = b[2:]
				p := append([]byte(nil), b[:min(n, len(b))]...)
				b = b[len(p):]
				if len(p) == 0 {
					continue
				}
				o := tun.Offload{}
				if mend&4 != 0 {
					o.Flags = tun.DataValid
				}
				frame := r.frame(mended(p, mend), 0x0800)
				if r.wire.ethernet && p[0]>>4 == 6 {
					binary.BigEndian.PutUint16(frame[12:], 0x86dd)
				}
				if r.wire.ethernet && mend&8 != 0 {
					frame = p // the Ethernet header too
				}
				if len(frame) > 0 {
					_, err := r.wire.Device.Write(0, []tun.Out{{Pieces: [][]byte{frame}, Offload: o}}, true)
					require.NoError(t, err)
				}
			}
			r.drained()
			require.True(t, r.host.Health().LedgerOK)
			if inputs%64 == 0 {
				r.alive()
			}
			r.wire.mu.Lock()
			r.wire.got = nil
			r.wire.mu.Unlock()
		}
		inputs++
	})
}

func mended(p []byte, how byte) []byte {
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		if how&1 != 0 {
			src, dst := evil4.As4(), host4.As4()
			copy(p[12:], src[:])
			copy(p[16:], dst[:])
			binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		}
		if how&2 != 0 && p[0]&15 >= 5 && int(p[0]&15)*4 <= len(p) {
			sum4(p)
		}
	case len(p) >= 40 && p[0]>>4 == 6:
		if how&1 != 0 {
			src, dst := evil6.As16(), host6.As16()
			copy(p[8:], src[:])
			copy(p[24:], dst[:])
			binary.BigEndian.PutUint16(p[4:], uint16(len(p)-40))
		}
		if how&2 != 0 && p[6] == 58 && len(p) >= 44 {
			sum6(p)
		}
	}
	return p
}
