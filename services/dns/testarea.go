package dns

import (
	"fmt"
	"net/netip"
	"strings"
)

// help says what the test area holds. It is served as TXT help.ZONE, and the first
// word of each line is a name that exists there (a test asks for each).
var help = []string{
	"alias CNAME to www",
	"chain1 CNAME chain of 8 links, to chain9",
	"loop1 CNAME loop of two",
	"dangling CNAME to a name that does not exist: NXDOMAIN",
	"outside CNAME out of the zone",
	"x.dname under a DNAME to the zone itself: www.dname is www",
	"anything.wild wildcard with A, AAAA, TXT",
	"host.wild exists with TXT alone, so the wildcard does not cover it",
	"nodata exists with TXT alone: NODATA for A",
	"empty empty non-terminal above name.empty",
	"nxdomain does not exist",
	"sub delegation to ns.sub with glue: any name below is a referral",
	"medium TXT of about 900 bytes: over 512, under 1232",
	"big TXT of about 2500 bytes: over 1232, under 4096",
	"huge TXT of about 40000 bytes: TCP alone",
	"many 100 A and 100 AAAA records",
	"longtxt one character-string of 255 bytes",
	"ttl0 A and TXT that may not be cached",
	"types one record of each of CAA HINFO HTTPS LOC NAPTR RP SSHFP SVCB TLSA TYPE65280 URI",
	"MixedCase whose own case is kept where the query leaves it open",
	`do\.t a dot inside a label`,
	"mx MX records, one without an address here",
}

// testArea writes the names of help. Addresses other than own are of the ranges
// for documentation (RFC 5737, RFC 3849).
func (m *master) testArea(own []netip.Addr) {
	m.rr("alias", "CNAME www")
	for i := 1; i <= 8; i++ {
		m.rr(fmt.Sprintf("chain%d", i), "CNAME chain%d", i+1)
	}
	m.address("chain9", own...)
	m.rr("loop1", "CNAME loop2")
	m.rr("loop2", "CNAME loop1")
	m.rr("dangling", "CNAME nxdomain")
	m.rr("outside", "CNAME www.example.com.")
	m.rr("dname", "DNAME @")

	m.address("*.wild", own...)
	m.rr("*.wild", `TXT "made from a wildcard"`)
	m.rr("host.wild", `TXT "not made from a wildcard"`)
	m.rr("nodata", `TXT "no address here"`)
	m.rr("name.empty", `TXT "below an empty non-terminal"`)

	m.rr("sub", "NS ns.sub")
	m.rr("ns.sub", "A 192.0.2.53")
	m.rr("ns.sub", "AAAA 2001:db8::53")

	m.text("medium", 1, 850)
	m.text("big", 1, 2400)
	m.text("huge", 16, 2400)
	for i := 1; i <= 100; i++ { // BIND's secondaries take no more of one type
		m.rr("many", "A 192.0.2.%d", i)
		m.rr("many", "AAAA 2001:db8::%x", i)
	}
	m.rr("longtxt", `TXT "%s"`, strings.Repeat("0123456789", 26)[:255])
	fmt.Fprintf(m, "ttl0 0 IN A 192.0.2.1\nttl0 0 IN TXT \"do not cache\"\n")

	m.rr("types", `CAA 0 issue "ca.example.net"`)
	m.rr("types", `HINFO "VIRTUAL" "POSIX"`)
	m.rr("types", `HTTPS 1 www alpn=http/1.1`)
	m.rr("types", `LOC 52 22 23.000 N 4 53 32.000 E -2.00m 1m 10000m 10m`)
	m.rr("types", `NAPTR 100 10 "u" "E2U+sip" "!^.*$!sip:info@example.com!" .`)
	m.rr("types", `RP hostmaster help`)
	m.rr("types", `SSHFP 4 2 123456789ABCDEF67890123456789ABCDEF67890123456789ABCDEF123456789`)
	m.rr("types", `SVCB 1 www port=80`)
	m.rr("types", `TLSA 3 1 1 0C72AC70B745AC19998811B131D662C9AC69DBDBE7CB23E5B514B56664C5D3D6`)
	m.rr("types", `TYPE65280 \# 4 0A000001`)
	m.rr("types", `URI 10 1 "http://www.example.com/"`)
	m.rr("MixedCase", `TXT "MixedCase"`)
	m.rr("mixed", "CNAME MixedCase")
	m.rr(`do\.t`, `TXT "a dot inside a label"`)
	m.rr("mx", "MX 10 mail")
	m.rr("mx", "MX 20 mail.example.com.")

	for _, line := range help {
		m.rr("help", `TXT "%s"`, quoted(line))
	}
	for _, n := range []string{
		"alias", "dangling", "outside", "loop1", "loop2", "dname", "sub", "nodata", "nxdomain", "empty",
		"medium", "big", "huge", "many", "longtxt", "ttl0", "types", "mixedcase", "mixed", "mx", "help", "wild",
		"chain1", "chain2", "chain3", "chain4", "chain5", "chain6", "chain7", "chain8", "chain9",
	} {
		m.taken[n] = true
	}
}

// text adds n TXT records of about size bytes each, of strings of 100.
func (m *master) text(owner string, n, size int) {
	const line = "the quick brown fox jumps over the lazy dog; 0123456789; pack my box with five dozen liquor jugs; "
	for i := range n {
		var b strings.Builder
		for at := 0; at < size; at += 101 {
			fmt.Fprintf(&b, ` "%s"`, fmt.Sprintf("%02d %05d %s", i, at, line)[:100])
		}
		m.rr(owner, "TXT%s", b.String())
	}
}
