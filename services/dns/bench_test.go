package dns

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"porthole/services"
	"porthole/services/servicestest"
)

var benchQueries = []struct {
	name string
	q    string
	typ  uint16
	edns bool
}{
	{"A", "www.porthole.test.", mdns.TypeA, false},
	{"A-edns", "www.porthole.test.", mdns.TypeA, true},
	{"MX", "porthole.test.", mdns.TypeMX, true},
	{"SRV", "_http._tcp.porthole.test.", mdns.TypeSRV, true},
	{"NXDOMAIN", "nope.porthole.test.", mdns.TypeA, true},
	{"wildcard", "a.b.wild.porthole.test.", mdns.TypeA, true},
	{"chain9", "chain1.porthole.test.", mdns.TypeA, true},
	{"referral", "x.sub.porthole.test.", mdns.TypeA, true},
	{"PTR6", "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.7.7.d.f.ip6.arpa.", mdns.TypePTR, true},
	{"REFUSED", "example.com.", mdns.TypeA, true},
}

// BenchmarkRespond is the answer path alone, query bytes to reply bytes.
func BenchmarkRespond(b *testing.B) {
	m := builtin(b)
	for _, q := range benchQueries {
		msg := new(mdns.Msg).SetQuestion(q.q, q.typ)
		if q.edns {
			msg.SetEdns0(1232, false)
		}
		in, err := msg.Pack()
		require.NoError(b, err)
		b.Run(q.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if m.r.respond(m.zs, in, false) == nil {
					b.Fatal("no reply")
				}
			}
		})
	}
}

// BenchmarkMiekg is what the library's own message costs, for comparison: unpack
// the query, make a reply of one record that is at hand, pack it.
func BenchmarkMiekg(b *testing.B) {
	in, err := new(mdns.Msg).SetQuestion("www.porthole.test.", mdns.TypeA).Pack()
	require.NoError(b, err)
	rec, err := mdns.NewRR("www.porthole.test. 60 IN A 10.77.0.1")
	require.NoError(b, err)
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		q, r := new(mdns.Msg), new(mdns.Msg)
		if err := q.Unpack(in); err != nil {
			b.Fatal(err)
		}
		r.SetReply(q)
		r.Authoritative, r.Compress = true, true
		r.Answer = append(r.Answer, rec)
		if _, err := r.PackBuffer(buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLoopback is the service behind a kernel socket, one query at a time; the
// second is miekg/dns's own server with the reply of BenchmarkMiekg.
func BenchmarkLoopback(b *testing.B) {
	in, err := new(mdns.Msg).SetQuestion("www.porthole.test.", mdns.TypeA).Pack()
	require.NoError(b, err)
	ask := func(b *testing.B, addr string) {
		c, err := net.Dial("udp4", addr)
		require.NoError(b, err)
		defer c.Close()
		buf := make([]byte, 4096)
		b.ReportAllocs()
		for b.Loop() {
			c.Write(in)
			if _, err := c.Read(buf); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("porthole", func(b *testing.B) {
		rig := servicestest.Start(b, Service, func(e *services.Env) { e.Log = slog.New(slog.DiscardHandler) })
		ask(b, rig.Addr[services.UDP(53)].String())
	})
	b.Run("porthole-access-lines", func(b *testing.B) {
		rig := servicestest.Start(b, Service, nil)
		ask(b, rig.Addr[services.UDP(53)].String())
	})
	b.Run("miekg", func(b *testing.B) {
		pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
		require.NoError(b, err)
		rec, err := mdns.NewRR("www.porthole.test. 60 IN A 10.77.0.1")
		require.NoError(b, err)
		up := make(chan struct{})
		srv := &mdns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(up) }, Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
			r := new(mdns.Msg).SetReply(q)
			r.Authoritative, r.Compress, r.Answer = true, true, []mdns.RR{rec}
			w.WriteMsg(r)
		})}
		done := make(chan error, 1)
		go func() { done <- srv.ActivateAndServe() }()
		<-up
		ask(b, pc.LocalAddr().String())
		require.NoError(b, srv.Shutdown())
		require.NoError(b, <-done)
	})
}

// BenchmarkAccess is what a query's line costs whoever answers it: the record, into a
// handler that does nothing.
func BenchmarkAccess(b *testing.B) {
	m := builtin(b)
	in, err := new(mdns.Msg).SetQuestion("www.porthole.test.", mdns.TypeA).Pack()
	require.NoError(b, err)
	require.NotNil(b, m.r.respond(m.zs, in, false))
	s := &server{env: &services.Env{Log: slog.New(nothing{}), Now: time.Now}}
	from := netip.MustParseAddrPort("10.77.0.2:5000")
	b.ReportAllocs()
	for b.Loop() {
		logged, start := s.begin()
		if !logged {
			b.Fatal("no line")
		}
		s.access(from, m.r, 50, s.env.Now().Sub(start), "udp")
	}
}

// nothing is a handler at every level.
type nothing struct{ slog.Handler }

func (nothing) Enabled(context.Context, slog.Level) bool  { return true }
func (nothing) Handle(context.Context, slog.Record) error { return nil }
