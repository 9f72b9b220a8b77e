package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"porthole/cmd/porthole/internal/control"
)

type eventsCmd struct {
	askFlags
	Follow bool   `short:"f" help:"Go on with what comes, until Ctrl-C."`
	Cursor uint64 `placeholder:"SEQ" help:"Only what came after this event."`
}

// Help is shown under `porthole events --help`.
func (eventsCmd) Help() string {
	return "Ports bound and released, settings changed, queues that filled: nothing is told per packet. The host keeps the newest 4,096; a line says how many were missed."
}

// Run shows the log of a running host.
func (c *eventsCmd) Run(con *console) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	show := func(p control.EventPage) error { return c.show(con, p) }
	if !c.Follow {
		p, err := client.Events(context.Background(), c.Cursor)
		if err != nil {
			return err
		}
		return show(p)
	}
	ctx, stop := untilSignal()
	defer stop()
	err = client.Follow(ctx, c.Cursor, show)
	if errors.Is(err, context.Canceled) {
		return nil // Ctrl-C is how it ends
	}
	return err
}

func (c *eventsCmd) show(con *console, p control.EventPage) error {
	if p.Missed > 0 {
		line := fmt.Sprintf("(%d events missed)", p.Missed)
		if c.JSON {
			line = fmt.Sprintf(`{"missed":%d}`, p.Missed)
		}
		if _, err := fmt.Fprintln(con.out, line); err != nil {
			return err
		}
	}
	for i := range p.Events {
		e := &p.Events[i]
		if c.JSON {
			if err := json.NewEncoder(con.out).Encode(e); err != nil {
				return err
			}
			continue
		}
		if _, err := fmt.Fprintf(con.out, "%5d  %s  %v\n", e.Seq, e.At.Local().Format("15:04:05.000"), e); err != nil {
			return err
		}
	}
	return nil
}
