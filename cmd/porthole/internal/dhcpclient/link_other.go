//go:build !linux

package dhcpclient

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"
)

func openLink(name string) (Link, error) {
	return nil, fmt.Errorf("dhcp client: interface %s: packet sockets are Linux's; not on %s: %w", name, runtime.GOOS, errors.ErrUnsupported)
}

func addAddress(name string, p netip.Prefix, _ time.Duration) error {
	return fmt.Errorf("add %v to %s: not on %s: %w", p, name, runtime.GOOS, errors.ErrUnsupported)
}

func removeAddress(name string, p netip.Prefix) error {
	return fmt.Errorf("remove %v from %s: not on %s: %w", p, name, runtime.GOOS, errors.ErrUnsupported)
}
