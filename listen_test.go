package porthole_test

import (
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/portholetest"
	"porthole/services"
)

// TestListen: a program that embeds a host has ports of its own on it, whose queues
// are as any other's.
func TestListen(t *testing.T) {
	h := portholetest.New(t, portholetest.Only())
	ln, err := h.Listen(7000, "own")
	require.NoError(t, err)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello")
			_ = c.Close()
		}
	}()
	c, err := h.Dial(t.Context(), "7000/tcp")
	require.NoError(t, err)
	b, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "hello", string(b))
	require.NoError(t, c.Close())

	two := 2
	require.NoError(t, h.Set(services.TCP(7000), porthole.Settings{Backlog: &two}))
	s, ok := h.PortStatus(services.TCP(7000))
	require.True(t, ok)
	require.Equal(t, "own", s.Service)
	require.Equal(t, 2, s.AcceptLimit)

	pc, err := h.ListenPacket(7000, "own")
	require.NoError(t, err)
	_, err = h.Listen(7000, "other")
	require.EqualError(t, err, "bind 7000/tcp: already in use by own")
	require.NoError(t, pc.Close())
	require.NoError(t, ln.Close())
	_, err = h.Dial(t.Context(), "7000/tcp")
	require.Error(t, err)
}
