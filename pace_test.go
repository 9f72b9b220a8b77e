package porthole_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/tun"
)

// TestPaceOfEveryService: each port of each service can be slowed down and held, TCP
// and UDP alike, without the service's help; what came meanwhile waits, and is taken
// when it is let go.
func TestPaceOfEveryService(t *testing.T) {
	r := newRig(t, tun.PipeOptions{}, nil)
	waits := func(p string) (n uint64) {
		for _, c := range status(t, r.host, p).WaitCounts {
			n += c
		}
		return n
	}
	for _, s := range r.host.Ports() {
		if !s.Declared {
			continue
		}
		p := s.Port.String()
		t.Run(p, func(t *testing.T) {
			come := func() {
				c := dial(t, r, s.Port.Proto, s.Port.Number)
				if s.Port.Proto == "udp" {
					_, err := c.Write([]byte("?"))
					require.NoError(t, err)
				}
			}
			waiting := func() int {
				if s := status(t, r.host, p); s.Port.Proto == "udp" {
					return s.Queued
				} else {
					return s.Accept
				}
			}
			if s.Port.Proto == "udp" { // discard's self-test does not wait until it is read
				until(t, "the self-test to be taken", func() bool { return waits(p) == status(t, r.host, p).Arrived })
			}
			for _, text := range []string{"fixed(20ms)", "exp(1ms)", "20ms"} {
				before := waits(p)
				set(t, r.host, p, "service-delay="+text)
				come() // for the take under way
				until(t, "the take under way", func() bool { return waits(p) == before+1 })
				come()
				until(t, "a take", func() bool { return waits(p) == before+2 })
			}
			set(t, r.host, p, "service-delay=0 accept=never")
			before := waits(p)
			come()
			come()
			until(t, "both to wait", func() bool { return waiting() == 2 && waits(p) == before })
			require.Equal(t, "held", status(t, r.host, p).State)
			require.NoError(t, r.host.Reset(s.Port))
			until(t, "all to be taken", func() bool { return waiting() == 0 && waits(p) == before+2 })
			require.Equal(t, porthole.Settings{}.String(), status(t, r.host, p).Changed)
			require.Equal(t, "answering", status(t, r.host, p).State)
		})
	}
}
