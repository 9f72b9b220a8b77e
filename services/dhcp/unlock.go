//go:build linux || darwin || freebsd

package dhcp

import (
	"os"
	"syscall"
)

// unlock gives the lock on f back. Closing f is not enough: a mapping of it, which
// nobody can undo any more, keeps the lock.
func unlock(f *os.File) { syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }
