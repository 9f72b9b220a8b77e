// Package leak fails a package's tests when they leave goroutines behind. It is for tests.
package leak

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is for goroutines that are about to end, on a machine that is busy: more than
// the 0.4 s that goleak has.
const patience = time.Minute

// Main runs the tests and then looks for goroutines; it is a TestMain's last call.
func Main(m *testing.M) {
	code := m.Run()
	for end := time.Now().Add(patience); code == 0; {
		err := goleak.Find()
		if err == nil {
			break
		}
		if time.Now().After(end) {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}
