package dns

import (
	"slices"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// naive answers as RFC 1034, section 4.3.2 and RFC 4592 are written: over a list of
// records, matching label by label from the apex down, with text names.
type naive struct {
	apex string
	rrs  []mdns.RR
}

func (n naive) exists(name string) bool {
	return slices.ContainsFunc(n.rrs, func(r mdns.RR) bool { return mdns.IsSubDomain(name, strings.ToLower(r.Header().Name)) })
}

func (n naive) at(name string, typ uint16) (out []string) {
	for _, r := range n.rrs {
		if strings.EqualFold(r.Header().Name, name) && (r.Header().Rrtype == typ || typ == mdns.TypeANY) {
			out = append(out, r.String())
		}
	}
	return out
}

// result is what the model compares: rcode, AA, and the sets of each section.
type result struct {
	rcode           int
	aa              bool
	answer, nsNames []string
}

// lookup also says how many aliases it followed: it gives up after maxAliases.
func (n naive) lookup(qname string, qtype uint16) (res result, aliases int) {
	res.aa = true
	seen := map[string]bool{}
	for ; ; aliases++ {
		if seen[qname] || aliases == maxAliases {
			return res, aliases
		}
		seen[qname] = true
		if !mdns.IsSubDomain(n.apex, qname) {
			return res, aliases
		}
		// Down from the apex: a delegation on the way ends it (for DS: above the name itself).
		labels := mdns.SplitDomainName(qname)
		depth := len(labels) - mdns.CountLabel(n.apex)
		encloser, moved := n.apex, false
		for i := depth - 1; i >= 0; i-- {
			name := strings.Join(labels[i:], ".") + "."
			if d := n.at(encloser, mdns.TypeDNAME); len(d) > 0 {
				break
			}
			if !n.exists(name) {
				break
			}
			encloser = name
			if len(n.at(name, mdns.TypeNS)) > 0 && (name != qname || qtype != mdns.TypeDS) {
				res.aa = len(res.answer) > 0
				res.nsNames = n.at(name, mdns.TypeNS)
				return res, aliases
			}
		}
		if d := n.at(encloser, mdns.TypeDNAME); len(d) > 0 && encloser != qname {
			rr, _ := mdns.NewRR(d[0])
			if !slices.Contains(res.answer, d[0]) {
				res.answer = append(res.answer, d[0])
			}
			to := strings.TrimSuffix(qname, encloser) + rr.(*mdns.DNAME).Target
			c := &mdns.CNAME{Hdr: mdns.RR_Header{Name: qname, Rrtype: mdns.TypeCNAME, Class: 1, Ttl: rr.Header().Ttl}, Target: to}
			res.answer = append(res.answer, c.String())
			if qtype == mdns.TypeCNAME || qtype == mdns.TypeANY {
				return res, aliases
			}
			qname, moved = to, true
		}
		if moved {
			continue
		}
		source := qname
		if encloser != qname {
			if source = "*." + encloser; !n.exists(source) {
				res.rcode = mdns.RcodeNameError
				res.nsNames = []string{"soa"}
				return res, aliases
			}
		}
		rename := func(rs []string) (out []string) {
			for _, r := range rs {
				rr, _ := mdns.NewRR(r)
				rr.Header().Name = qname
				out = append(out, rr.String())
			}
			return out
		}
		if got := n.at(source, qtype); len(got) > 0 {
			res.answer = append(res.answer, rename(got)...)
			return res, aliases
		}
		c := n.at(source, mdns.TypeCNAME)
		if len(c) == 0 {
			res.nsNames = []string{"soa"}
			return res, aliases
		}
		res.answer = append(res.answer, rename(c)...)
		rr, _ := mdns.NewRR(c[0])
		qname = strings.ToLower(rr.(*mdns.CNAME).Target)
	}
}

// TestModel: zones made at random of few labels, so that names, delegations,
// wildcards and aliases meet often; every answer equals the naive one.
func TestModel(t *testing.T) {
	label := rapid.SampledFrom([]string{"a", "b", "c", "*"})
	under := rapid.Custom(func(t *rapid.T) string {
		ls := rapid.SliceOfN(label, 1, 4).Draw(t, "labels")
		return strings.Join(ls, ".") + ".ex."
	})
	target := rapid.OneOf(under, rapid.SampledFrom([]string{"ex.", "out.side."}))
	types := []uint16{mdns.TypeA, mdns.TypeNS, mdns.TypeCNAME, mdns.TypeTXT, mdns.TypeDS, mdns.TypeANY, mdns.TypeDNAME}
	rapid.Check(t, func(rt *rapid.T) {
		n := naive{apex: "ex."}
		text := []string{"ex. 9 IN SOA ns.ex. h.ex. 1 2 3 4 5", "ex. 9 IN NS ns.out."}
		for range rapid.IntRange(1, 12).Draw(rt, "records") {
			owner := under.Draw(rt, "owner")
			switch rapid.SampledFrom([]string{"A", "A", "TXT", "CNAME", "CNAME", "NS", "DS", "DNAME"}).Draw(rt, "type") {
			case "A":
				text = append(text, owner+" 9 IN A 192.0.2.1")
			case "TXT":
				text = append(text, owner+` 9 IN TXT "x"`)
			case "CNAME":
				text = append(text, owner+" 9 IN CNAME "+target.Draw(rt, "target"))
			case "NS":
				text = append(text, owner+" 9 IN NS "+target.Draw(rt, "target"))
			case "DS":
				text = append(text, owner+" 9 IN DS 1 8 2 00")
			case "DNAME":
				text = append(text, owner+" 9 IN DNAME "+target.Draw(rt, "target"))
			}
		}
		// Leave out what a zone may not hold, as the zone itself judges it.
		var z *zone
		for i, line := range text {
			rr, err := mdns.NewRR(line)
			require.NoError(rt, err)
			if slices.ContainsFunc(n.rrs, func(r mdns.RR) bool { return mdns.IsDuplicate(r, rr) }) {
				continue
			}
			with := append(slices.Clone(n.rrs), rr)
			made, err := newZone("ex.", with)
			if err != nil && i >= 2 {
				continue
			}
			z, n.rrs = made, with
		}
		m := &memory{t: t, zs: newZoneSet(), r: &responder{opts: newOptions(defaultConfig(), testHost)}}
		m.zs.add(z)
		for range 20 {
			qname := under.Draw(rt, "qname")
			qtype := rapid.SampledFrom(types).Draw(rt, "qtype")
			want, aliases := n.lookup(qname, qtype)
			if aliases == maxAliases {
				continue
			}
			in, err := new(mdns.Msg).SetQuestion(qname, qtype).Pack()
			require.NoError(rt, err)
			reply := new(mdns.Msg)
			require.NoError(rt, reply.Unpack(m.r.respond(m.zs, in, true)))
			got := result{rcode: reply.Rcode, aa: reply.Authoritative}
			for _, r := range reply.Answer {
				got.answer = append(got.answer, r.String())
			}
			for _, r := range reply.Ns {
				if s := r.String(); r.Header().Rrtype == mdns.TypeSOA {
					got.nsNames = append(got.nsNames, "soa")
				} else {
					got.nsNames = append(got.nsNames, s)
				}
			}
			for _, l := range [][]string{want.answer, want.nsNames, got.answer, got.nsNames} {
				slices.Sort(l)
			}
			require.Equal(rt, want, got, "%s %s of\n%v", qname, mdns.Type(qtype), text)
		}
	})
}
