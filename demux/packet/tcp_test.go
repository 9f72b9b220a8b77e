package packet

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTCPView(t *testing.T) {
	b := edit("v4 tcp syn", 0)
	i, p := Parse(b, len(b))
	require.Equal(t, None, p)
	seq, ack, window, opts := i.TCP(b)
	require.Equal(t, uint32(0x01020304), seq)
	require.Zero(t, ack)
	require.Equal(t, uint16(64240), window)
	require.Len(t, opts, 20)
	o, ok := ParseOptions(opts)
	require.True(t, ok)
	require.Equal(t, TCPOptions{MSS: 1460, SACKPermitted: true, HasWindowScale: true, WindowScale: 7, HasTimestamps: true, TSVal: 1}, o)

	b = edit("v4 tcp data", 0)
	i, _ = Parse(b, len(b))
	_, ack, _, opts = i.TCP(b)
	require.Equal(t, uint32(9), ack)
	require.Empty(t, opts)
}

func TestParseOptions(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
		want TCPOptions
		ok   bool
	}{
		{"none", nil, TCPOptions{}, true},
		{"padding alone", raw("01010100"), TCPOptions{}, true},
		{"nothing after the end", raw("00 020405b4"), TCPOptions{}, true},
		{"mss", raw("020405b4"), TCPOptions{MSS: 1460}, true},
		{"the last one counts", raw("020405b4 02040218"), TCPOptions{MSS: 536}, true},
		{"window scale 0", raw("030300"), TCPOptions{HasWindowScale: true}, true},
		{"window scale 15 counts as 14", raw("03030f"), TCPOptions{HasWindowScale: true, WindowScale: 14}, true},
		{"sack permitted", raw("0402"), TCPOptions{SACKPermitted: true}, true},
		{"two sack blocks", raw("0512 00000001 00000002 00000003 00000004"), TCPOptions{SACKBlocks: 2}, true},
		{"timestamps", raw("080a 00000005 00000006"), TCPOptions{HasTimestamps: true, TSVal: 5, TSEcr: 6}, true},
		{"fast open, asked for", raw("2202"), TCPOptions{HasFastOpen: true, FastOpen: []byte{}}, true},
		{"fast open", raw("220a 0102030405060708"), TCPOptions{HasFastOpen: true, FastOpen: raw("0102030405060708")}, true},
		{"unknown kind", raw("fd04aabb 0402"), TCPOptions{SACKPermitted: true}, true},
		{"mss of 3 bytes", raw("020305 0402"), TCPOptions{SACKPermitted: true}, true},
		{"mss of 5 bytes", raw("020505b400 0402"), TCPOptions{SACKPermitted: true}, true},
		{"window scale of 4 bytes", raw("03040707"), TCPOptions{}, true},
		{"sack permitted of 3 bytes", raw("040300"), TCPOptions{}, true},
		{"sack of 9 bytes", raw("0509 00000001 000000"), TCPOptions{}, true},
		{"timestamps of 6 bytes", raw("0806 00000001"), TCPOptions{}, true},
		{"fast open of 3 bytes", raw("2205 010203"), TCPOptions{}, true},
		{"fast open of 5 bytes", raw("2207 0102030405"), TCPOptions{}, true},
		{"length 0", raw("0402 0200 030307"), TCPOptions{SACKPermitted: true}, false},
		{"length 1", raw("0402 0201 030307"), TCPOptions{SACKPermitted: true}, false},
		{"beyond the end", raw("0402 020405"), TCPOptions{SACKPermitted: true}, false},
		{"no length", raw("0402 02"), TCPOptions{SACKPermitted: true}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := ParseOptions(c.in)
			require.Equal(t, c.ok, ok)
			require.Equal(t, c.want, got)
		})
	}
}

func TestOptionsNext(t *testing.T) {
	o := Options(raw("01 020405b4 01 0402 00 ff"))
	kind, value, ok := o.Next()
	require.True(t, ok)
	require.Equal(t, OptMSS, kind)
	require.Equal(t, raw("05b4"), value)
	kind, value, ok = o.Next()
	require.True(t, ok)
	require.Equal(t, OptSACKPermitted, kind)
	require.Empty(t, value)
	for range 2 { // the end stays the end
		_, _, ok = o.Next()
		require.False(t, ok)
		require.False(t, o.Bad())
	}
	o = Options(raw("0200"))
	for range 2 {
		_, _, ok = o.Next()
		require.False(t, ok)
		require.True(t, o.Bad())
	}
}
