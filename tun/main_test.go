package tun

import (
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/internal/leak"
)

// childEnv makes the test binary run child instead of the tests.
const childEnv = "PORTHOLE_TUN_CHILD"

func TestMain(m *testing.M) {
	if what := os.Getenv(childEnv); what != "" {
		child(what)
		return
	}
	leak.Main(m)
}

// patience is for what comes at once unless something is broken.
const patience = time.Minute

var (
	machine4 = netip.MustParsePrefix("10.77.0.2/24")
	machine6 = netip.MustParsePrefix("fd77::2/64")
)

// batch is the buffers of a reader, fresh for each Read.
func batch(n int) ([]Frame, []byte) {
	frames := make([]Frame, n)
	for i := range frames {
		frames[i].Head = make([]byte, HeadSize)
	}
	return frames, make([]byte, TailSize)
}

// got is one frame as it was read, in one piece.
type got struct {
	b []byte
	Offload
}

// read takes one batch, or fails the test when none comes.
func read(t testing.TB, d Device, queue, most int) []got {
	t.Helper()
	frames, tail := batch(most)
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := d.Read(queue, frames, tail)
		done <- result{n, err}
	}()
	select {
	case r := <-done:
		require.NoError(t, r.err)
		require.Positive(t, r.n)
		out := make([]got, r.n)
		for i, f := range frames[:r.n] {
			out[i] = got{append(append([]byte(nil), f.Head...), f.Tail...), f.Offload}
		}
		return out
	case <-time.After(patience):
		_ = d.Close()
		require.Fail(t, "no frame came")
		return nil
	}
}

func out(b []byte) []Out { return []Out{{Pieces: [][]byte{b}}} }

// pattern is n bytes that tell which frame they are of.
func pattern(id, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(id*7 + i)
	}
	return b
}

func ExampleError() {
	fmt.Println(&Error{Op: "open device ph0", Cause: "making an interface needs CAP_NET_ADMIN", Next: "run as root"})
	// Output: open device ph0: making an interface needs CAP_NET_ADMIN; run as root
}
