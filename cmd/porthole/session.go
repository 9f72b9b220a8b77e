package main

import (
	"context"
	"errors"
	"fmt"

	"porthole/cmd/porthole/internal/control"
)

// host is what a session runs: *porthole.Host, and a test's own.
type host interface {
	Run(ctx context.Context) error
	Ready() <-chan struct{}
	control.Source
}

// session is a running host with its control socket. The socket answers as long
// as the host runs and is gone when stop returns.
type session struct {
	host
	cancel context.CancelFunc
	done   chan struct{} // closed when the host has ended by itself or was stopped
	err    error         // why; read after done
}

func startSession(h host, srv *control.Server) *session {
	ctx, cancel := context.WithCancel(context.Background())
	s := &session{host: h, cancel: cancel, done: make(chan struct{})}
	serving, stopServing := context.WithCancel(context.Background())
	answered := make(chan error, 1)
	go func() { answered <- srv.Serve(serving, h) }()
	go func() {
		defer close(s.done)
		err := h.Run(ctx)
		if err != nil {
			err = fmt.Errorf("host: %w", err)
		} else if ctx.Err() == nil {
			err = errors.New("host: ended by itself")
		}
		stopServing()
		s.err = errors.Join(err, <-answered)
	}()
	return s
}

// ready waits until every service was probed. It returns early when the host or ctx ends.
func (s *session) ready(ctx context.Context) error {
	select {
	case <-s.Ready():
		return nil
	case <-s.done:
		return s.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stop ends the host and waits for it.
func (s *session) stop() error {
	s.cancel()
	<-s.done
	return s.err
}
