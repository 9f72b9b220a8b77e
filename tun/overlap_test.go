package tun

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFirstFree(t *testing.T) {
	def4, def6 := netip.MustParsePrefix("10.77.0.1/24"), netip.MustParsePrefix("fd77::1/64")
	for _, tc := range []struct {
		name   string
		routes []string
		p      netip.Prefix
		nets   []netip.Addr
		want   string // "" is none
	}{
		{"nothing there", nil, def4, candidates4(), "10.77.0.1/24"},
		{"default routes only", []string{"0.0.0.0/0", "::/0"}, def4, candidates4(), "10.77.0.1/24"},
		{"a VPN's half defaults", []string{"0.0.0.0/1", "128.0.0.0/1"}, def4, candidates4(), "10.77.0.1/24"},
		{"neighbours", []string{"10.76.0.0/16", "10.77.1.0/24"}, def4, candidates4(), "10.77.0.1/24"},
		{"the same", []string{"10.77.0.0/24"}, def4, candidates4(), "10.78.0.1/24"},
		{"one address inside", []string{"10.77.0.200/32"}, def4, candidates4(), "10.78.0.1/24"},
		{"a wider one", []string{"10.64.0.0/12"}, def4, candidates4(), "10.80.0.1/24"},
		{"all of 10", []string{"10.0.0.0/8"}, def4, candidates4(), "172.20.77.1/24"},
		{"all of 10 and 172", []string{"10.0.0.0/8", "172.16.0.0/12"}, def4, candidates4(), "192.168.77.1/24"},
		{"all private", []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"}, def4, candidates4(), "198.18.77.1/24"},
		{"everything", []string{"0.0.0.0/2", "128.0.0.0/2", "192.0.0.0/2"}, def4, candidates4(), ""},
		{"other family", []string{"fd77::/64"}, def4, candidates4(), "10.77.0.1/24"},
		{"six: free", []string{"fe80::/64", "fd78::/64"}, def6, candidates6(), "fd77::1/64"},
		{"six: taken", []string{"fd77::/48"}, def6, candidates6(), "fd78::1/64"},
		{"six: two taken", []string{"fd77::/48", "fd78::5/128"}, def6, candidates6(), "fd79::1/64"},
		{"six: all local ones", []string{"fc00::/7"}, def6, candidates6(), "2001:db8:77::1/64"},
		{"host part and length are kept", []string{"10.77.0.0/16"}, netip.MustParsePrefix("10.77.3.9/20"), candidates4(), "10.78.3.9/20"},
		{"no prefix", []string{"10.77.0.0/24"}, netip.Prefix{}, candidates4(), "invalid Prefix"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var rs []route
			for _, r := range tc.routes {
				rs = append(rs, route{dst: netip.MustParsePrefix(r), text: r + " dev eth0"})
			}
			p, err := firstFree(rs, tc.p, tc.nets)
			if tc.want == "" {
				require.ErrorIs(t, err, ErrNoFreePrefix)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.want, p.String())
		})
	}
}

func TestOverlappingNamesTheRouteOfMain(t *testing.T) {
	p := netip.MustParsePrefix
	rs := []route{
		{p("10.77.0.9/32"), "local", true},
		{p("10.0.0.0/8"), "wide", false},
		{p("10.77.0.0/24"), "narrow", false},
	}
	text, found := overlapping(rs, p("10.77.0.1/24"))
	require.True(t, found)
	require.Equal(t, "narrow", text)
	text, found = overlapping(rs[:1], p("10.77.0.1/24"))
	require.True(t, found)
	require.Equal(t, "local", text)
}

func TestOptionsRefused(t *testing.T) {
	for _, tc := range []struct {
		name string
		in   Options
		want string
	}{
		{"kind", Options{Name: "ph0", Kind: "tuna"}, `open device ph0: "tuna" is no kind of device; use auto, offload, water or tap`},
		{"name", Options{Name: "a/b"}, "open device a/b: that is no interface name; use 1 to 15 characters without / : % or space"},
		{"long name", Options{Name: "sixteen-letters-"}, "open device sixteen-letters-: that is no interface name; use 1 to 15 characters without / : % or space"},
		{"pattern", Options{Name: "ph%d"}, "open device ph%d: that is no interface name; use 1 to 15 characters without / : % or space"},
		{"queues", Options{Queues: 17}, "open device: 17 queues; use 1 to 16"},
		{"water queues", Options{Kind: KindWater, Queues: 2}, "open device: the water device has one queue; use 1 queue, or the offload device"},
		{"MTU", Options{MTU: 67}, "open device: MTU 67; use 68 to 65535 (IPv4 needs 68 (RFC 791))"},
		{"MTU of IPv6", Options{MTU: 1279, Peer6: machine6}, "open device: MTU 1279; use 1280 to 65535 (IPv6 needs 1280 (RFC 8200))"},
		{"MTU of TAP", Options{Kind: KindTAP, MTU: 65522}, "open device: MTU 65522; use 68 to 65521 (IPv4 needs 68 (RFC 791))"},
		{"families", Options{Peer4: machine6}, "open device: fd77::2/64 is no IPv4 address"},
		{"families", Options{Peer6: machine4}, "open device: 10.77.0.2/24 is no IPv6 address"},
		{"group", Options{Peer4: netip.MustParsePrefix("224.0.0.1/24")}, "open device: 224.0.0.1/24 is no address of a host"},
		{"loopback", Options{Peer6: netip.MustParsePrefix("::1/64")}, "open device: ::1/64 is no address of a host"},
		{"multicast address", Options{Kind: KindTAP, HW: []byte{1, 0, 0, 0, 0, 1}}, "open device: 01:00:00:00:00:01 is no Ethernet address of a host; use six bytes, the first even"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Open(tc.in)
			require.ErrorIs(t, err, ErrOptions)
			require.EqualError(t, err, tc.want)
		})
	}
}

func TestHardwareAddr(t *testing.T) {
	a := hardwareAddr("host", "ph0")
	require.Equal(t, a, hardwareAddr("host", "ph0"), "the same over restarts")
	require.NotEqual(t, a, hardwareAddr("machine", "ph0"))
	require.NotEqual(t, a, hardwareAddr("host", "ph1"))
	require.Equal(t, byte(2), a[0]&3, "locally administered, unicast")
}
