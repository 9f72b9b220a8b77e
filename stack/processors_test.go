package stack

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Netstack keeps its TCP goroutines where keepProcessors looks for them; those that it
// takes away end, and the rest end with the protocol.
func TestKeepProcessors(t *testing.T) {
	s := netstack.New(netstack.Options{})
	defer s.Destroy()
	before := tcpGoroutines()
	p := tcp.NewProtocol(s)
	require.True(t, keepProcessors(p, 1))
	until := func(n int) {
		t.Helper()
		for end := time.Now().Add(patience); tcpGoroutines() != n; runtime.Gosched() {
			require.True(t, time.Now().Before(end), "%d goroutines of netstack's TCP, want %d", tcpGoroutines(), n)
		}
	}
	until(before + 1)
	p.Close()
	p.Wait() // of those that were taken away, too
	until(before)
}

func tcpGoroutines() int {
	b := make([]byte, 1<<20)
	return strings.Count(string(b[:runtime.Stack(b, true)]), "tcp.(*processor).start(")
}
