package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"porthole/cmd/porthole/internal/control"
)

// looks asks for a list and shows it; with again once more each interval, until Ctrl-C:
// over the last one on a terminal, below it with a blank line elsewhere. JSON is lines
// alone. look asks, and gives what writes the answer.
func looks(con *console, ask *askFlags, again bool, interval time.Duration, look func(context.Context, *control.Client) (func(io.Writer) error, error)) error {
	if interval < 10*time.Millisecond || interval > time.Hour {
		return usageError{fmt.Errorf("--interval: %v is not 10ms to 1h", interval)}
	}
	client, err := ask.client()
	if err != nil {
		return err
	}
	ctx, stop := untilSignal()
	defer stop()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	scr := newScreen(con)
	for {
		write, err := look(ctx, client)
		if err != nil {
			return unlessDone(ctx, err)
		}
		if again && !ask.JSON && scr.tty != nil {
			scr.show(func(w io.Writer) { _ = write(w) })
		} else if err := write(con.out); err != nil {
			return err
		}
		if !again {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if scr.tty == nil && !ask.JSON {
			fmt.Fprintln(con.out)
		}
	}
}
