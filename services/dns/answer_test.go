package dns

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"porthole/services"
	"porthole/services/servicestest"
)

// TestAnswerWhereItIsRead: the host's own reader gets the same bytes as a client of the
// socket, allocates nothing for them, and logs a line for each where somebody wants one.
func TestAnswerWhereItIsRead(t *testing.T) {
	level, log := new(slog.LevelVar), new(servicestest.Log)
	level.Set(slog.LevelWarn)
	var pc *servicestest.Answering
	r := servicestest.Start(t, Service, func(e *services.Env) {
		e.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: level}))
		pc = servicestest.NewAnswering(e.UDP[0])
		e.UDP[0] = pc
	})
	f := pc.Func(t)
	from := netip.MustParseAddrPort("10.77.0.2:5000")
	ask := func(msg []byte) (reply []byte, done bool) {
		done = f(msg, from, func(b []byte, to netip.AddrPort) bool {
			require.Equal(t, from, to)
			reply = append([]byte(nil), b...)
			return true
		})
		return reply, done
	}
	c, err := net.Dial("udp", r.Addr[services.UDP(53)].String())
	require.NoError(t, err)
	defer c.Close()
	for _, q := range []*mdns.Msg{
		new(mdns.Msg).SetQuestion("porthole.test.", mdns.TypeSOA),
		new(mdns.Msg).SetQuestion("no.porthole.test.", mdns.TypeAAAA),
		new(mdns.Msg).SetQuestion("example.org.", mdns.TypeA),
		new(mdns.Msg).SetEdns0(4096, true).SetQuestion("ns.porthole.test.", mdns.TypeA),
	} {
		msg, err := q.Pack()
		require.NoError(t, err)
		got, done := ask(msg)
		require.True(t, done)
		_, err = c.Write(msg)
		require.NoError(t, err)
		b := make([]byte, 2000)
		n, err := c.Read(b)
		require.NoError(t, err)
		require.Equal(t, b[:n], got, q.Question)
		line := fmt.Sprintf("msg=access client=%v request=%q result=%s took=", from,
			q.Question[0].Name+" "+mdns.Type(q.Question[0].Qtype).String(), mdns.RcodeToString[int(got[3]&15)])
		reply := func([]byte, netip.AddrPort) bool { return true }
		require.Zero(t, testing.AllocsPerRun(100, func() { f(msg, from, reply) }))

		require.NotContains(t, log.String(), line)
		level.Set(slog.LevelInfo)
		require.False(t, f(msg, from, func([]byte, netip.AddrPort) bool { return false }), "too long for a packet")
		require.NotContains(t, log.String(), line, "who answers it logs it")
		again, done := ask(msg)
		require.True(t, done)
		require.Equal(t, got, again)
		require.Equal(t, 1, strings.Count(log.String(), line), line)
		level.Set(slog.LevelWarn)
	}
	level.Set(slog.LevelDebug)
	got, done := ask([]byte("short"))
	require.True(t, log.Has("level=DEBUG msg=\"dropped what is no query\" client=10.77.0.2:5000 bytes=5 dropped=1"))
	require.True(t, done)
	require.Nil(t, got)
	got, done = ask(make([]byte, maxQuery+1))
	require.False(t, done, "too long to be looked at here")
	require.Nil(t, got)
	require.NoError(t, r.Stop())
	require.True(t, pc.Ended())
}
