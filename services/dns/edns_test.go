package dns

import (
	"testing"

	mdns "github.com/miekg/dns"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestEDNSCompliance holds the checks that testers of authoritative servers make
// (RFC 8906, section 8; the names are those of ISC's EDNS compliance tester).
func TestEDNSCompliance(t *testing.T) {
	unknown := &mdns.EDNS0_LOCAL{Code: 100, Data: []byte{1, 2}}
	for _, tt := range []struct {
		name            string
		tcp             bool
		typ             uint16
		opt             bool
		version         uint8
		size            uint16
		do              bool
		z               uint16
		options         []mdns.EDNS0
		rcode           int
		wantDO, answers bool
	}{
		{name: "dns", typ: mdns.TypeSOA, answers: true},
		{name: "aa is unset in the query, set in the reply", typ: mdns.TypeNS, answers: true},
		{name: "edns", typ: mdns.TypeSOA, opt: true, size: 4096, answers: true},
		{name: "edns1", typ: mdns.TypeSOA, opt: true, size: 4096, version: 1, rcode: mdns.RcodeBadVers},
		{name: "edns255", typ: mdns.TypeSOA, opt: true, size: 4096, version: 255, rcode: mdns.RcodeBadVers},
		{name: "edns@512", typ: mdns.TypeDNSKEY, opt: true, size: 512, do: true, wantDO: true},
		{name: "edns@0", typ: mdns.TypeSOA, opt: true, size: 0, answers: true},
		{name: "ednsopt", typ: mdns.TypeSOA, opt: true, size: 4096, options: []mdns.EDNS0{unknown}, answers: true},
		{name: "edns1opt", typ: mdns.TypeSOA, opt: true, size: 4096, version: 1, options: []mdns.EDNS0{unknown}, rcode: mdns.RcodeBadVers},
		{name: "do", typ: mdns.TypeSOA, opt: true, size: 4096, do: true, wantDO: true, answers: true},
		{name: "edns1do", typ: mdns.TypeSOA, opt: true, size: 4096, do: true, version: 1, wantDO: true, rcode: mdns.RcodeBadVers},
		{name: "docookie", typ: mdns.TypeSOA, opt: true, size: 4096, do: true, wantDO: true, answers: true,
			options: []mdns.EDNS0{&mdns.EDNS0_COOKIE{Code: mdns.EDNS0COOKIE, Cookie: "24a5ac1122334455"}}},
		{name: "ednsflags", typ: mdns.TypeSOA, opt: true, size: 4096, z: 0x40, answers: true},
		{name: "edns1flags", typ: mdns.TypeSOA, opt: true, size: 4096, version: 1, z: 0x40, rcode: mdns.RcodeBadVers},
		{name: "optlist", typ: mdns.TypeSOA, opt: true, size: 4096, answers: true, options: []mdns.EDNS0{
			&mdns.EDNS0_NSID{Code: mdns.EDNS0NSID}, &mdns.EDNS0_EXPIRE{Code: mdns.EDNS0EXPIRE, Empty: true},
			&mdns.EDNS0_COOKIE{Code: mdns.EDNS0COOKIE, Cookie: "24a5ac1122334455"},
			&mdns.EDNS0_SUBNET{Code: mdns.EDNS0SUBNET, Family: 1, SourceNetmask: 0, Address: []byte{0, 0, 0, 0}}}},
		{name: "signed", typ: mdns.TypeRRSIG, opt: true, size: 4096, do: true, wantDO: true},
		{name: "ednstcp", tcp: true, typ: mdns.TypeSOA, opt: true, size: 512, answers: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := new(mdns.Msg).SetQuestion("porthole.test.", tt.typ)
			q.RecursionDesired = false
			if tt.opt {
				q.SetEdns0(tt.size, tt.do)
				o := q.IsEdns0()
				o.SetVersion(tt.version)
				o.Hdr.Ttl |= uint32(tt.z)
				o.Option = tt.options
			}
			got := builtin(t).exchange(q, tt.tcp)
			assert.Equal(t, tt.rcode, got.Rcode)
			assert.Equal(t, tt.rcode == 0, got.Authoritative)
			assert.Equal(t, tt.answers, len(got.Answer) > 0)
			assert.False(t, got.Truncated)
			o := got.IsEdns0()
			if !tt.opt {
				require.Nil(t, o)
				return
			}
			require.NotNil(t, o)
			assert.Equal(t, uint8(0), o.Version(), "the highest version there is")
			assert.Equal(t, tt.wantDO, o.Do())
			assert.Equal(t, uint16(0), o.Z(), "unknown flags are clear")
			assert.Equal(t, uint16(1232), o.UDPSize())
			if tt.name != "optlist" {
				assert.Empty(t, o.Option, "unknown options are not echoed")
			} else if assert.Len(t, o.Option, 1) {
				assert.Equal(t, "706f7274686f6c65", o.Option[0].(*mdns.EDNS0_NSID).Nsid)
			}
		})
	}
}

// TestKeepalive: the option of RFC 7828 is for TCP alone.
func TestKeepalive(t *testing.T) {
	m := builtin(t)
	q := new(mdns.Msg).SetQuestion("porthole.test.", mdns.TypeSOA).SetEdns0(1232, false)
	q.IsEdns0().Option = []mdns.EDNS0{&mdns.EDNS0_TCP_KEEPALIVE{Code: mdns.EDNS0TCPKEEPALIVE}}
	assert.Empty(t, m.exchange(q, false).IsEdns0().Option)
	got := m.exchange(q, true).IsEdns0().Option
	if assert.Len(t, got, 1) {
		assert.Equal(t, uint16(100), got[0].(*mdns.EDNS0_TCP_KEEPALIVE).Timeout)
	}
}

// TestTruncation: a set is whole or absent, TC says which, and TCP has it all.
func TestTruncation(t *testing.T) {
	for _, tt := range []struct {
		name     string
		typ      uint16
		edns     uint16 // 0: none
		max      int    // of the server
		tc       bool
		answers  int
		overTCP  int
		moreThan int // octets of the whole answer
	}{
		{"medium", mdns.TypeTXT, 0, 1232, true, 0, 1, 512},
		{"medium", mdns.TypeTXT, 512, 1232, true, 0, 1, 512},
		{"medium", mdns.TypeTXT, 100, 1232, true, 0, 1, 512}, // less than 512 is 512
		{"medium", mdns.TypeTXT, 1232, 1232, false, 1, 1, 512},
		{"medium", mdns.TypeTXT, 65535, 512, true, 0, 1, 512},
		{"big", mdns.TypeTXT, 0, 1232, true, 0, 1, 1232},
		{"big", mdns.TypeTXT, 4096, 1232, true, 0, 1, 1232},
		{"big", mdns.TypeTXT, 4096, 4096, false, 1, 1, 1232},
		{"many", mdns.TypeA, 1232, 1232, true, 0, 100, 1232},
		{"many", mdns.TypeA, 4096, 4096, false, 100, 100, 1232},
		{"many", mdns.TypeAAAA, 1232, 4096, true, 0, 100, 2500},
		{"huge", mdns.TypeTXT, 4096, 4096, true, 0, 16, 32768},
		{"chain1", mdns.TypeA, 0, 1232, false, 9, 9, 200},
	} {
		m := builtin(t)
		m.r.opts.maxUDP = tt.max
		q := new(mdns.Msg).SetQuestion(tt.name+".porthole.test.", tt.typ)
		if tt.edns > 0 {
			q.SetEdns0(tt.edns, false)
		}
		got := m.exchange(q, false)
		assert.Equal(t, tt.tc, got.Truncated, "%+v", tt)
		assert.Len(t, got.Answer, tt.answers, "%+v", tt)
		got = m.exchange(q, true)
		assert.False(t, got.Truncated, "%+v", tt)
		assert.Len(t, got.Answer, tt.overTCP, "%+v", tt)
		got.Compress = true
		assert.Greater(t, got.Len(), tt.moreThan, "%+v", tt)
	}
}

// TestTruncationAtTheEdge: an answer of exactly the limit is whole, one octet more
// is not; OPT always has its room.
func TestTruncationAtTheEdge(t *testing.T) {
	for _, tt := range []struct {
		edns  bool
		bytes int // of RDATA: 512 - header 12 - question 12+4 - record 2+10 - OPT
		tc    bool
	}{
		{false, 472, false}, {false, 473, true}, {true, 461, false}, {true, 462, true},
	} {
		n := tt.bytes
		rdata := "\\# " + itoa(n) + " " + hexOf(n)
		m := serving(t, parseZone(t, "example.", "$TTL 60\n@ SOA ns h 1 2 3 4 5\n@ NS ns\nab TYPE65280 "+rdata+"\n"))
		q := new(mdns.Msg).SetQuestion("ab.example.", 65280)
		if tt.edns {
			q.SetEdns0(512, false)
		}
		in, err := q.Pack()
		require.NoError(t, err)
		out := m.raw(in, false)
		assert.Equal(t, tt.tc, out[2]&2 != 0, "%+v", tt)
		if !tt.tc {
			assert.Len(t, out, 512)
		}
	}
}

// TestGlueTruncation: glue without which a referral leads nowhere sets TC when it
// does not fit (RFC 9471); other addresses are left out in silence.
func TestGlueTruncation(t *testing.T) {
	text := "$TTL 60\n@ SOA ns h 1 2 3 4 5\n@ NS ns\nns A 192.0.2.1\n"
	for i := range 12 {
		n := nameN(i)
		text += "in NS " + n + ".in\n" + n + ".in AAAA 2001:db8::1\n" + n + ".in A 192.0.2.1\n"
		text += "out NS " + n + ".side\n" + n + ".side AAAA 2001:db8::1\n" + n + ".side A 192.0.2.1\n"
		text += "@ MX 10 " + n + ".side\n"
	}
	m := serving(t, parseZone(t, "example.", text))
	ask := func(name string, typ uint16, tcp bool) *mdns.Msg {
		return m.exchange(new(mdns.Msg).SetQuestion(name, typ), tcp)
	}
	assert.True(t, ask("x.in.example.", mdns.TypeA, false).Truncated)
	assert.False(t, ask("x.out.example.", mdns.TypeA, false).Truncated)
	assert.False(t, ask("example.", mdns.TypeMX, false).Truncated)
	for _, r := range []*mdns.Msg{ask("x.in.example.", mdns.TypeA, true), ask("x.out.example.", mdns.TypeA, true)} {
		assert.False(t, r.Truncated)
		assert.Len(t, r.Ns, 12)
		assert.Len(t, r.Extra, 24)
	}
}

// TestCompression: owner names and the names of RFC 1035's types are compressed,
// those of SRV and unknown types are not (RFC 3597, section 4).
func TestCompression(t *testing.T) {
	m := builtin(t)
	raw := func(name string, typ uint16) []byte {
		in, err := new(mdns.Msg).SetQuestion(name, typ).Pack()
		require.NoError(t, err)
		return m.raw(in, false)
	}
	// Question, then c00c MX IN 60 9 octets: 10 "mail" pointer to the question.
	assert.Equal(t, unhex(t, `c00c 000f 0001 0000003c 0009 000a 04 6d61696c c00c
		c02d 0001 0001 0000003c 0004 0a4d0001
		c02d 001c 0001 0000003c 0010 fd77 0000 0000 0000 0000 0000 0000 0001`), raw("porthole.test.", mdns.TypeMX)[headerLen+19:])
	srv := raw("_ftp._tcp.porthole.test.", mdns.TypeSRV)[headerLen+29:]
	want := unhex(t, `c00c 0021 0001 0000003c 0019 0000 0000 0015 03 667470 08 706f7274686f6c65 04 74657374 00
		03 667470 c016 0001 0001 0000003c 0004 0a4d0001`)
	assert.Equal(t, want, srv[:len(want)])
}

// TestAllocations: a reply costs no memory.
func TestAllocations(t *testing.T) {
	m := builtin(t)
	for _, name := range []string{"www.porthole.test.", "porthole.test.", "nope.porthole.test.", "chain1.porthole.test.",
		"a.wild.porthole.test.", "x.sub.porthole.test.", "www.dname.porthole.test.", "example.com."} {
		in, err := new(mdns.Msg).SetQuestion(name, mdns.TypeA).SetEdns0(1232, true).Pack()
		require.NoError(t, err)
		assert.Zero(t, testing.AllocsPerRun(100, func() { m.r.respond(m.zs, in, false) }), name)
	}
}
