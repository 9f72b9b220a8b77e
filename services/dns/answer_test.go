package dns

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"

	mdns "github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"porthole/services"
	"porthole/services/servicestest"
)

// TestAnswerWhereItIsRead: the host's own reader gets the same bytes as a client of the
// socket, allocates nothing for them, and gets none while somebody wants a line for
// each query.
func TestAnswerWhereItIsRead(t *testing.T) {
	level := new(slog.LevelVar)
	level.Set(slog.LevelWarn)
	var pc *servicestest.Answering
	r := servicestest.Start(t, Service, func(e *services.Env) {
		e.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level}))
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
		reply := func([]byte, netip.AddrPort) bool { return true }
		require.Zero(t, testing.AllocsPerRun(100, func() { f(msg, from, reply) }))

		level.Set(slog.LevelInfo)
		_, done = ask(msg)
		require.False(t, done)
		level.Set(slog.LevelWarn)
		require.False(t, f(msg, from, func([]byte, netip.AddrPort) bool { return false }), "too long for a packet")
	}
	got, done := ask([]byte("short"))
	require.True(t, done)
	require.Nil(t, got)
	got, done = ask(make([]byte, maxQuery+1))
	require.False(t, done, "too long to be looked at here")
	require.Nil(t, got)
	require.NoError(t, r.Stop())
	require.True(t, pc.Ended())
}
