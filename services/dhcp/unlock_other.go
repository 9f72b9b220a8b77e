//go:build !linux && !darwin && !freebsd

package dhcp

import "os"

// unlock has no way here: the lock ends with the process.
func unlock(*os.File) {}
