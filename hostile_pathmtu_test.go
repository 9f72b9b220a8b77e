package porthole_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/demux/packet"
	"porthole/stack/stacktest"
)

// answer sends packets and puts the one IPv6 answer to them together again, whose
// longest frame it tells.
func (r *hostile) answer6(packets ...[]byte) (longest int, proto uint8, payload []byte) {
	r.t.Helper()
	r.ip(packets...)
	var got []byte
	for seen, end := 0, -1; end < 0 || seen < end; {
		b := r.wait("answer", func(b []byte) bool { return b[0]>>4 == 6 })
		longest = max(longest, len(b))
		if b[6] != 44 {
			return longest, b[6], b[40:]
		}
		off := binary.BigEndian.Uint16(b[42:])
		at, data := int(off&^7), b[48:]
		if off&1 == 0 {
			end = at + len(data)
		} else {
			require.Zero(r.t, len(data)%8)
		}
		if need := at + len(data); need > len(got) {
			got = append(got, make([]byte, need-len(got))...)
		}
		copy(got[at:], data)
		seen += len(data)
		proto = b[40]
	}
	return longest, proto, got
}

// A packet-too-big is heeded by all that the host sends, not by TCP alone (RFC 8201).
func TestHostilePathMTU(t *testing.T) {
	eachLink(t, func(t *testing.T, r *hostile) {
		text := bytes.Repeat([]byte("0123456789abcde\n"), 87) // 1392 bytes
		ping := icmp6(evil6, host6, 128, 0, 9<<16|9, text)
		long := bytes.Repeat(text, 3)
		dgram := make([]byte, 48)
		n := packet.PutUDP(dgram, ap(evil6, 5005), ap(host6, 7), 64, 0, long)
		dgram = append(dgram[:n], long...)
		ask := func(longest int) {
			t.Helper()
			l, proto, b := r.answer6(ping)
			require.Equal(t, longest, l)
			require.EqualValues(t, 58, proto)
			require.Equal(t, text, b[8:])
			l, proto, b = r.answer6(udp(ap(evil6, 5005), ap(host6, 7), text...))
			require.Equal(t, longest, l)
			require.EqualValues(t, 17, proto)
			require.Equal(t, text, b[8:])
			l, _, b = r.answer6(cut(dgram, uint16(longest), 1232)...)
			require.LessOrEqual(t, l, max(longest, 1496))
			if longest < 1440 {
				require.LessOrEqual(t, l, longest)
			}
			require.Equal(t, long, b[8:])
		}
		tooBig := func(mtu uint32, quote []byte) { r.ip(icmp6(evil6, host6, 2, 0, mtu, quote)) }
		sent := v6(host6, evil6, 58, append([]byte{129, 0, 0, 0, 0, 9, 0, 9}, text...)) // what was too big
		ask(1440)
		tooBig(1279, sent)                                             // no path of IPv6 is that narrow
		tooBig(1400, v6(stacktest.Peer6.Addr(), evil6, 58, sent[40:])) // not ours
		tooBig(1400, v6(host6, evil6, 58, make([]byte, 1360)))         // would have passed
		tooBig(1500, sent)
		r.barrier()
		ask(1440)
		tooBig(1400, sent)
		r.barrier()
		ask(1400)
		tooBig(1420, sent) // no path grows by word of mouth
		r.barrier()
		ask(1400)
		tooBig(1280, sent)
		r.barrier()
		ask(1280)
	})
}
