package demux

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/demux/packet"
)

// TestKnocks: what comes for ports that nobody has is counted port by port, and summed
// up with those that most came for first.
func TestKnocks(t *testing.T) {
	r := newRig(Options{})
	require.Equal(t, Knocks{}, r.t.Knocks(5))
	require.NoError(t, r.t.Bind(UDPPort(53), Config{Socket: true}))
	knock := func(n int, f []byte) {
		for range n {
			r.send(f)
		}
	}
	knock(9, udp4(4000, 53))
	knock(2, udp4(4000, 65535))
	knock(4, tcp4(4000, 65535, packet.SYN))
	knock(1, tcp4(4000, 1, packet.SYN))
	knock(4, tcp4(4000, 23, packet.ACK))
	knock(3, tcp4(4000, 4096, packet.SYN))
	most := []Knock{{TCPPort(23), 4}, {TCPPort(65535), 4}, {TCPPort(4096), 3}, {UDPPort(65535), 2}, {TCPPort(1), 1}}
	for n := range 7 {
		s := r.t.Knocks(n)
		require.Equal(t, Knocks{5, 14, s.Most}, s)
		require.Equal(t, most[:min(n, 5)], append([]Knock{}, s.Most...), "%d", n)
	}
	require.NoError(t, r.t.Bind(TCPPort(23), Config{}))
	knock(1, tcp4(4000, 23, packet.SYN))
	require.EqualValues(t, 4, r.t.Port(TCPPort(23)).Knocked)
	require.EqualValues(t, 14, r.t.Knocks(0).Packets)
	r.law(t)
}

// TestKnocked: the log names who asks for a port that nobody has, once until nobody has
// asked for a minute; what is left of a connection asks for nothing.
func TestKnocked(t *testing.T) {
	c := &clock{}
	r := newRig(Options{Now: c.now})
	var cursor uint64
	said := func() (lines []string) {
		events, next, missed := r.t.Log().Since(nil, cursor)
		require.Zero(t, missed)
		for _, e := range events {
			if e.Type == Knocked {
				lines = append(lines, fmt.Sprintf("%v %v %s", e.Port, e.Type, e.Who))
			}
		}
		cursor = next
		return lines
	}
	for port := range uint16(2000) {
		r.send(tcp4(4000, 1+port, packet.ACK), tcp4(4000, 1+port, packet.RST), tcp4(4000, 1+port, packet.SYN|packet.ACK))
	}
	require.Empty(t, said())
	for port := range uint16(65535) {
		c.ns += int64(time.Millisecond)
		r.send(tcp4(4000, 1+port, packet.SYN))
	}
	require.Equal(t, []string{"1/tcp knocked 10.77.0.2"}, said())
	c.ns += quiet - 1
	r.send(udp4(4000, 161))
	require.Empty(t, said())
	c.ns += quiet
	r.send(udp4(4000, 161))
	require.Equal(t, []string{"161/udp knocked 10.77.0.2"}, said())
}
