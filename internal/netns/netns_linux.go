// Package netns runs code in another network namespace.
package netns

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Do runs f on a thread that is in the namespace of that name (ip-netns(8)): what it
// opens stays there.
func Do(name string, f func() error) error {
	errc := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		fd, err := unix.Open("/run/netns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			err = f()
		}
		errc <- err
	}()
	return <-errc
}
