package portholetest_test

import (
	"context"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"porthole/demux"
	"porthole/portholetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
	_, err := h.Dial(context.Background(), "80/tcp")
	require.Error(t, err)
	h.Expect(t, demux.Closed).Exactly(1)
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
