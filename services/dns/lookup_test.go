package dns

import (
	"testing"

	mdns "github.com/miekg/dns"
	"github.com/stretchr/testify/assert"
)

const soa60 = "porthole.test. 60 IN SOA ns.porthole.test. hostmaster.porthole.test. 7 3600 600 86400 60"

func TestBuiltinZone(t *testing.T) {
	const a, aaaa = "60 IN A 10.77.0.1", "60 IN AAAA fd77::1"
	for _, tt := range []struct{ q, want string }{
		{"porthole.test SOA", lines("NOERROR aa", "an "+soa60)},
		{"porthole.test NS", lines("NOERROR aa", "an porthole.test. 60 IN NS ns.porthole.test.",
			"ar ns.porthole.test. "+a, "ar ns.porthole.test. "+aaaa)},
		{"porthole.test MX", lines("NOERROR aa", "an porthole.test. 60 IN MX 10 mail.porthole.test.",
			"ar mail.porthole.test. "+a, "ar mail.porthole.test. "+aaaa)},
		{"porthole.test A", lines("NOERROR aa", "an porthole.test. "+a)},
		{"porthole.test AAAA", lines("NOERROR aa", "an porthole.test. "+aaaa)},
		{"porthole.porthole.test A", lines("NOERROR aa", "an porthole.porthole.test. "+a)},
		{"peer.porthole.test A", lines("NOERROR aa", "an peer.porthole.test. 60 IN A 10.77.0.2")},
		{"peer.porthole.test AAAA", lines("NOERROR aa", "an peer.porthole.test. 60 IN AAAA fd77::2")},
		{"http.porthole.test A", lines("NOERROR aa", "an http.porthole.test. "+a)},
		{"ftp.porthole.test AAAA", lines("NOERROR aa", "an ftp.porthole.test. "+aaaa)},
		{"_http._tcp.porthole.test SRV", lines("NOERROR aa",
			"an _http._tcp.porthole.test. 60 IN SRV 0 0 80 http.porthole.test.",
			"an _http._tcp.porthole.test. 60 IN SRV 0 0 8080 http.porthole.test.",
			"ar http.porthole.test. "+a, "ar http.porthole.test. "+aaaa)},
		{"_domain._udp.porthole.test SRV", lines("NOERROR aa",
			"an _domain._udp.porthole.test. 60 IN SRV 0 0 53 dns.porthole.test.",
			"ar dns.porthole.test. "+a, "ar dns.porthole.test. "+aaaa)},
		{"_tcp.porthole.test SRV", lines("NOERROR aa", "ns "+soa60)},
		{"ns.porthole.test MX", lines("NOERROR aa", "ns "+soa60)},
		{"nxdomain.porthole.test A", lines("NXDOMAIN aa", "ns "+soa60)},
		{"nodata.porthole.test A", lines("NOERROR aa", "ns "+soa60)},
		{"empty.porthole.test TXT", lines("NOERROR aa", "ns "+soa60)},
		{"x.empty.porthole.test TXT", lines("NXDOMAIN aa", "ns "+soa60)},
		{"alias.porthole.test A", lines("NOERROR aa", "an alias.porthole.test. 60 IN CNAME www.porthole.test.",
			"an www.porthole.test. "+a)},
		{"alias.porthole.test CNAME", lines("NOERROR aa", "an alias.porthole.test. 60 IN CNAME www.porthole.test.")},
		{"alias.porthole.test MX", lines("NOERROR aa", "an alias.porthole.test. 60 IN CNAME www.porthole.test.", "ns "+soa60)},
		{"alias.porthole.test ANY", lines("NOERROR aa", "an alias.porthole.test. 60 IN CNAME www.porthole.test.")},
		{"dangling.porthole.test A", lines("NXDOMAIN aa", "an dangling.porthole.test. 60 IN CNAME nxdomain.porthole.test.", "ns "+soa60)},
		{"outside.porthole.test A", lines("NOERROR aa", "an outside.porthole.test. 60 IN CNAME www.example.com.")},
		{"loop1.porthole.test A", lines("NOERROR aa", "an loop1.porthole.test. 60 IN CNAME loop2.porthole.test.",
			"an loop2.porthole.test. 60 IN CNAME loop1.porthole.test.")},
		{"mixed.porthole.test TXT", lines("NOERROR aa", "an mixed.porthole.test. 60 IN CNAME MixedCase.porthole.test.",
			`an MixedCase.porthole.test. 60 IN TXT "MixedCase"`)},
		{"www.dname.porthole.test A", lines("NOERROR aa", "an dname.porthole.test. 60 IN DNAME porthole.test.",
			"an www.dname.porthole.test. 60 IN CNAME www.porthole.test.", "an www.porthole.test. "+a)},
		{"www.dname.dname.porthole.test A", lines("NOERROR aa", "an dname.porthole.test. 60 IN DNAME porthole.test.",
			"an www.dname.dname.porthole.test. 60 IN CNAME www.dname.porthole.test.",
			"an www.dname.porthole.test. 60 IN CNAME www.porthole.test.", "an www.porthole.test. "+a)},
		{"www.dname.porthole.test CNAME", lines("NOERROR aa", "an dname.porthole.test. 60 IN DNAME porthole.test.",
			"an www.dname.porthole.test. 60 IN CNAME www.porthole.test.")},
		{"dname.porthole.test DNAME", lines("NOERROR aa", "an dname.porthole.test. 60 IN DNAME porthole.test.")},
		{"dname.porthole.test A", lines("NOERROR aa", "ns "+soa60)},
		{"a.b.wild.porthole.test A", lines("NOERROR aa", "an a.b.wild.porthole.test. "+a)},
		{"x.wild.porthole.test MX", lines("NOERROR aa", "ns "+soa60)},
		{"host.wild.porthole.test A", lines("NOERROR aa", "ns "+soa60)},
		{"x.host.wild.porthole.test A", lines("NXDOMAIN aa", "ns "+soa60)},
		{"wild.porthole.test A", lines("NOERROR aa", "ns "+soa60)},
		{"*.wild.porthole.test A", lines("NOERROR aa", "an *.wild.porthole.test. "+a)},
		{"sub.porthole.test A", lines("NOERROR", "ns sub.porthole.test. 60 IN NS ns.sub.porthole.test.",
			"ar ns.sub.porthole.test. 60 IN A 192.0.2.53", "ar ns.sub.porthole.test. 60 IN AAAA 2001:db8::53")},
		{"ns.sub.porthole.test A", lines("NOERROR", "ns sub.porthole.test. 60 IN NS ns.sub.porthole.test.",
			"ar ns.sub.porthole.test. 60 IN A 192.0.2.53", "ar ns.sub.porthole.test. 60 IN AAAA 2001:db8::53")},
		{"a.b.sub.porthole.test ANY", lines("NOERROR", "ns sub.porthole.test. 60 IN NS ns.sub.porthole.test.",
			"ar ns.sub.porthole.test. 60 IN A 192.0.2.53", "ar ns.sub.porthole.test. 60 IN AAAA 2001:db8::53")},
		{"sub.porthole.test DS", lines("NOERROR aa", "ns "+soa60)},
		{"ttl0.porthole.test A", lines("NOERROR aa", "an ttl0.porthole.test. 0 IN A 192.0.2.1")},
		{`do\.t.porthole.test TXT`, lines("NOERROR aa", `an do\.t.porthole.test. 60 IN TXT "a dot inside a label"`)},
		{"types.porthole.test TYPE65280", lines("NOERROR aa", `an types.porthole.test. 60 CLASS1 TYPE65280 \# 4 0a000001`)},
		{"mx.porthole.test MX", lines("NOERROR aa", "an mx.porthole.test. 60 IN MX 10 mail.porthole.test.",
			"an mx.porthole.test. 60 IN MX 20 mail.example.com.", "ar mail.porthole.test. "+a, "ar mail.porthole.test. "+aaaa)},
		{"1.0.77.10.in-addr.arpa PTR", lines("NOERROR aa", "an 1.0.77.10.in-addr.arpa. 60 IN PTR porthole.porthole.test.")},
		{"2.0.77.10.in-addr.arpa PTR", lines("NOERROR aa", "an 2.0.77.10.in-addr.arpa. 60 IN PTR peer.porthole.test.")},
		{"3.0.77.10.in-addr.arpa PTR", lines("NXDOMAIN aa", "ns 0.77.10.in-addr.arpa. 60 IN SOA ns.porthole.test. hostmaster.porthole.test. 7 3600 600 86400 60")},
		{"1.1.77.10.in-addr.arpa PTR", "REFUSED"},
		{"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.7.7.d.f.ip6.arpa PTR", lines("NOERROR aa",
			"an 1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.7.7.d.f.ip6.arpa. 60 IN PTR porthole.porthole.test.")},
		{"example.com A", "REFUSED"},
		{"test A", "REFUSED"},
	} {
		t.Run(tt.q, func(t *testing.T) { assert.Equal(t, tt.want, askText(t, builtin(t), tt.q)) })
	}
}

// askText asks "name TYPE", without RD, over both transports, which must agree
// (ANY is what tells them apart).
func askText(t *testing.T, m *memory, nameType string) string {
	t.Helper()
	m.t = t
	qname, typ, _ := cutLast(nameType)
	q := new(mdns.Msg).SetQuestion(mdns.Fqdn(qname), typ)
	q.RecursionDesired = false
	got := text(m.exchange(q, true))
	if typ != mdns.TypeANY {
		q.SetEdns0(4096, false)
		assert.Equal(t, got, text(m.exchange(q, false)))
	}
	return got
}

// TestHelpIsTrue: each name that help lists answers as it says.
func TestHelpIsTrue(t *testing.T) {
	m := builtin(t)
	got := m.ask("help.porthole.test.", mdns.TypeTXT)
	assert.Len(t, got.Answer, len(help))
	for _, line := range help {
		n := firstWord(line)
		r := m.ask(n+".porthole.test.", mdns.TypeTXT)
		if n == "nxdomain" || n == "dangling" {
			assert.Equal(t, mdns.RcodeNameError, r.Rcode, n)
			continue
		}
		if n == "x.dname" {
			n, r = "www.dname", m.ask("www.dname.porthole.test.", mdns.TypeTXT)
		}
		assert.Equal(t, mdns.RcodeSuccess, r.Rcode, n)
	}
	typ := m.ask("types.porthole.test.", mdns.TypeANY)
	assert.Len(t, typ.Answer, 11)
	assert.Len(t, m.ask("many.porthole.test.", mdns.TypeAAAA).Answer, 100)
	assert.Len(t, m.ask("chain1.porthole.test.", mdns.TypeA).Answer, 9)
}

// TestANY: all over TCP, one HINFO over UDP (RFC 8482), and the usual negatives.
func TestANY(t *testing.T) {
	m := builtin(t)
	q := func(n string) *mdns.Msg {
		q := new(mdns.Msg).SetQuestion(n, mdns.TypeANY)
		q.RecursionDesired = false
		return q
	}
	assert.Equal(t, lines("NOERROR aa", `an porthole.test. 3600 IN HINFO "RFC8482" ""`), text(m.exchange(q("porthole.test."), false)))
	assert.Equal(t, lines("NOERROR aa", `an x.wild.porthole.test. 3600 IN HINFO "RFC8482" ""`), text(m.exchange(q("x.wild.porthole.test."), false)))
	assert.Equal(t, lines("NOERROR aa", "an alias.porthole.test. 60 IN CNAME www.porthole.test."), text(m.exchange(q("alias.porthole.test."), false)))
	assert.Equal(t, lines("NOERROR aa", "ns "+soa60), text(m.exchange(q("empty.porthole.test."), false)))
	assert.Equal(t, lines("NXDOMAIN aa", "ns "+soa60), text(m.exchange(q("nxdomain.porthole.test."), false)))
	assert.Len(t, m.exchange(q("porthole.test."), true).Answer, 6)
	// An answer larger than a message: whole sets as far as they fit.
	r := m.exchange(q("huge.porthole.test."), true)
	assert.Len(t, r.Answer, 16)
}

// TestWildcards is the zone of RFC 4592, section 2.2.1, and what it says of it.
func TestWildcards(t *testing.T) {
	z := parseZone(t, "example", `
$ORIGIN example.
$TTL 3600
@                 SOA  ns.example.com. admin.example.com. 1 2 3 4 5
@                 NS   ns.example.com.
@                 NS   ns.example.net.
*                 TXT  "this is a wildcard"
*                 MX   10 host1.example.
sub.*             TXT  "this is not a wildcard"
host1             A    192.0.2.1
_ssh._tcp.host1   SRV  0 0 22 host1.example.
_ssh._tcp.host2   SRV  0 0 22 host2.example.
subdel            NS   ns.example.com.
subdel            NS   ns.example.net.
`)
	m := serving(t, z)
	const soa = "ns example. 5 IN SOA ns.example.com. admin.example.com. 1 2 3 4 5"
	for _, tt := range []struct{ q, want string }{
		{"host3.example MX", lines("NOERROR aa", "an host3.example. 3600 IN MX 10 host1.example.", "ar host1.example. 3600 IN A 192.0.2.1")},
		{"host3.example A", lines("NOERROR aa", soa)},
		{"foo.bar.example TXT", lines("NOERROR aa", `an foo.bar.example. 3600 IN TXT "this is a wildcard"`)},
		{"host1.example MX", lines("NOERROR aa", soa)},
		{"sub.*.example MX", lines("NOERROR aa", soa)},
		{"_telnet._tcp.host1.example SRV", lines("NXDOMAIN aa", soa)},
		{"host.subdel.example A", lines("NOERROR", "ns subdel.example. 3600 IN NS ns.example.com.", "ns subdel.example. 3600 IN NS ns.example.net.")},
		{"ghost.*.example MX", lines("NXDOMAIN aa", soa)},
		{"*.example TXT", lines("NOERROR aa", `an *.example. 3600 IN TXT "this is a wildcard"`)},
		{"sub.*.example TXT", lines("NOERROR aa", `an sub.*.example. 3600 IN TXT "this is not a wildcard"`)},
		{"host2.example MX", lines("NOERROR aa", soa)},       // an empty non-terminal exists
		{"_tcp.host2.example TXT", lines("NOERROR aa", soa)}, // so does this
	} {
		t.Run(tt.q, func(t *testing.T) { assert.Equal(t, tt.want, askText(t, m, tt.q)) })
	}
}

// TestZoneFileAnswers: what the built-in zone has no example of.
func TestZoneFileAnswers(t *testing.T) {
	parent := parseZone(t, "example.", `
$TTL 300
@       SOA ns hostmaster 1 2 3 4 120
@       NS  ns
ns      A   192.0.2.1
child   NS  ns.child
child   DS  1 8 2 0102030405060708091011121314151617181920212223242526272829303132
child   A   192.0.2.66  ; hidden by the delegation
ns.child A  192.0.2.2
deep.a.child NS ns.elsewhere.
other   NS  ns.child
*.cn    CNAME a.cn2
*.self  CNAME x.self
a.cn2   A   192.0.2.3
to-cut  CNAME www.child
ent.*.w TXT "makes *.w an empty non-terminal"
long    DNAME aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb.ccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc.
mixedttl 10 A 192.0.2.4
mixedttl 20 A 192.0.2.5
mixedttl 30 A 192.0.2.5
mx      MX  10 ns.child ; its addresses are not ours to give
big-ttl 4294967295 A 192.0.2.6
`)
	child := parseZone(t, "hosted.example.", "$TTL 60\n@ SOA ns.example. h.example. 9 8 7 6 5\n@ NS ns.example.\nwww A 192.0.2.9\n")
	inner := parseZone(t, "child.example.", "$TTL 60\n@ SOA ns h 9 8 7 6 5\n@ NS ns\nns A 192.0.2.2\n")
	m := serving(t, parent, child)
	const soa = "ns example. 120 IN SOA ns.example. hostmaster.example. 1 2 3 4 120"
	childNS := lines("ns child.example. 300 IN NS ns.child.example.", "ar ns.child.example. 300 IN A 192.0.2.2")
	for _, tt := range []struct{ q, want string }{
		{"child.example A", lines("NOERROR", childNS)},
		{"child.example NS", lines("NOERROR", childNS)},
		{"child.example DS", lines("NOERROR aa", "an child.example. 300 IN DS 1 8 2 0102030405060708091011121314151617181920212223242526272829303132")},
		{"x.child.example DS", lines("NOERROR", childNS)},
		{"x.deep.a.child.example A", lines("NOERROR", childNS)},
		{"other.example A", lines("NOERROR", "ns other.example. 300 IN NS ns.child.example.", "ar ns.child.example. 300 IN A 192.0.2.2")},
		{"to-cut.example A", lines("NOERROR aa", "an to-cut.example. 300 IN CNAME www.child.example.", childNS)},
		{"q.cn.example A", lines("NOERROR aa", "an q.cn.example. 300 IN CNAME a.cn2.example.", "an a.cn2.example. 300 IN A 192.0.2.3")},
		{"q.self.example A", lines("NOERROR aa", "an q.self.example. 300 IN CNAME x.self.example.", "an x.self.example. 300 IN CNAME x.self.example.")},
		{"q.w.example A", lines("NOERROR aa", soa)},
		{"q.w.example ANY", lines("NOERROR aa", soa)},
		{"mixedttl.example A", lines("NOERROR aa", "an mixedttl.example. 10 IN A 192.0.2.4", "an mixedttl.example. 10 IN A 192.0.2.5")},
		{"mx.example MX", lines("NOERROR aa", "an mx.example. 300 IN MX 10 ns.child.example.")},
		{"big-ttl.example A", lines("NOERROR aa", "an big-ttl.example. 0 IN A 192.0.2.6")},
		{"www.hosted.example A", lines("NOERROR aa", "an www.hosted.example. 60 IN A 192.0.2.9")},
		{"hosted.example NS", lines("NOERROR aa", "an hosted.example. 60 IN NS ns.example.")},
		{"hosted.example DS", lines("NOERROR aa", "ns hosted.example. 5 IN SOA ns.example. h.example. 9 8 7 6 5")}, // the parent does not delegate it
		{"example DS", lines("NOERROR aa", soa)},
	} {
		t.Run(tt.q, func(t *testing.T) { assert.Equal(t, tt.want, askText(t, m, tt.q)) })
	}
	t.Run("both sides of a cut", func(t *testing.T) {
		m := serving(t, parent, inner)
		assert.Equal(t, lines("NOERROR aa", "an child.example. 60 IN NS ns.child.example.", "ar ns.child.example. 60 IN A 192.0.2.2"),
			askText(t, m, "child.example NS"))
		assert.Equal(t, lines("NOERROR aa", "an child.example. 300 IN DS 1 8 2 0102030405060708091011121314151617181920212223242526272829303132"),
			askText(t, m, "child.example DS"))
	})
	t.Run("YXDOMAIN", func(t *testing.T) {
		r := m.ask("dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd.long.example.", mdns.TypeA)
		assert.Equal(t, mdns.RcodeYXDomain, r.Rcode)
		assert.Len(t, r.Answer, 1)
		r = m.ask("d.long.example.", mdns.TypeA)
		assert.Equal(t, mdns.RcodeSuccess, r.Rcode)
		assert.Len(t, r.Answer, 2)
	})
}

// TestAdditional: what goes with a set in the additional section, by its type.
func TestAdditional(t *testing.T) {
	m := serving(t, parseZone(t, "example.", `
$TTL 60
@       SOA ns h 1 2 3 4 5
@       NS  ns.
web     A    192.0.2.3
web     HTTPS 1 . alpn=h2
https   HTTPS 0 web
other   HTTPS 1 web port=8443
svcb    SVCB 0 web ; whose HTTPS record is none of its business
off     HTTPS 0 .
*.w     HTTPS 1 .
*.w     A    192.0.2.4
mx      MX   10 web
mx      MX   20 a.b.w
afsdb   AFSDB 1 web
rt      RT   10 web
kx      KX   10 web
mb      MB   web
srv     SRV  1 2 3 web
srv     SRV  1 2 4 x.y.w
srv     SRV  1 2 5 w
srv     SRV  1 2 6 x.gone
srv     SRV  1 2 7 x.cut
gone    DNAME web
cut     NS   ns.
*.cut   A    192.0.2.5
naptr   NAPTR 1 1 "A" "" "" web
`))
	const web, https = "ar web.example. 60 IN A 192.0.2.3", `60 IN HTTPS 1 . alpn="h2"`
	for _, tt := range []struct{ q, want string }{
		{"web.example HTTPS", lines("an web.example. "+https, web)},
		{"https.example HTTPS", lines("an https.example. 60 IN HTTPS 0 web.example.", web, "ar web.example. "+https)},
		{"other.example HTTPS", lines(`an other.example. 60 IN HTTPS 1 web.example. port="8443"`, web)},
		{"svcb.example SVCB", lines("an svcb.example. 60 IN SVCB 0 web.example.", web)},
		{"off.example HTTPS", "an off.example. 60 IN HTTPS 0 ."},
		{"q.w.example HTTPS", "an q.w.example. 60 IN HTTPS 1 ."},
		{"mx.example MX", lines("an mx.example. 60 IN MX 10 web.example.", "an mx.example. 60 IN MX 20 a.b.w.example.",
			web, "ar a.b.w.example. 60 IN A 192.0.2.4")},
		{"afsdb.example AFSDB", lines("an afsdb.example. 60 IN AFSDB 1 web.example.", web)},
		{"rt.example RT", lines("an rt.example. 60 IN RT 10 web.example.", web)},
		{"kx.example KX", lines("an kx.example. 60 IN KX 10 web.example.", web)},
		{"mb.example MB", lines("an mb.example. 60 IN MB web.example.", web)},
		{"srv.example SRV", lines("an srv.example. 60 IN SRV 1 2 3 web.example.", "an srv.example. 60 IN SRV 1 2 4 x.y.w.example.",
			"an srv.example. 60 IN SRV 1 2 5 w.example.", "an srv.example. 60 IN SRV 1 2 6 x.gone.example.",
			"an srv.example. 60 IN SRV 1 2 7 x.cut.example.", web, "ar x.y.w.example. 60 IN A 192.0.2.4")},
		{"naptr.example NAPTR", `an naptr.example. 60 IN NAPTR 1 1 "A" "" "" web.example.`},
	} {
		assert.Equal(t, "NOERROR aa\n"+tt.want, askText(t, m, tt.q), tt.q)
	}
}

// TestSignatureTTL: a signature keeps the TTL of what it signs (RFC 4034, section 3).
func TestSignatureTTL(t *testing.T) {
	m := serving(t, parseZone(t, "example.", zoneHead+
		"a 300 RRSIG A 8 2 300 20300101000000 20200101000000 1 example. AAAA\n"+
		"a 5 RRSIG NSEC 8 2 5 20300101000000 20200101000000 1 example. AAAA\n"))
	assert.Equal(t, lines("NOERROR aa",
		"an a.example. 300 IN RRSIG A 8 2 300 20300101000000 20200101000000 1 example. AAAA",
		"an a.example. 5 IN RRSIG NSEC 8 2 5 20300101000000 20200101000000 1 example. AAAA"), askText(t, m, "a.example RRSIG"))
}

// TestRootZone: the root may be served too; its name has no label to point at.
func TestRootZone(t *testing.T) {
	m := serving(t, parseZone(t, ".", "$TTL 60\n@ SOA a.root. h.root. 1 2 3 4 5\n@ NS a.root.\na.root. A 192.0.2.1\n* TXT \"any\"\n"))
	assert.Equal(t, lines("NOERROR aa", "an . 60 IN NS a.root.", "ar a.root. 60 IN A 192.0.2.1"), askText(t, m, ". NS"))
	assert.Equal(t, lines("NOERROR aa", "ns . 5 IN SOA a.root. h.root. 1 2 3 4 5"), askText(t, m, ". TXT"))
	assert.Equal(t, lines("NOERROR aa", `an x.y. 60 IN TXT "any"`), askText(t, m, "x.y TXT"))
}

func TestLongChains(t *testing.T) {
	text := "$TTL 60\n@ SOA ns h 1 2 3 4 5\n@ NS ns\n"
	for i := range 40 {
		text += nameN(i) + " CNAME " + nameN(i+1) + "\n"
	}
	m := serving(t, parseZone(t, "example.", text+nameN(40)+" A 192.0.2.1\n"))
	assert.Len(t, m.ask(nameN(30)+".example.", mdns.TypeA).Answer, 11)
	r := m.ask(nameN(0)+".example.", mdns.TypeA)
	assert.Equal(t, mdns.RcodeSuccess, r.Rcode)
	assert.Len(t, r.Answer, maxAliases)
	assert.Empty(t, r.Ns)
}
