package dns

import (
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"porthole/internal/leak"
	"porthole/services"
)

func TestMain(m *testing.M) { leak.Main(m) }

var testHost = services.Host{
	Name: "porthole", Zone: "porthole.test",
	Addr4: netip.MustParsePrefix("10.77.0.1/24"), Addr6: netip.MustParsePrefix("fd77::1/64"),
	Peer4: netip.MustParseAddr("10.77.0.2"), Peer6: netip.MustParseAddr("fd77::2"),
	MTU: 1500, Version: "0.0.0", Started: time.Unix(1700000000, 0),
}

var testNames = []serviceName{
	{name: "dns", tcp: []uint16{53}, udp: []uint16{53}},
	{name: "ftp", tcp: []uint16{21}},
	{name: "http", tcp: []uint16{80, 8080}},
}

// memory is a responder with its zones: no sockets.
type memory struct {
	t  testing.TB
	zs *zoneSet
	r  *responder
}

// builtin serves the built-in zones of testHost.
func builtin(t testing.TB) *memory {
	zones, err := builtinZones(testHost, testNames, time.Minute, 7)
	require.NoError(t, err)
	return serving(t, zones...)
}

func serving(t testing.TB, zones ...*zone) *memory {
	m := &memory{t: t, zs: newZoneSet(), r: &responder{opts: newOptions(defaultConfig(), testHost)}}
	for _, z := range zones {
		m.zs.add(z)
	}
	return m
}

func parseZone(t testing.TB, origin, text string) *zone {
	t.Helper()
	z, err := readZone(mdns.NewZoneParser(strings.NewReader(text), mdns.Fqdn(origin), ""), origin)
	require.NoError(t, err)
	return z
}

// raw answers one message and checks what holds for every reply.
func (m *memory) raw(msg []byte, tcp bool) []byte {
	m.t.Helper()
	return checked(m.t, m.r, m.zs, msg, tcp)
}

func (m *memory) exchange(q *mdns.Msg, tcp bool) *mdns.Msg {
	m.t.Helper()
	in, err := q.Pack()
	require.NoError(m.t, err)
	out := m.raw(in, tcp)
	require.NotNil(m.t, out)
	reply := new(mdns.Msg)
	require.NoError(m.t, reply.Unpack(out))
	return reply
}

// ask sends a query with EDNS and a large buffer, over TCP: nothing is cut off.
func (m *memory) ask(qname string, qtype uint16) *mdns.Msg {
	m.t.Helper()
	return m.exchange(new(mdns.Msg).SetQuestion(qname, qtype), true)
}

// text is the part of a reply that a table compares: rcode and flags, then one line
// per record with its section, its blanks made single.
func text(m *mdns.Msg) string {
	var b strings.Builder
	b.WriteString(mdns.RcodeToString[m.Rcode])
	for _, f := range []struct {
		on   bool
		name string
	}{{m.Authoritative, "aa"}, {m.Truncated, "tc"}, {m.RecursionDesired, "rd"}, {m.RecursionAvailable, "ra"},
		{m.Zero, "z"}, {m.AuthenticatedData, "ad"}, {m.CheckingDisabled, "cd"}} {
		if f.on {
			b.WriteString(" " + f.name)
		}
	}
	for _, s := range []struct {
		name string
		rrs  []mdns.RR
	}{{"an", m.Answer}, {"ns", m.Ns}, {"ar", m.Extra}} {
		for _, r := range s.rrs {
			if r.Header().Rrtype != mdns.TypeOPT {
				b.WriteString("\n" + s.name + " " + strings.Join(strings.Fields(r.String()), " "))
			}
		}
	}
	return b.String()
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	var b strings.Builder
	for line := range strings.SplitSeq(s, "\n") {
		line, _, _ = strings.Cut(line, "#")
		b.WriteString(strings.Join(strings.Fields(line), ""))
	}
	out, err := hex.DecodeString(b.String())
	require.NoError(t, err)
	return out
}

// lines makes a table's want of lines.
func lines(s ...string) string { return strings.Join(s, "\n") }

// cutLast cuts "name TYPE" in two.
func cutLast(s string) (string, uint16, bool) {
	i := strings.LastIndexByte(s, ' ')
	typ := s[i+1:]
	if n, ok := strings.CutPrefix(typ, "TYPE"); ok {
		v, err := strconv.Atoi(n)
		return s[:i], uint16(v), err == nil
	}
	t, ok := mdns.StringToType[typ]
	return s[:i], t, ok
}

func firstWord(s string) string { w, _, _ := strings.Cut(s, " "); return w }

func nameN(i int) string { return "n" + strconv.Itoa(i) }

func itoa(n int) string { return strconv.Itoa(n) }

// hexOf is n octets in hexadecimal.
func hexOf(n int) string { return strings.Repeat("5a", n) }
