package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// A rig experiment runs in another process, the first one of a private network. It
// writes messages, one JSON object a line: how far it is, and at its end the result,
// whole or not.
type message struct {
	Progress *float64 `json:"progress,omitempty"`
	Result   *Result  `json:"result,omitempty"`
	Error    string   `json:"error,omitempty"` // with Result: why it is not whole
}

// ErrNothing is returned when the other process ended without a result.
var ErrNothing = errors.New("ended without a result")

// Serve runs e here and writes messages to w. Its error is for a w that fails, and for
// parameters; what goes wrong in the experiment is a message.
func Serve(ctx context.Context, w io.Writer, e *Experiment, o Options, version string) error {
	var mu sync.Mutex
	enc := json.NewEncoder(w)
	say := func(m message) error {
		mu.Lock()
		defer mu.Unlock()
		return enc.Encode(m)
	}
	r, err := NewRun(e, o, version)
	if err != nil {
		return err
	}
	r.progress = func(done float64) { _ = say(message{Progress: &done}) }
	res, err := do(ctx, e, r)
	m := message{Result: &res}
	if err != nil {
		m.Error = err.Error()
	}
	if err := say(m); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// Collect reads what Serve writes, to the end.
func Collect(r io.Reader, progress func(float64)) (res Result, err error) {
	d := json.NewDecoder(r)
	err = ErrNothing
	for {
		var m message
		if derr := d.Decode(&m); derr != nil {
			if derr != io.EOF {
				_, _ = io.Copy(io.Discard, r) // the writer must not wait
				err = fmt.Errorf("read result: %w", derr)
			}
			return res, err
		}
		switch {
		case m.Result != nil:
			res, err = *m.Result, nil
			if m.Error != "" {
				err = errors.New(m.Error)
			}
		case m.Progress != nil:
			progress(*m.Progress)
		}
	}
}
