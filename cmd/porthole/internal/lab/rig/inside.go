package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"porthole/cmd/porthole/internal/lab"
	"porthole/cmd/porthole/internal/sandbox"
)

// spec is what the outer process tells the inner one.
type spec struct {
	Name    string // "" only tries
	Options lab.Options
}

// Try reports why there can be no private network here.
func Try(args ...string) error {
	payload, err := json.Marshal(spec{})
	if err != nil {
		return err
	}
	return sandbox.Try(sandbox.Options{Args: args, Payload: payload})
}

// Inside runs rig experiments in a private network each: it starts this program again
// with args, which must lead to Serve.
func Inside(args ...string) lab.Inside {
	return func(ctx context.Context, e *lab.Experiment, o lab.Options, progress func(float64)) (lab.Result, error) {
		payload, err := json.Marshal(spec{e.Name, o})
		if err != nil {
			return lab.Result{}, err
		}
		if err := ctx.Err(); err != nil {
			return lab.Result{}, err
		}
		r, w, err := os.Pipe()
		if err != nil {
			return lab.Result{}, err
		}
		defer func() { _ = r.Close() }()
		type ended struct {
			code int
			err  error
		}
		done := make(chan ended, 1)
		go func() {
			code, err := sandbox.Run(sandbox.Options{Args: args, Payload: payload, Out: w})
			_ = w.Close()
			done <- ended{code, err}
		}()
		res, err := lab.Collect(r, progress)
		end := <-done
		switch {
		case end.err != nil:
			return res, end.err
		case err == nil && end.code != 0:
			err = fmt.Errorf("the private network's first process ended with code %d", end.code)
		case errors.Is(err, lab.ErrNothing) && end.code != 0:
			err = fmt.Errorf("%s: it did not begin; `porthole doctor` says what this machine lacks", e.Name)
		}
		return res, err
	}
}

// Serve is the inner process: the first one of a private network. What the experiment
// finds goes to w; when the process ends, the kernel takes the network away and all
// that is in it.
func Serve(w io.Writer, find func(name string) (*lab.Experiment, error), version string) error {
	in, err := sandbox.Enter()
	if err != nil {
		return errors.New("lab inside: only `porthole lab run` starts this")
	}
	var s spec
	if err := json.Unmarshal(in.Payload, &s); err != nil {
		return fmt.Errorf("lab inside: payload: %w", err)
	}
	if err := in.Loopback(); err != nil || s.Name == "" {
		return err
	}
	e, err := find(s.Name)
	if err != nil {
		return err
	}
	return lab.Serve(in.Context(), w, e, s.Options, version)
}
