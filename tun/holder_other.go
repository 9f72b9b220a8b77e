//go:build !linux

package tun

// Node is the device node that makes devices; this system has none.
const Node = ""

// Holder is a process that has a device open.
type Holder struct {
	PID     int
	Command string
}

// Holders knows of nobody on this system.
func Holders(name string) []Holder { return nil }
