package dhcp

import (
	"log/slog"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/stretchr/testify/require"

	"porthole/services"
	"porthole/services/servicestest"
)

// TestAnswerWhereItIsRead: leases in memory are given where the host reads, unless
// something would have to be waited for; the log hears of what is wrong all the same.
func TestAnswerWhereItIsRead(t *testing.T) {
	level, log := new(slog.LevelVar), &servicestest.Log{}
	level.Set(slog.LevelWarn)
	var pc *servicestest.Answering
	l := startLive(t, func(e *services.Env) {
		e.Host = testHost(false)
		e.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: level}))
		ranges("10.77.0.10")(e.Config.(*Config))
		pc = servicestest.NewAnswering(e.UDP[0])
		e.UDP[0] = pc
	})
	f := pc.Func(t)
	ask := func(line string) (m *dhcpv4.DHCPv4, to netip.AddrPort, done bool) {
		q, from := l.build(line)
		done = f(q, from, func(b []byte, a netip.AddrPort) bool {
			var err error
			m, err = dhcpv4.FromBytes(b)
			require.NoError(t, err)
			to = a
			return true
		})
		return m, to, done
	}
	_, _, done := ask("discover mac=1")
	require.False(t, done, "the port table has to be looked over first")
	m, _ := l.ask("discover mac=1")
	require.Equal(t, dhcpv4.MessageTypeOffer, m.MessageType())

	m, to, done := ask("request mac=1 want=.10 server=.1")
	require.True(t, done)
	require.Equal(t, dhcpv4.MessageTypeAck, m.MessageType())
	require.Equal(t, all, to.String())
	m, _, done = ask("discover mac=2")
	require.True(t, done)
	require.Nil(t, m)
	require.Contains(t, log.String(), "no free address")

	require.NotContains(t, log.String(), "access")
	level.Set(slog.LevelInfo)
	_, _, done = ask("discover mac=1")
	require.True(t, done)
	require.Contains(t, log.String(), "msg=access client=")
	require.Contains(t, log.String(), "request=DHCPDISCOVER result=DHCPOFFER")
	require.NoError(t, l.stop())
	require.True(t, pc.Ended())
}

// A lease that goes to the disk first is never given where the host reads.
func TestNoAnswerBeforeTheDisk(t *testing.T) {
	var pc *servicestest.Answering
	l := startLive(t, func(e *services.Env) {
		e.DataDir = t.TempDir()
		pc = servicestest.NewAnswering(e.UDP[0])
		e.UDP[0] = pc
	})
	l.ask("discover mac=1") // it serves
	require.False(t, pc.Set())
}
