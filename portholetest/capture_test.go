package portholetest_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/gopacket/gopacket/pcapgo"
	"github.com/stretchr/testify/require"

	"porthole/portholetest"
)

// outcome is a test that fails, or does not, and whose cleanup is called by another.
type outcome struct {
	testing.TB
	failed  bool
	said    string
	cleanup func()
}

func (o *outcome) Helper()                      {}
func (o *outcome) Failed() bool                 { return o.failed }
func (o *outcome) Cleanup(f func())             { o.cleanup = f }
func (o *outcome) Logf(format string, _ ...any) { o.said = format }

// TestCaptureOnFailure: the packets are there when the test failed, and only then.
func TestCaptureOnFailure(t *testing.T) {
	for name, failed := range map[string]bool{"failed": true, "passed": false} {
		t.Run(name, func(t *testing.T) {
			h := portholetest.New(t)
			o := &outcome{TB: t, failed: failed}
			file := filepath.Join(t.TempDir(), "x.pcapng")
			h.CaptureOnFailure(o, file)
			resp, err := h.HTTP.Get(h.URL("/blob/1"))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			o.cleanup()
			if !failed {
				require.NoFileExists(t, file)
				return
			}
			require.NotEmpty(t, o.said)
			f, err := os.Open(file)
			require.NoError(t, err)
			defer f.Close()
			r, err := pcapgo.NewNgReader(f, pcapgo.DefaultNgReaderOptions)
			require.NoError(t, err)
			_, _, err = r.ReadPacketData()
			require.NoError(t, err)
		})
	}
}
