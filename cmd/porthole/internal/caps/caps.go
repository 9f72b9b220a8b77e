// Package caps asks which capabilities this process has.
package caps

// Names of the ones we ask for (linux/capability.h).
const (
	NetAdmin = 12
	SysAdmin = 21
)
