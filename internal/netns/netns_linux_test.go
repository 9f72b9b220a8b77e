package netns

import (
	"errors"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The process stays where it is: whoever looks for a namespace's processes to end them
// would find it there.
func TestProcessStays(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for range 2000 {
		require.NoError(t, at("/proc/self/ns/net", func() error {
			if unix.Gettid() == unix.Getpid() {
				return errors.New("the first thread has moved")
			}
			return nil
		}))
	}
}
