package dhcp

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v4"

	"porthole/services"
)

func TestValidate(t *testing.T) {
	addr := netip.MustParseAddr
	for _, tt := range []struct {
		key  string
		edit func(*Config)
	}{
		{"", func(*Config) {}},
		{"min-lease-time", func(c *Config) { c.MinLeaseTime = 0 }},
		{"max-lease-time", func(c *Config) { c.MaxLeaseTime = time.Second }},
		{"max-lease-time", func(c *Config) { c.MaxLeaseTime = maxLease + 1 }},
		{"lease-time", func(c *Config) { c.LeaseTime = time.Second }},
		{"lease-time", func(c *Config) { c.LeaseTime = 48 * time.Hour }},
		{"offer-time", func(c *Config) { c.OfferTime = 0 }},
		{"decline-time", func(c *Config) { c.DeclineTime = -1 }},
		{"max-leases", func(c *Config) { c.MaxLeases = 0 }},
		{"sync-interval", func(c *Config) { c.SyncInterval = -1 }},
		{"pool[0]", func(c *Config) { c.Pool = []Range{{addr("10.0.0.2"), addr("10.0.0.1")}} }},
		{"pool[0]", func(c *Config) { c.Pool = []Range{{addr("fd77::1"), addr("fd77::2")}} }},
		{"pool[1]", func(c *Config) {
			c.Pool = []Range{{addr("10.0.0.2"), addr("10.0.0.9")}, {addr("10.0.0.9"), addr("10.0.0.12")}}
		}},
		{"options.router", func(c *Config) { c.Options.Router = "10.0.0" }},
		{"options.dns[0]", func(c *Config) { c.Options.DNS = []netip.Addr{addr("::1")} }},
		{"options.dns", func(c *Config) { c.Options.DNS = make([]netip.Addr, 9) }},
		{"options.domain", func(c *Config) { c.Options.Domain = "a..b" }},
		{"options.search", func(c *Config) { c.Options.Search = make([]string, 9) }},
		{"options.search[0]", func(c *Config) { c.Options.Search = []string{"-"} }},
		{"options.mtu", func(c *Config) { c.Options.MTU = 67 }},
		{"static[0]", func(c *Config) { c.Static = []Static{{Address: addr("10.77.0.9")}} }},
		{"static[0].address", func(c *Config) { c.Static = []Static{{ClientID: "x"}} }},
		{"static[0].hostname", func(c *Config) { c.Static = []Static{{ClientID: "x", Address: addr("10.77.0.9"), Hostname: "a b"}} }},
		{"static[0].client-id", func(c *Config) {
			c.Static = []Static{{ClientID: ClientID(make([]byte, 256)), Address: addr("10.77.0.9")}}
		}},
		{"static[1].address", func(c *Config) {
			c.Static = []Static{{ClientID: "x", Address: addr("10.77.0.9")}, {ClientID: "y", Address: addr("10.77.0.9")}}
		}},
		{"static[1].mac", func(c *Config) {
			c.Static = []Static{{MAC: "123456", Address: addr("10.77.0.8")}, {MAC: "123456", Address: addr("10.77.0.9")}}
		}},
		{"subnets[0].prefix", func(c *Config) { c.Subnets = []Subnet{{}} }},
		{"subnets", func(c *Config) { c.Subnets = make([]Subnet, 65) }},
		{"subnets[1].prefix", func(c *Config) {
			c.Subnets = []Subnet{{Prefix: netip.MustParsePrefix("10.0.0.0/24")}, {Prefix: netip.MustParsePrefix("10.0.0.0/8")}}
		}},
		{"subnets[0].pool[0]", func(c *Config) {
			c.Subnets = []Subnet{{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Pool: []Range{{addr("10.0.1.1"), addr("10.0.1.2")}}}}
		}},
		{"subnets[0].router", func(c *Config) {
			c.Subnets = []Subnet{{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Router: "here"}}
		}},
	} {
		c := defaults().(*Config)
		tt.edit(c)
		err := c.Validate()
		if tt.key == "" {
			require.NoError(t, err)
			continue
		}
		var ce *services.ConfigError
		require.True(t, errors.As(err, &ce), "%s: %v", tt.key, err)
		require.Equal(t, tt.key, ce.Key, "%v", err)
	}
}

// The configuration survives the way through YAML, and reads as a person writes it.
func TestYAML(t *testing.T) {
	c := defaults().(*Config)
	require.NoError(t, yaml.Unmarshal([]byte(`
pool: [10.77.0.10-10.77.0.19, 10.77.0.30]
lease-time: 10m
static:
  - {client-id: "01:02:AA", address: 10.77.0.5}
  - {client-id: printer, address: 10.77.0.6}
  - {mac: "02:00:5E:10:00:01", address: 10.77.0.7, hostname: p}
subnets:
  - {prefix: 10.80.0.0/24, router: none}
options: {router: none, dns: [10.0.0.53], mtu: 1400}
`), c))
	require.NoError(t, c.Validate())
	require.Equal(t, "10.77.0.10-10.77.0.19", c.Pool[0].String())
	require.Equal(t, "10.77.0.30", c.Pool[1].String())
	require.Equal(t, 10*time.Minute, c.LeaseTime)
	require.Equal(t, ClientID("\x01\x02\xaa"), c.Static[0].ClientID)
	require.Equal(t, ClientID("printer"), c.Static[1].ClientID)
	require.Equal(t, MAC("\x02\x00\x5e\x10\x00\x01"), c.Static[2].MAC)
	require.True(t, c.Authoritative, "keys that are not there keep their defaults")

	out, err := yaml.Marshal(c)
	require.NoError(t, err)
	var again Config
	require.NoError(t, yaml.Unmarshal(out, &again), "%s", out)
	twice, err := yaml.Marshal(again)
	require.NoError(t, err)
	require.Equal(t, string(out), string(twice))
	require.Equal(t, c.Static, again.Static)

	for _, bad := range []string{"pool: [10.77.0]", "pool: [a-b]", "static: [{mac: zz}]", "static: [{mac: '02:00:5e:10:00:00:00:01'}]"} {
		require.Error(t, yaml.Unmarshal([]byte(bad), new(Config)), bad)
	}
}
