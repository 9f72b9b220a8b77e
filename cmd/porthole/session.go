package main

import (
	"context"
	"errors"
	"fmt"

	"porthole"
	"porthole/cmd/porthole/internal/control"
	"porthole/cmd/porthole/internal/metrics"
)

// host is what a session runs: *porthole.Host, and a test's own.
type host interface {
	Run(ctx context.Context) error
	Ready() <-chan struct{}
	Reload(ctx context.Context, cfg porthole.Config) ([]string, error)
	control.Host
	metrics.Host
}

// session is a running host with its control socket. The socket answers as long
// as the host runs and is gone when stop returns.
type session struct {
	host
	from   *reloader
	cancel context.CancelFunc
	done   chan struct{} // closed when the host has ended by itself or was stopped
	err    error         // why; read after done
}

func startSession(h host, srv *control.Server, from *reloader, more ...control.Route) *session {
	ctx, cancel := context.WithCancel(context.Background())
	s := &session{host: h, from: from, cancel: cancel, done: make(chan struct{})}
	api := &control.API{Host: h, Metrics: metrics.Handler(h), Reload: s.reload, More: more}
	serving, stopServing := context.WithCancel(context.Background())
	answered := make(chan error, 1)
	go func() { answered <- srv.Serve(serving, api) }()
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

// reload applies another configuration: text, or the host's own file when it is nil.
func (s *session) reload(ctx context.Context, name string, text []byte) ([]string, error) {
	return s.from.reload(ctx, s.host, name, text)
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
