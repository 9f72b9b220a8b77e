package porthole_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/demux/packet"
)

// A segment that acknowledges what the host never sent is answered with an ACK, and
// nothing of it counts: neither data nor FIN (RFC 9293, 3.10.7.4; RFC 5961, 5.2).
func TestHostileUnsentAck(t *testing.T) {
	eachLink(t, func(t *testing.T, r *hostile) {
		for n, h := range []struct{ evil, host netip.Addr }{{evil4, host4}, {evil6, host6}} {
			from, to := ap(h.evil, uint16(5000+n)), ap(h.host, 9)
			flags, iss, _ := tcpReply(t, r.late("to-stack", seg(from, to, packet.SYN, 1000, 0)))
			require.Equal(t, packet.SYN|packet.ACK, flags)
			require.Empty(t, r.fates("to-stack", seg(from, to, packet.ACK, 1001, iss+1)))
			next := uint32(1001)
			answer := func(name string, flags uint8, ack uint32, data string) {
				t.Helper()
				f, seq, got := tcpReply(t, r.late("to-stack", seg(from, to, flags, next, ack, []byte(data)...)))
				require.Equal(t, packet.ACK, f, name)
				require.Equal(t, iss+1, seq, name)
				require.Equal(t, next, got, name)
			}
			answer("nothing but the ACK", packet.ACK, iss+1001, "")
			answer("data", packet.ACK|packet.PSH, iss+1001, "evil")
			answer("data, one byte ahead", packet.ACK|packet.PSH, iss+2, "evil")
			answer("data and FIN, half the numbers ahead", packet.ACK|packet.FIN, iss+1<<31, "evil")
			f, _, ack := tcpReply(t, r.late("to-stack", seg(from, to, packet.ACK|packet.PSH, next, iss+1, []byte("good")...)))
			require.Equal(t, packet.ACK, f)
			require.Equal(t, next+4, ack, "the place of what was not taken is free")
			require.Empty(t, r.fates("to-stack", seg(from, to, packet.RST, next+4, 0)))
		}
	})
}
