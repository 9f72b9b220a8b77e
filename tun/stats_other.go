//go:build !linux

package tun

import (
	"errors"
	"fmt"
)

// LinkStats is known on Linux only.
func LinkStats(name string) (Stats, error) {
	return Stats{}, fmt.Errorf("counters of %s: %w", name, errors.ErrUnsupported)
}
