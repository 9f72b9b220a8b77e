// Package pause is time.Sleep that a context ends.
package pause

import (
	"context"
	"time"
)

// For waits for d, and reports whether it did: false says that ctx ended first.
func For(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
