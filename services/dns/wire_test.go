package dns

import (
	"encoding/binary"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// checked answers one message and checks what must hold for any input: no reply to
// a reply or to less than a header; otherwise a reply with the same ID and opcode,
// QR set, RA, Z and AD clear, within the limit, that a parser reads to its end.
func checked(t testing.TB, r *responder, zs *zoneSet, msg []byte, tcp bool) []byte {
	t.Helper()
	in := string(msg)
	out := r.respond(zs, msg, tcp)
	require.Equal(t, in, string(msg), "the query was written to")
	if len(msg) < headerLen || msg[2]&0x80 != 0 {
		require.Nil(t, out)
		return nil
	}
	require.GreaterOrEqual(t, len(out), headerLen)
	require.Equal(t, msg[:2], out[:2], "ID")
	require.Equal(t, msg[2]&0x79|0x80, out[2]&0xf9, "QR, opcode, RD")
	require.Equal(t, msg[3]&0x10, out[3]&0xf0, "RA, Z and AD clear, CD copied")
	limit := 65535
	if !tcp {
		limit = min(r.q.size, r.opts.maxUDP)
	}
	require.LessOrEqual(t, len(out), limit)
	m := new(mdns.Msg)
	require.NoError(t, m.Unpack(out), "%x", out)
	require.Equal(t, binary.BigEndian.Uint16(out[10:]), uint16(len(m.Extra)))
	require.Equal(t, r.q.edns, m.IsEdns0() != nil, "EDNS in the reply if and only if in the query")
	// Our own, stricter reader agrees, and finds nothing after the last record.
	var q query
	parseQuery(out, &q)
	require.False(t, q.bad, "%x", out)
	return out
}

const (
	qSOA = `08 706f7274686f6c65 04 74657374 00 0006 0001` // porthole.test SOA IN
	opt0 = `00 0029 1000 00 00 0000 0000`                 // OPT, 4096 octets, version 0
)

func TestHeaders(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     string // prefix of the reply; "" for none
	}{
		{"empty", ``, ``},
		{"shorter than a header", `1234 0000 0001 0000 0000 00`, ``},
		{"a reply", `1234 8000 0001 0000 0000 0000` + qSOA, ``},
		{"a broken reply", `1234 8000 0001 0000 0000 0000`, ``},
		{"query: AA, RD copied", `1234 0100 0001 0000 0000 0000` + qSOA, `1234 8500 0001 0001 0000 0000` + qSOA + `c00c 0006 0001`},
		{"CD copied, AD and Z cleared", `1234 0070 0001 0000 0000 0000` + qSOA, `1234 8410 0001 0001 0000 0000` + qSOA},
		{"TC, AA, RA and an rcode in a query do not matter", `1234 068b 0001 0000 0000 0000` + qSOA, `1234 8400 0001 0001 0000 0000` + qSOA},
		{"no question", `1234 0100 0000 0000 0000 0000`, `1234 8101 0000 0000 0000 0000`},
		{"no question, OPT", `1234 0100 0000 0000 0000 0001` + opt0, `1234 8101 0000 0000 0000 0001 00 0029 04d0 00 00 0000 0000`},
		{"two questions", `1234 0000 0002 0000 0000 0000` + qSOA + qSOA, `1234 8001 0000 0000 0000 0000`},
		{"two questions, OPT", `1234 0000 0002 0000 0000 0001` + qSOA + qSOA + opt0, `1234 8001 0000 0000 0000 0001 00 0029`},
		{"question missing", `1234 0100 0001 0000 0000 0000`, `1234 8101 0000 0000 0000 0000`},
		{"question cut in its name", `1234 0100 0001 0000 0000 0000 08 706f72`, `1234 8101 0000 0000 0000 0000`},
		{"question without class", `1234 0000 0001 0000 0000 0000 00 0006`, `1234 8001 0000 0000 0000 0000`},
		{"trailing octet", `1234 0000 0001 0000 0000 0000` + qSOA + `00`, `1234 8001 0001 0000 0000 0000` + qSOA},
		{"record missing", `1234 0000 0001 0000 0000 0001` + qSOA, `1234 8001 0001 0000 0000 0000` + qSOA},
		{"65535 records missing", `1234 0000 0001 ffff ffff ffff` + qSOA, `1234 8001 0001 0000 0000 0000` + qSOA},
		{"RDATA cut short", `1234 0000 0001 0000 0000 0001` + qSOA + `00 0001 0001 00000000 0004 0102`, `1234 8001 0001 0000 0000 0000`},
		{"an answer in a query is read over", `1234 0000 0001 0001 0000 0000` + qSOA + `c00c 0001 0001 00000000 0004 01020304`, `1234 8400 0001 0001`},
		{"pointer loop in the question", `1234 0000 0001 0000 0000 0000 c00c 0006 0001`, `1234 8001 0000 0000 0000 0000`},
		{"pointer into the header", `1234 0000 0001 0000 0000 0000 c000 0006 0001`, `1234 8001 0000 0000`},
		{"pointer forward", `1234 0000 0001 0000 0000 0000 c01e 0006 0001`, `1234 8001 0000 0000`},
		{"label, then pointer to it", `1234 0000 0001 0000 0000 0000 0161 c00c 0006 0001`, `1234 8001 0000 0000`},
		{"label of type 01", `1234 0000 0001 0000 0000 0000 41 00 0006 0001`, `1234 8001 0000 0000`},
		{"label of type 10", `1234 0000 0001 0000 0000 0000 81 00 0006 0001`, `1234 8001 0000 0000`},
		{"pointer loop in a record", `1234 0000 0001 0000 0000 0001` + qSOA + `0161 c01f 0001 0001 00000000 0000`, `1234 8001 0001 0000`},

		{"opcode IQUERY", `1234 0800 0000 0000 0000 0000`, `1234 8804 0000 0000 0000 0000`},
		{"opcode STATUS", `1234 1000 0000 0000 0000 0000`, `1234 9004 0000 0000 0000 0000`},
		{"opcode 3", `1234 1900 0000 0000 0000 0000`, `1234 9904 0000 0000 0000 0000`},
		{"opcode NOTIFY, question echoed", `1234 2400 0001 0000 0000 0000` + qSOA, `1234 a004 0001 0000 0000 0000` + qSOA},
		{"opcode UPDATE", `1234 2800 0001 0000 0000 0000` + qSOA, `1234 a804 0001 0000 0000 0000` + qSOA},
		{"opcode DSO", `1234 3000 0000 0000 0000 0000`, `1234 b004 0000 0000 0000 0000`},
		{"opcode 15, header alone", `1234 7800 0000 0000 0000 0000`, `1234 f804 0000 0000 0000 0000`},
		{"opcode 15, OPT", `1234 7800 0000 0000 0000 0001` + opt0, `1234 f804 0000 0000 0000 0001 00 0029`},
		{"opcode 15, broken", `1234 7900 0001 0000 0000 0000 ff`, `1234 f904 0000 0000 0000 0000`},

		{"two OPT", `1234 0000 0001 0000 0000 0002` + qSOA + opt0 + opt0, `1234 8001 0001 0000 0000 0001` + qSOA + `00 0029`},
		{"OPT not at the root", `1234 0000 0001 0000 0000 0001` + qSOA + `0161` + opt0, `1234 8001 0001 0000 0000 0001`},
		{"OPT in the answer section", `1234 0000 0001 0001 0000 0000` + qSOA + opt0, `1234 8001 0001 0000 0000 0000` + qSOA},
		{"option longer than OPT", `1234 0000 0001 0000 0000 0001` + qSOA + `00 0029 1000 00 00 0000 0005 0003 0004 00`, `1234 8001 0001 0000 0000 0001`},
		{"half an option", `1234 0000 0001 0000 0000 0001` + qSOA + `00 0029 1000 00 00 0000 0002 0003`, `1234 8001 0001 0000 0000 0001`},
		{"EDNS version 1", `1234 0000 0001 0000 0000 0001` + qSOA + `00 0029 1000 00 01 0000 0000`, `1234 8000 0001 0000 0000 0001` + qSOA + `00 0029 04d0 01 00 0000 0000`},
		{"EDNS version 1, DO", `1234 0000 0001 0000 0000 0001` + qSOA + `00 0029 1000 00 01 8000 0000`, `1234 8000 0001 0000 0000 0001` + qSOA + `00 0029 04d0 01 00 8000 0000`},
		{"DO copied, other flags clear", `1234 0000 0001 0000 0000 0001` + qSOA + `00 0029 1000 00 00 ffff 0000`, `1234 8400 0001 0001 0000 0001` + qSOA},

		{"other zone", `1234 0100 0001 0000 0000 0000 07 6578616d706c65 00 0001 0001`, `1234 8105 0001 0000 0000 0000`},
		{"the root", `1234 0100 0001 0000 0000 0000 00 0002 0001`, `1234 8105 0001 0000 0000 0000 00 0002 0001`},
		{"class ANY", `1234 0000 0001 0000 0000 0000 08 706f7274686f6c65 04 74657374 00 0006 00ff`, `1234 8005 0001 0000 0000 0000`},
		{"class NONE", `1234 0000 0001 0000 0000 0000 08 706f7274686f6c65 04 74657374 00 0006 00fe`, `1234 8005 0001 0000 0000 0000`},
		{"class HS", `1234 0000 0001 0000 0000 0000 08 706f7274686f6c65 04 74657374 00 0006 0004`, `1234 8005 0001 0000 0000 0000`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := builtin(t)
			for _, tcp := range []bool{false, true} {
				got, want := m.raw(unhex(t, tt.in), tcp), unhex(t, tt.want)
				if len(want) == 0 {
					assert.Nil(t, got)
					continue
				}
				require.GreaterOrEqual(t, len(got), len(want))
				assert.Equal(t, want, got[:len(want)])
			}
		})
	}
}

// TestNames: 255 octets are a name, 256 are none; labels end at 63.
func TestNames(t *testing.T) {
	m := builtin(t)
	long := func(last int) []byte {
		q := unhex(t, `1234 0000 0001 0000 0000 0000`)
		for range 3 {
			q = append(append(q, 63), strings.Repeat("a", 63)...)
		}
		q = append(append(q, byte(last)), strings.Repeat("a", last)...)
		return append(q, 0, 0, 1, 0, 1)
	}
	assert.Equal(t, byte(mdns.RcodeRefused), m.raw(long(61), false)[3], "255 octets")
	assert.Equal(t, byte(mdns.RcodeFormatError), m.raw(long(62), false)[3], "256 octets")

	deep := unhex(t, `1234 0000 0001 0000 0000 0000`)
	for range 120 {
		deep = append(deep, 1, 'x')
	}
	deep = append(deep, unhex(t, `08 706f7274686f6c65 04 74657374 00 0006 0001`)...)
	assert.Equal(t, byte(mdns.RcodeNameError), m.raw(deep, false)[3], "122 labels")
}

// TestQuestionCase: the question comes back octet by octet (0x20), and names match
// whatever their case.
func TestQuestionCase(t *testing.T) {
	m := builtin(t)
	q := new(mdns.Msg).SetQuestion("wWw.PoRtHoLe.tEsT.", mdns.TypeA)
	q.RecursionDesired = false
	got := m.exchange(q, false)
	assert.Equal(t, "NOERROR aa\nan wWw.PoRtHoLe.tEsT. 60 IN A 10.77.0.1", text(got))
	assert.Equal(t, q.Question, got.Question)

	// Octets that are no letters have no case: 0x5b is not 0x7b.
	got = m.exchange(new(mdns.Msg).SetQuestion(`\091.nodata.porthole.test.`, mdns.TypeA), false)
	assert.Equal(t, mdns.RcodeNameError, got.Rcode)
}

func TestMetaTypes(t *testing.T) {
	for _, tt := range []struct {
		typ  uint16
		want int
	}{
		{0, mdns.RcodeFormatError},
		{mdns.TypeOPT, mdns.RcodeFormatError},
		{mdns.TypeTSIG, mdns.RcodeFormatError},
		{mdns.TypeNXNAME, mdns.RcodeFormatError},
		{mdns.TypeTKEY, mdns.RcodeNotImplemented},
		{200, mdns.RcodeNotImplemented},
		{mdns.TypeMAILA, mdns.RcodeNotImplemented},
		{mdns.TypeMAILB, mdns.RcodeNotImplemented},
		{mdns.TypeAXFR, mdns.RcodeRefused},
		{mdns.TypeIXFR, mdns.RcodeRefused},
		{mdns.TypeRRSIG, mdns.RcodeSuccess},
		{256 + 700, mdns.RcodeSuccess}, // unknown data types: NODATA
		{65280, mdns.RcodeSuccess},
		{65535, mdns.RcodeSuccess},
	} {
		m := builtin(t)
		for _, tcp := range []bool{false, true} {
			got := m.exchange(new(mdns.Msg).SetQuestion("porthole.test.", tt.typ), tcp)
			assert.Equal(t, tt.want, got.Rcode, "type %d", tt.typ)
			assert.Empty(t, got.Answer)
			if tt.want == mdns.RcodeSuccess {
				assert.Len(t, got.Ns, 1, "type %d", tt.typ)
			}
		}
	}
}

func TestChaos(t *testing.T) {
	m := builtin(t)
	ask := func(name string, typ uint16) string {
		q := new(mdns.Msg).SetQuestion(name, typ)
		q.RecursionDesired = false
		q.Question[0].Qclass = mdns.ClassCHAOS
		return text(m.exchange(q, false))
	}
	assert.Equal(t, `NOERROR aa`+"\n"+`an version.bind. 0 CH TXT "porthole 0.0.0"`, ask("version.bind.", mdns.TypeTXT))
	assert.Equal(t, `NOERROR aa`+"\n"+`an VERSION.server. 0 CH TXT "porthole 0.0.0"`, ask("VERSION.server.", mdns.TypeANY))
	assert.Equal(t, `NOERROR aa`+"\n"+`an hostname.bind. 0 CH TXT "porthole"`, ask("hostname.bind.", mdns.TypeTXT))
	assert.Equal(t, `NOERROR aa`+"\n"+`an id.server. 0 CH TXT "porthole"`, ask("id.server.", mdns.TypeTXT))
	assert.Equal(t, `NOERROR aa`, ask("id.server.", mdns.TypeA))
	assert.Equal(t, `REFUSED`, ask("authors.bind.", mdns.TypeTXT))
	assert.Equal(t, `REFUSED`, ask("porthole.test.", mdns.TypeSOA))

	c := defaultConfig()
	c.Identity = false
	m.r.opts = newOptions(c, testHost)
	assert.Equal(t, `REFUSED`, ask("version.bind.", mdns.TypeTXT))
	assert.Equal(t, `REFUSED`, ask("id.server.", mdns.TypeTXT))
}
