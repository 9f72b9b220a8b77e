package porthole_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/internal/logqueue"
	"porthole/services"
	"porthole/stack/stacktest"
	"porthole/tun"
)

// gate is a log's writer that can be held.
type gate struct {
	mu   sync.Mutex // held by whoever wants no line to be written
	text bytes.Buffer
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.text.Write(p)
}

// logged is a running host whose log goes to g at level Info. end stops it.
func logged(t *testing.T, g *gate) (h *porthole.Host, ask func(name string), end func()) {
	a, b := tun.Pipe(tun.PipeOptions{}, tun.PipeOptions{})
	h, err := porthole.New(porthole.DefaultConfig(), a, slog.New(slog.NewTextHandler(g, nil)))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	client := stacktest.New(t, b)
	end = sync.OnceFunc(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	t.Cleanup(end)
	<-h.Ready()
	r := &rig{host: h, client: client}
	c := dial(t, r, "udp", 53)
	buf := make([]byte, 512)
	ask = func(name string) {
		q, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
		require.NoError(t, err)
		_, err = c.Write(q)
		require.NoError(t, err)
		_, err = c.Read(buf)
		require.NoError(t, err)
	}
	return h, ask, end
}

// served is how many datagrams 53/udp's service had, and how many of them came to it
// through its queue: all others were answered where they were read.
func served(t *testing.T, h *porthole.Host) (all, queued uint64) {
	s, ok := h.PortStatus(services.UDP(53))
	require.True(t, ok)
	for _, n := range s.WaitCounts {
		queued += n
	}
	return s.Fates["to-service"], queued
}

// TestAnsweredWhereReadWithALine: a line for each query does not send queries through
// the queue, and all lines are there, in order, when the host has ended.
func TestAnsweredWhereReadWithALine(t *testing.T) {
	var g gate
	h, ask, end := logged(t, &g)
	const n = 500
	all, queued := served(t, h)
	for i := range n {
		ask(fmt.Sprintf("n%d.porthole.test.", i))
	}
	var allNow, queuedNow uint64
	until(t, "the last one's fate, which follows its answer", func() bool {
		allNow, queuedNow = served(t, h)
		return allNow >= all+n
	})
	require.EqualValues(t, n, allNow-all)
	require.Less(t, queuedNow-queued, uint64(n/2), "most are answered where they are read") // the service may not wait yet
	end()
	text := g.text.String()
	for i := range n {
		_, rest, ok := strings.Cut(text, fmt.Sprintf(`request="n%d.porthole.test. A" result=NXDOMAIN`, i))
		require.True(t, ok, "the line of query %d, after that of the one before", i)
		text = rest
	}
	s := h.Health()
	require.Zero(t, s.LogLost)
	require.EqualValues(t, strings.Count(g.text.String(), "\n"), s.LogLines)
}

// TestLogThatHangs: whoever writes the log may hang; answers do not wait for it, and
// what found no room is counted, and said when it goes on.
func TestLogThatHangs(t *testing.T) {
	var g gate
	h, ask, end := logged(t, &g)
	ask("first.porthole.test.")
	until(t, "an idle log", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return strings.Contains(g.text.String(), "first.porthole.test.")
	})
	before := h.Health()
	g.mu.Lock()
	const over = 100
	for range logqueue.MaxLines + over {
		ask("porthole.test.")
	}
	// The last answer is there before its line is put into the queue.
	until(t, "as many lines lost as the queue does not hold", func() bool { return h.Health().LogLost >= before.LogLost+over })
	require.LessOrEqual(t, h.Health().LogLost, before.LogLost+over+5, "and hardly more: self-tests have lines, too")
	g.mu.Unlock()
	end()
	last := h.Health()
	require.Contains(t, g.text.String(), fmt.Sprintf(`level=WARN msg="log lines lost" lines=%d`, last.LogLost-before.LogLost))
	require.EqualValues(t, strings.Count(g.text.String(), "\n"), last.LogLines+1)
}
