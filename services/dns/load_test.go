package dns

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"porthole/services"
)

func netipPrefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func zoneFile(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

const zoneHead = "$TTL 60\n@ SOA ns h 1 2 3 4 5\n@ NS ns\n"

// TestZoneFileErrors: a mistake is said with its file and line, or its record.
func TestZoneFileErrors(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"syntax", zoneHead + "a A 192.0.2.256\n", `bad.zone:4:15: bad A A: "192.0.2.256"`},
		{"unknown type", zoneHead + "a WRONG x\n", `bad.zone:4:`},
		{"no SOA", "$TTL 60\n@ NS ns\n", `bad.zone: example. has no SOA record`},
		{"two SOA", zoneHead + "@ SOA ns h 2 2 3 4 5\n", `has no SOA record, or more than one`},
		{"SOA below", zoneHead + "a SOA ns h 2 2 3 4 5\n", `a.example.: a SOA is not at the zone's apex`},
		{"no NS", "$TTL 60\n@ SOA ns h 1 2 3 4 5\n", `example. has no NS record`},
		{"outside", zoneHead + "www.other. A 192.0.2.1\n", `www.other. A: is outside the zone example.`},
		{"suffix in octets alone", zoneHead + "www.anexample. A 192.0.2.1\n", `is outside the zone`},
		{"class", zoneHead + "a CH TXT \"x\"\n", `class CH is not IN`},
		{"CNAME and more", zoneHead + "a CNAME b\na A 192.0.2.1\n", `a.example.: has a CNAME and A`},
		{"two CNAME", zoneHead + "a CNAME b\na CNAME c\n", `has more than one CNAME`},
		{"CNAME at the apex", zoneHead + "@ CNAME b.\n", `example.: has a CNAME and NS`},
		{"two DNAME", zoneHead + "a DNAME b\na DNAME c\n", `has more than one DNAME`},
		{"below a DNAME", zoneHead + "a DNAME b\nx.a A 192.0.2.1\n", `x.a.example.: is below a DNAME`},
		{"DNAME and NS", zoneHead + "a DNAME b\na NS c\n", `a.example.: has both NS and DNAME`},
		{"too long for a message", zoneHead + "a TYPE65280 \\# 64001 " + hexOf(64001) + "\n", `a.example. TYPE65280: has 64001 octets`},
		{"wildcard NS", zoneHead + "*.a NS b\n", `*.a.example. NS: has no meaning at a wildcard`},
		{"no name", zoneHead + "a NS ", `a.example. NS: has no data`},
		{"no last name", zoneHead + "a MX ", `a.example. MX: has not all of its data`},
		{"include outside", zoneHead + "$INCLUDE ../secret\n", `bad.zone:4:`},
		{"include absolute", zoneHead + "$INCLUDE /etc/hostname\n", `bad.zone:4:`},
		{"include missing", zoneHead + "$INCLUDE none.inc\n", `bad.zone:4:`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := defaultConfig()
			c.Zones = []ZoneFile{{"example", zoneFile(t, "bad.zone", tt.text)}}
			err := c.Validate()
			var ce *services.ConfigError
			require.ErrorAs(t, err, &ce)
			assert.Equal(t, "zones[0].file", ce.Key)
			assert.Contains(t, err.Error(), tt.want)
			assert.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestZoneFile(t *testing.T) {
	path := zoneFile(t, "main.zone", zoneHead+"$INCLUDE more.inc inc\n$ORIGIN sub.example.\nx A 192.0.2.2\n$GENERATE 1-3 h$ A 192.0.2.$\n")
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(path), "more.inc"), []byte("a TXT \"included\"\n"), 0o600))
	z, err := ZoneFile{"EXAMPLE.", path}.load()
	require.NoError(t, err)
	m := serving(t, z)
	assert.Equal(t, lines("NOERROR aa", `an a.inc.example. 60 IN TXT "included"`), askText(t, m, "a.inc.example TXT"))
	assert.Equal(t, lines("NOERROR aa", "an x.sub.example. 60 IN A 192.0.2.2"), askText(t, m, "x.sub.example A"))
	assert.Equal(t, lines("NOERROR aa", "an h3.sub.example. 3600 IN A 192.0.2.3"), askText(t, m, "h3.sub.example A"))

	t.Run("error in an included file", func(t *testing.T) {
		require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(path), "more.inc"), []byte("a A 1.2.3\n"), 0o600))
		_, err := ZoneFile{"example", path}.load()
		require.ErrorContains(t, err, "more.inc:1:")
	})
	t.Run("too long", func(t *testing.T) {
		in := &capped{r: strings.NewReader(zoneHead + strings.Repeat("a A 192.0.2.1\n", 100)), left: 100}
		_, err := readZone(mdns.NewZoneParser(in, "example.", ""), "example")
		require.ErrorContains(t, err, "is longer than")
	})
	t.Run("a directory", func(t *testing.T) {
		_, err := ZoneFile{"example", filepath.Dir(path)}.load()
		require.Error(t, err)
	})
}

// TestZoneFileLayout: what a master file may leave out, and where its lines may end.
func TestZoneFileLayout(t *testing.T) {
	const soa = "an example. 60 IN SOA ns.example. h.example. 1 2 3 4 5"
	for _, tt := range []struct{ name, text, q, want string }{
		{"a number to a line", "$TTL 60\n@ SOA ns h (\n1\n2\n3\n4\n5\n)\n@ NS ns\n", "example SOA", soa},
		{"comments behind them", "$TTL 60\n@ SOA ns h (\n1;(\n2 ;\"\n3\n4; )\n5;\n)\n@ NS ns\n", "example SOA", soa},
		{"returns", "$TTL 60\r\n@ SOA ns h (\r\n1\r\n2\r\n3\r\n4\r\n5)\r\n@ NS ns\r\n", "example SOA", soa},
		{"strings", zoneHead + "a TXT (b\nc\n\"d;(\ne\\\"\"\n\\(\n\\;)\na A 192.0.2.1\n", "a.example TXT",
			`an a.example. 60 IN TXT "b" "c" "d;(\010e\"" "(" ";"`},
		{"no TTL at all", "@ SOA ns h 1 2 3 4 5\n NS ns\na A 192.0.2.1\n", "a.example A", "an a.example. 5 IN A 192.0.2.1"},
		{"no TTL but a class", "@ IN SOA ns h 1 2 3 4 5\n IN NS ns\na IN A 192.0.2.1\n", "a.example A", "an a.example. 5 IN A 192.0.2.1"},
		{"the last one stated", "@ IN SOA ns h 1 2 3 4 5\n IN NS ns\nb 7 A 192.0.2.2\na IN A 192.0.2.1\n", "a.example A", "an a.example. 7 IN A 192.0.2.1"},
		{"a directive", "@ 9 SOA ns h 1 2 3 4 5\n NS ns\n$TTL 8\nb 7 A 192.0.2.2\na IN A 192.0.2.1\n", "a.example A", "an a.example. 8 IN A 192.0.2.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			z, err := ZoneFile{"example", zoneFile(t, "z", tt.text)}.load()
			require.NoError(t, err)
			assert.Equal(t, lines("NOERROR aa", tt.want), askText(t, serving(t, z), tt.q))
		})
	}
	t.Run("an included file", func(t *testing.T) {
		path := zoneFile(t, "z", zoneHead+"$INCLUDE i\n")
		require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(path), "i"), []byte("a MX (\n10\nb )\n"), 0o600))
		z, err := ZoneFile{"example", path}.load()
		require.NoError(t, err)
		assert.Equal(t, lines("NOERROR aa", "an a.example. 60 IN MX 10 b.example."), askText(t, serving(t, z), "a.example MX"))
	})
	t.Run("columns", func(t *testing.T) {
		_, err := ZoneFile{"example", zoneFile(t, "z", "@ SOA ns h (\n1 ; c\nx\n2 3 4 )\n")}.load()
		require.ErrorContains(t, err, "/z:3:2: ")
	})
}

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*Config)
		key  string // "" when valid
	}{
		{"defaults", func(*Config) {}, ""},
		{"ttl below zero", func(c *Config) { c.TTL = -time.Second }, "ttl"},
		{"ttl in parts", func(c *Config) { c.TTL = 1500 * time.Millisecond }, "ttl"},
		{"udp small", func(c *Config) { c.MaxUDPSize = 511 }, "max-udp-size"},
		{"udp large", func(c *Config) { c.MaxUDPSize = 4097 }, "max-udp-size"},
		{"udp largest", func(c *Config) { c.MaxUDPSize = 4096 }, ""},
		{"connections", func(c *Config) { c.TCPConnections = 0 }, "tcp-connections"},
		{"queries", func(c *Config) { c.TCPQueries = 0 }, "tcp-queries"},
		{"idle", func(c *Config) { c.TCPIdle = 0 }, "tcp-idle"},
		{"message", func(c *Config) { c.TCPMessage = 2 * time.Hour }, "tcp-message"},
		{"zone name", func(c *Config) { c.Zones = []ZoneFile{{"a..b", "f"}} }, "zones[0].name"},
		{"zone name missing", func(c *Config) { c.Zones = []ZoneFile{{"", "f"}} }, "zones[0].name"},
		{"zone file missing", func(c *Config) { c.Zones = []ZoneFile{{"a", "/nonexistent/f"}} }, "zones[0].file"},
		{"zone twice", func(c *Config) {
			f := zoneFile(t, "z", zoneHead)
			c.Zones = []ZoneFile{{"a", f}, {"A.", f}}
		}, "zones[1].name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := defaultConfig()
			tt.edit(c)
			err := c.Validate()
			if tt.key == "" {
				require.NoError(t, err)
				return
			}
			var ce *services.ConfigError
			require.ErrorAs(t, err, &ce)
			assert.Equal(t, tt.key, ce.Key)
		})
	}
}

// TestReverseZones: exactly the link's addresses, whatever its prefix; and a host
// that lacks a family, or whose peer is unknown.
func TestReverseZones(t *testing.T) {
	for _, tt := range []struct {
		prefix   string
		zones    int
		ours     string
		notOurs  string
		peerName string // reverse name of the peer
	}{
		{"10.77.0.1/24", 1, "9.0.77.10.in-addr.arpa", "9.1.77.10.in-addr.arpa", "2.0.77.10.in-addr.arpa"},
		{"10.77.3.1/16", 1, "9.200.77.10.in-addr.arpa", "9.1.78.10.in-addr.arpa", "2.3.77.10.in-addr.arpa"},
		{"10.77.16.1/20", 16, "9.31.77.10.in-addr.arpa", "9.32.77.10.in-addr.arpa", "2.16.77.10.in-addr.arpa"},
		{"10.77.0.5/30", 4, "7.0.77.10.in-addr.arpa", "8.0.77.10.in-addr.arpa", "6.0.77.10.in-addr.arpa"},
		{"10.77.0.0/31", 2, "1.0.77.10.in-addr.arpa", "2.0.77.10.in-addr.arpa", "1.0.77.10.in-addr.arpa"},
		{"127.0.0.1/8", 1, "9.9.9.127.in-addr.arpa", "9.9.9.128.in-addr.arpa", "2.0.0.127.in-addr.arpa"},
		{"10.128.0.1/9", 128, "1.2.255.10.in-addr.arpa", "1.2.127.10.in-addr.arpa", "2.0.128.10.in-addr.arpa"},
	} {
		t.Run(tt.prefix, func(t *testing.T) {
			h := testHost
			h.Addr4, h.Addr6, h.Peer6 = netip.MustParsePrefix(tt.prefix), netip.Prefix{}, netip.Addr{}
			h.Peer4 = h.Addr4.Addr().Next()
			zones, err := builtinZones(h, nil, time.Minute, 1)
			require.NoError(t, err)
			require.Len(t, zones, tt.zones+1)
			m := serving(t, zones...)
			assert.Contains(t, []int{mdns.RcodeNameError, mdns.RcodeSuccess}, m.ask(mdns.Fqdn(tt.ours), mdns.TypePTR).Rcode)
			assert.Equal(t, mdns.RcodeRefused, m.ask(mdns.Fqdn(tt.notOurs), mdns.TypePTR).Rcode)
			assert.Equal(t, lines("NOERROR aa", "an "+tt.peerName+". 60 IN PTR peer.porthole.test."), askText(t, m, tt.peerName+" PTR"))
			assert.Empty(t, m.ask("porthole.test.", mdns.TypeAAAA).Answer)
		})
	}
	t.Run("IPv6 alone, /62", func(t *testing.T) {
		h := testHost
		h.Addr4, h.Peer4, h.Peer6 = netip.Prefix{}, netip.Addr{}, netip.Addr{}
		h.Addr6 = netip.MustParsePrefix("fd77:0:0:4::1/62")
		zones, err := builtinZones(h, nil, time.Minute, 1)
		require.NoError(t, err)
		require.Len(t, zones, 5)
		m := serving(t, zones...)
		ptr := func(a string) *mdns.Msg {
			n, err := mdns.ReverseAddr(a)
			require.NoError(t, err)
			return m.ask(n, mdns.TypePTR)
		}
		assert.Len(t, ptr("fd77:0:0:4::1").Answer, 1)
		assert.Equal(t, mdns.RcodeNameError, ptr("fd77:0:0:7::1").Rcode)
		assert.Equal(t, mdns.RcodeRefused, ptr("fd77:0:0:8::1").Rcode)
		assert.Equal(t, mdns.RcodeNameError, m.ask("peer.porthole.test.", mdns.TypeA).Rcode)
		assert.Len(t, m.ask("ns.porthole.test.", mdns.TypeAAAA).Answer, 1)
		assert.Len(t, m.ask("ns.porthole.test.", mdns.TypeA).Ns, 1)
	})
}

// TestOddHosts: a long zone, a host named like a name of the test area.
func TestOddHosts(t *testing.T) {
	h := testHost
	h.Name = "big"
	h.Zone = strings.TrimSuffix(strings.Repeat(strings.Repeat("z", 59)+".", 4), ".")
	zones, err := builtinZones(h, testNames, 0, 1)
	require.NoError(t, err)
	m := serving(t, zones...)
	assert.Equal(t, mdns.RcodeSuccess, m.ask("www."+h.Zone+".", mdns.TypeA).Rcode)
	assert.Equal(t, uint32(0), m.ask("www."+h.Zone+".", mdns.TypeA).Answer[0].Header().Ttl)
}

// TestReplacedZone: a file takes the place of the built-in zone of its name, and
// the others stay.
func TestReplacedZone(t *testing.T) {
	rig := start(t, func(c *Config) {
		c.Zones = []ZoneFile{{"porthole.test", zoneFile(t, "z", zoneHead+"only TXT \"mine\"\n")}}
	})
	ask := func(name string, typ uint16) *mdns.Msg {
		c := dialTCP(t, rig)
		m, err := exchange(c, new(mdns.Msg).SetQuestion(name, typ), true)
		require.NoError(t, err)
		return m
	}
	assert.Len(t, ask("only.porthole.test.", mdns.TypeTXT).Answer, 1)
	assert.Equal(t, mdns.RcodeNameError, ask("www.porthole.test.", mdns.TypeA).Rcode)
	assert.Len(t, ask("1.0.0.127.in-addr.arpa.", mdns.TypePTR).Answer, 1)
}

// TestTransfer: a zone arrives whole, in more than one message, when it may.
func TestTransfer(t *testing.T) {
	rig := start(t, func(c *Config) { c.Transfer = true })
	addr := rig.Addr[services.TCP(53)].String()
	take := func(q *mdns.Msg) (rrs []mdns.RR, messages int, err error) {
		tr := &mdns.Transfer{DialTimeout: patience, ReadTimeout: patience}
		ch, err := tr.In(q, addr)
		require.NoError(t, err)
		for e := range ch {
			if e.Error != nil {
				return nil, 0, e.Error
			}
			messages++
			rrs = append(rrs, e.RR...)
		}
		return rrs, messages, nil
	}
	rrs, messages, err := take(new(mdns.Msg).SetAxfr("porthole.test."))
	require.NoError(t, err)
	assert.Greater(t, messages, 1)
	assert.Equal(t, mdns.TypeSOA, rrs[0].Header().Rrtype)
	assert.Equal(t, rrs[0].String(), rrs[len(rrs)-1].String())
	seen := map[string]bool{}
	for _, r := range rrs[:len(rrs)-1] {
		assert.False(t, seen[fmt.Sprint(r)], "%v twice", r)
		seen[fmt.Sprint(r)] = true
	}
	serial := rrs[0].(*mdns.SOA).Serial
	s, err := newServer(rig.Env)
	require.NoError(t, err)
	want := 0
	for _, n := range s.zones.Load().zones["\x08porthole\x04test\x00"].nodes {
		for _, set := range n.sets {
			want += len(set.rrs)
		}
	}
	assert.Len(t, rrs, want+1)

	rrs, _, err = take(new(mdns.Msg).SetIxfr("porthole.test.", serial-1, "ns.", "h."))
	require.NoError(t, err)
	assert.Len(t, rrs, want+1, "the whole zone")
	rrs, _, err = take(new(mdns.Msg).SetIxfr("porthole.test.", serial, "ns.", "h."))
	require.NoError(t, err)
	assert.Len(t, rrs, 1, "nothing newer")

	_, _, err = take(new(mdns.Msg).SetAxfr("www.porthole.test."))
	require.ErrorContains(t, err, "bad xfr rcode: 9")
}

// TestTransferKeepsCase: names arrive in the case they have here, whatever was said
// before them and however the client writes the zone's name (RFC 5936, section 3.4).
func TestTransferKeepsCase(t *testing.T) {
	m := serving(t, parseZone(t, "example.", zoneHead+"www CNAME Web\nweb A 192.0.2.1\nWEB.b MX 10 web\n"))
	m.r.opts.transfer = true
	in, err := new(mdns.Msg).SetAxfr("eXaMpLe.").Pack()
	require.NoError(t, err)
	require.NotNil(t, m.r.respond(m.zs, in, true))
	var got []string
	require.NoError(t, m.r.transfer(m.r.xfr, in, func(b []byte) error {
		reply := new(mdns.Msg)
		require.NoError(t, reply.Unpack(b))
		assert.Equal(t, "eXaMpLe.", reply.Question[0].Name)
		for _, r := range reply.Answer {
			got = append(got, strings.Join(strings.Fields(r.String()), " "))
		}
		return nil
	}))
	const soa = "example. 60 IN SOA ns.example. h.example. 1 2 3 4 5"
	assert.Equal(t, []string{soa, "example. 60 IN NS ns.example.", "web.example. 60 IN A 192.0.2.1",
		"www.example. 60 IN CNAME Web.example.", "WEB.b.example. 60 IN MX 10 web.example.", soa}, got)

	in, err = new(mdns.Msg).SetQuestion("www.eXaMpLe.", mdns.TypeCNAME).Pack()
	require.NoError(t, err)
	assert.Len(t, m.raw(in, true), headerLen+17+12+6, "an answer is as short as before: Web and a pointer")
}

// TestTransferOfLongSets: a set longer than a message goes in several, and the names
// of what did not fit the one are not pointed at in the other.
func TestTransferOfLongSets(t *testing.T) {
	text := zoneHead + "a TYPE65280 \\# 64000 " + hexOf(64000) + "\n"
	for i := range 1500 {
		text += fmt.Sprintf("p PTR %s%d.%s\n", strings.Repeat("x", 50), i, strings.Repeat("y", 1+i%40))
	}
	z := parseZone(t, "example.", text)
	m := serving(t, z)
	m.r.opts.transfer = true
	in, err := new(mdns.Msg).SetAxfr("example.").SetEdns0(1232, false).Pack()
	require.NoError(t, err)
	require.NotNil(t, m.r.respond(m.zs, in, true))
	require.NotNil(t, m.r.xfr)
	seen := map[string]bool{}
	records := 0
	require.NoError(t, m.r.transfer(m.r.xfr, in, func(b []byte) error {
		require.LessOrEqual(t, len(b), 65535)
		reply := new(mdns.Msg)
		require.NoError(t, reply.Unpack(b))
		for _, r := range reply.Answer {
			seen[r.String()] = true
			records++
		}
		return nil
	}))
	require.Equal(t, 1+1+1+1500+1, records)
	require.Len(t, seen, records-1)
	require.True(t, seen[fmt.Sprintf("p.example.\t60\tIN\tPTR\t%s1499.%s.example.", strings.Repeat("x", 50), strings.Repeat("y", 20))])
}
