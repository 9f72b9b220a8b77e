// Package netns runs code in another network namespace.
package netns

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Do runs f on a thread that is in the namespace of that name (ip-netns(8)): what it
// opens stays there.
func Do(name string, f func() error) error { return at("/run/netns/"+name, f) }

func at(path string, f func() error) error {
	errc := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread never ends: it would stay in there, and the whole process
			// count as one of the namespace's. Held here, it is not the next one's.
			err := at(path, f)
			runtime.UnlockOSThread()
			errc <- err
			return
		}
		// Never unlocked: the thread ends with the goroutine.
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
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
