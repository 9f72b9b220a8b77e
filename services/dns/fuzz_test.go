package dns

import (
	"bytes"
	"testing"

	mdns "github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// FuzzHandle: whatever arrives, nothing panics, and each reply is what checked says.
func FuzzHandle(f *testing.F) {
	for _, name := range []string{"porthole.test.", "www.PORTHOLE.test.", "chain1.porthole.test.", "a.b.wild.porthole.test.",
		"www.dname.dname.porthole.test.", "x.sub.porthole.test.", "many.porthole.test.", "huge.porthole.test.", ".", "version.bind.",
		"1.0.77.10.in-addr.arpa.", "loop1.porthole.test.", "types.porthole.test."} {
		for _, typ := range []uint16{mdns.TypeA, mdns.TypeTXT, mdns.TypeANY, mdns.TypeNS, mdns.TypeDS, mdns.TypeIXFR} {
			q := new(mdns.Msg).SetQuestion(name, typ)
			in, err := q.Pack()
			require.NoError(f, err)
			f.Add(in, true)
			q.SetEdns0(4096, true)
			q.IsEdns0().Option = []mdns.EDNS0{&mdns.EDNS0_NSID{Code: mdns.EDNS0NSID}, &mdns.EDNS0_TCP_KEEPALIVE{Code: mdns.EDNS0TCPKEEPALIVE}}
			in, err = q.Pack()
			require.NoError(f, err)
			f.Add(in, false)
		}
	}
	m := builtin(f)
	c := defaultConfig()
	c.Transfer = true
	fresh := newOptions(c, testHost)
	r := &responder{opts: fresh}
	f.Fuzz(func(t *testing.T, msg []byte, tcp bool) {
		out := bytes.Clone(checked(t, r, m.zs, msg, tcp))
		// What was answered before leaves no trace.
		require.Equal(t, out, (&responder{opts: fresh}).respond(m.zs, msg, tcp))
		if r.xfr != nil {
			var zone []mdns.RR // of a small one in a single message (RFC 5936, 2.2)
			require.NoError(t, r.transfer(r.xfr, msg, func(b []byte) error {
				m := new(mdns.Msg)
				err := m.Unpack(b)
				zone = append(zone, m.Answer...)
				return err
			}))
			require.Greater(t, len(zone), 1)
			for _, end := range []mdns.RR{zone[0], zone[len(zone)-1]} {
				require.Equal(t, mdns.TypeSOA, end.Header().Rrtype)
			}
		}
	})
}

// FuzzZoneFile: no text makes a zone that panics, at load or in an answer.
func FuzzZoneFile(f *testing.F) {
	const head = "$TTL 60\n@ SOA ns h 1 2 3 4 5\n@ NS ns\n"
	f.Add(head+"a A 192.0.2.1\n* CNAME a\nb DNAME c\n", "x.b.example.")
	f.Add(head+"sub NS ns.sub\nns.sub A 192.0.2.1\n*.w TXT \"a\"\n", "y.sub.example.")
	f.Add(head+"$GENERATE 1-20 h$ A 192.0.2.$\nmx MX 1 h1\ns SRV 1 2 3 h2\n", "h1.example.")
	f.Add("@ SOA ns h (\n1\n2 ; c\n3\n4\n5)\n@ NS ns\na TXT (b\nc \"d;(\ne\\\\\")\n", "a.example.")
	f.Add(head+"a\\000b TYPE65280 \\# 3 010203\n", "a\\000b.example.")
	f.Fuzz(func(t *testing.T, text, qname string) {
		z, err := readZone(mdns.NewZoneParser(&joined{r: &capped{r: bytes.NewReader([]byte(text)), left: 1 << 16}}, "example.", ""), "example.")
		if err != nil {
			return
		}
		if _, ok := mdns.IsDomainName(qname); !ok {
			return
		}
		m := serving(t, z)
		for _, typ := range []uint16{mdns.TypeA, mdns.TypeCNAME, mdns.TypeANY, mdns.TypeDS, mdns.TypeMX} {
			in, err := new(mdns.Msg).SetQuestion(mdns.Fqdn(qname), typ).Pack()
			if err != nil {
				return
			}
			out := m.r.respond(m.zs, in, true)
			if new(mdns.Msg).Unpack(out) != nil {
				// RDATA given as \# of a known type is served as the file has it.
				return
			}
		}
	})
}
