//go:build !linux && !darwin

package tun

import (
	"errors"
	"runtime"
)

// Open has no device to open on this system; Pipe works everywhere. It returns an
// *Error with ErrNoDevice.
func Open(o Options) (Device, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	return nil, &Error{Op: o.op(), Cause: "there is no device for " + runtime.GOOS,
		Next: "use Linux or macOS, or the host in memory", Err: because(ErrNoDevice, errors.ErrUnsupported)}
}
