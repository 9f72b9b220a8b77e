package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"porthole"
	"porthole/cmd/porthole/internal/lab"
)

// A run that writes a report keeps a capture of its host, with what became of every
// packet: the first of them, since a flood would fill a disk.
const (
	captureFirst = 50_000 // records
	captureBytes = 128    // of each packet
)

// captures numbers the captures of one process: an experiment may have several hosts.
var captures struct {
	sync.Mutex
	n int
}

// record begins the capture of a host, where the run keeps files. stop completes it.
func record(r *lab.Run, h *porthole.Host) (stop func() error, err error) {
	stop = func() error { return nil }
	if !r.Keeps() {
		return stop, nil
	}
	captures.Lock()
	captures.n++
	name := "capture.pcapng"
	if captures.n > 1 {
		name = fmt.Sprintf("capture-%d.pcapng", captures.n)
	}
	captures.Unlock()
	err = r.File(name, func(path string) error {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			s, err := h.Capture(ctx, f, porthole.CaptureOptions{Count: captureFirst, Snaplen: captureBytes})
			if s.Written >= captureFirst {
				r.Note("%s holds the first %d packets", name, captureFirst)
			}
			done <- errors.Join(err, f.Close())
		}()
		stop = sync.OnceValue(func() error {
			cancel()
			return <-done
		})
		return nil
	})
	return stop, err
}
