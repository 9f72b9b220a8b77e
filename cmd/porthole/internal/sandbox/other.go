//go:build !linux

package sandbox

import (
	"context"
	"errors"
)

// ErrSystem is returned on every system but Linux.
var ErrSystem = errors.New("network namespaces exist on Linux only; run it there, or use `porthole up`")

// Run needs Linux.
func Run(Options) (int, error) { return 1, ErrSystem }

// Inside needs Linux.
type Inside struct{ Payload []byte }

// Enter needs Linux.
func Enter() (*Inside, error) { return nil, ErrSystem }

// Context needs Linux.
func (*Inside) Context() context.Context { return context.Background() }

// Loopback needs Linux.
func (*Inside) Loopback() error { return ErrSystem }

// Files needs Linux.
func (*Inside) Files(Resolver) ([]string, error) { return nil, ErrSystem }

// Exec needs Linux.
func (*Inside) Exec(string, []string, []string) (int, error) { return 1, ErrSystem }

// Kill needs Linux.
func (*Inside) Kill() {}

// Try reports ErrSystem.
func Try(Options) error { return ErrSystem }
