package packet

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEthernet(t *testing.T) {
	a, b := [6]byte{2, 0, 0, 0, 0, 1}, [6]byte{2, 0, 0, 0, 0, 2}
	for _, c := range []struct {
		name string
		in   []byte
		typ  uint16
		ok   bool
	}{
		{"IPv4", raw("020000000001 020000000002 0800", "45"), EtherIPv4, true},
		{"IPv6", raw("020000000001 020000000002 86dd", "60"), EtherIPv6, true},
		{"ARP without a body", raw("020000000001 020000000002 0806"), EtherARP, true},
		{"802.3 length", raw("020000000001 020000000002 05ff", "aaaa03"), 0x05ff, false},
		{"802.1Q tag", raw("020000000001 020000000002 8100", "000a0800"), 0x8100, false},
		{"802.1ad tag", raw("020000000001 020000000002 88a8", "000a8100"), 0x88a8, false},
		{"double tag before 802.1ad", raw("020000000001 020000000002 9100", "000a8100"), 0x9100, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dst, src, typ, at, ok := ParseEthernet(c.in)
			require.Equal(t, c.ok, ok)
			require.Equal(t, a, dst)
			require.Equal(t, b, src)
			require.Equal(t, c.typ, typ)
			require.Equal(t, EthernetSize, at)

			hdr := make([]byte, EthernetSize+2)
			require.Equal(t, EthernetSize, PutEthernet(hdr, a, b, c.typ))
			require.Equal(t, c.in[:EthernetSize], hdr[:EthernetSize])

			for n := range EthernetSize {
				_, _, _, _, ok := ParseEthernet(c.in[:n])
				require.False(t, ok)
				require.Zero(t, PutEthernet(hdr[:n], a, b, c.typ))
			}
		})
	}
}
