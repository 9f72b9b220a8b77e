package main

import (
	"context"
	"log/slog"
	"os"
	"time"
)

// hangup says what a SIGHUP means. To a program without a terminal it is the old
// word for "read your configuration again"; to one whose terminal has gone it is
// the end.
type hangup struct {
	log  *slog.Logger
	ttys []*os.File // that were terminals when the program began
}

func newHangup(log *slog.Logger, con *console) *hangup {
	h := &hangup{log: log}
	in, _ := con.in.(*os.File)
	for _, f := range []*os.File{in, con.out, con.err} {
		if f != nil && isTerminal(f) {
			h.ttys = append(h.ttys, f)
		}
	}
	return h
}

// real reports whether a terminal has gone: the kernel answers nothing about it then.
func (h *hangup) real() bool {
	for _, f := range h.ttys {
		if !isTerminal(f) {
			return true
		}
	}
	return false
}

// limitReload bounds a reload by signal: services end, others start and are probed.
const limitReload = time.Minute

// serve reloads at each token of again, until ctx ends.
func (h *hangup) serve(ctx context.Context, s *session, again <-chan struct{}) {
	for {
		select {
		case <-again:
			h.reload(ctx, s)
		case <-ctx.Done():
			return
		}
	}
}

func (h *hangup) reload(ctx context.Context, s *session) {
	ctx, cancel := context.WithTimeout(ctx, limitReload)
	defer cancel()
	changes, err := s.reload(ctx, "configuration", nil)
	if err != nil {
		h.log.Error("reload refused", "error", oneLine(err.Error()))
		return
	}
	h.log.Info("reloaded", "changes", changes)
}
