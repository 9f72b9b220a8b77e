package portholetest_test

import (
	"context"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/demux"
	"porthole/internal/leak"
	"porthole/portholetest"
)

func TestMain(m *testing.M) { leak.Main(m) }

// A test of some HTTP client of yours would look like this.
func TestHTTPClient(t *testing.T) {
	h := portholetest.New(t)
	resp, err := h.HTTP.Get(h.URL("/blob/1000"))
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Len(t, b, 1000)
	h.Expect(t, demux.ToStack).On("80/tcp").AtLeast(4)
}

func TestClosedPortIsCounted(t *testing.T) {
	h := portholetest.New(t, portholetest.Only("echo"))
	c, err := h.Dial(context.Background(), "80/udp") // over TCP a busy client may ask again
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write([]byte("x"))
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	require.Error(t, err)
	h.Expect(t, demux.Closed).Exactly(1)
	h.Expect(t, demux.Closed).On("closed").Exactly(1)
	_, err = h.Dial(context.Background(), "80/tcp")
	require.Error(t, err)
	h.Expect(t, demux.Closed).AtLeast(2)
	f := &failer{TB: t}
	h.Expect(f, demux.Closed).On("81/tcp")
	require.Contains(t, f.said, "nobody has or had")
}

// TestFailureTellsTheTimelines runs a test that fails and reads what it said.
func TestFailureTellsTheTimelines(t *testing.T) {
	const inner = "PORTHOLETEST_INNER"
	if os.Getenv(inner) != "" {
		h := portholetest.New(t, portholetest.Only("echo"))
		c, err := h.Dial(t.Context(), "7/tcp")
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Write([]byte("x"))
		require.NoError(t, err)
		_, err = c.Read(make([]byte, 1)) // it is accepted, and the timeline has it
		require.NoError(t, err)
		_, err = h.Dial(t.Context(), "80/tcp")
		t.Errorf("fails: %v", err)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), inner+"=1")
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	for _, want := range []string{`7/tcp +echo +arrived \d+ queued \d+ fates map\[to-stack:`, `7/tcp 10\.77\.0\.2:\d+ SYN admitted; established`,
		`80/tcp 10\.77\.0\.2:\d+ SYN refused closed; reset by host`, `> +SYN seq 0 win \d+ .* closed`} {
		require.Regexp(t, want, string(out))
	}
}

// failer records what an expectation says instead of failing.
type failer struct {
	testing.TB
	said string
}

func (f *failer) Helper()                        {}
func (f *failer) Logf(string, ...any)            {}
func (f *failer) Fatalf(format string, a ...any) { f.said = format }

func TestExactlyFailsOnMore(t *testing.T) {
	h := portholetest.New(t)
	resp, err := h.HTTP.Get(h.URL("/blob/1"))
	require.NoError(t, err)
	resp.Body.Close()
	f := &failer{TB: t}
	h.Expect(f, demux.ToStack).On("80/tcp").Exactly(1)
	require.NotEmpty(t, f.said)
}
