package main

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/cmd/porthole/internal/config"
)

// busy are routes of a machine that uses the default ranges itself.
var busy = routes{
	overlap: func(p netip.Prefix) (string, bool, error) {
		for _, r := range []string{"10.0.0.0/8", "fd77::/16"} {
			if netip.MustParsePrefix(r).Overlaps(p) {
				return r + " dev vpn0", true, nil
			}
		}
		return "", false, nil
	},
	free: func(v4, v6 netip.Prefix) (netip.Prefix, netip.Prefix, error) {
		if v4.IsValid() {
			v4 = netip.MustParsePrefix("172.20.77.1/24")
		}
		if v6.IsValid() {
			v6 = netip.MustParsePrefix("fd78::1/64")
		}
		return v4, v6, nil
	},
}

func TestPlan(t *testing.T) {
	for _, tt := range []struct {
		name   string
		set    map[string]string // path to value
		routes routes
		err    string
		peer4  string
		notes  []string
	}{
		{name: "free", routes: nowhere, peer4: "10.77.0.2/24"},
		{name: "defaults move", routes: busy, peer4: "172.20.77.2/24", notes: []string{
			"10.77.0.0/24 overlaps the route 10.0.0.0/8 dev vpn0; using 172.20.77.0/24",
			"fd77::/64 overlaps the route fd77::/16 dev vpn0; using fd78::/64",
		}},
		{name: "asked for", routes: busy, set: map[string]string{"link.address": "10.1.0.1/24"},
			err: "--flag: 10.1.0.1/24 overlaps the route 10.0.0.0/8 dev vpn0; choose another range, or leave it out"},
		{name: "asked for by the peer", routes: busy, set: map[string]string{"link.peer-address": "10.77.0.9"},
			err: "link.address: 10.77.0.1/24 overlaps the route 10.0.0.0/8 dev vpn0; choose another range, or leave it out"},
		{name: "asked for and free", routes: busy, set: map[string]string{"link.address": "192.0.2.1/24", "link.address6": "none"}, peer4: "192.0.2.2/24"},
		{name: "no peer", routes: nowhere, set: map[string]string{"link.peer-address": "none"}, peer4: "invalid Prefix"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := config.Default()
			for path, v := range tt.set {
				require.NoError(t, f.Set(path, "--flag", v))
			}
			require.NoError(t, f.Check())
			p, err := makePlan(f, tt.routes)
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.peer4, p.open.Peer4.String())
			require.Equal(t, tt.notes, p.notes)
		})
	}
}

// TestPlanNamesTheFile: an overlap that a file asked for is named by its place.
func TestPlanNamesTheFile(t *testing.T) {
	f, err := config.Decode("p.yaml", strings.NewReader("link:\n  address: 10.1.0.1/24"))
	require.NoError(t, err)
	_, err = makePlan(f, busy)
	require.EqualError(t, err, "p.yaml:2:12: link.address: 10.1.0.1/24 overlaps the route 10.0.0.0/8 dev vpn0; choose another range, or leave it out")
}
