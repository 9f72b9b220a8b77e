package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"porthole"
	"porthole/cmd/porthole/internal/control"
	"porthole/services"
)

type flowsCmd struct {
	askFlags
	Of     string `arg:"" optional:"" name:"port|flow" help:"Flows of one port (80/tcp), or one flow (f1a) with its ladder of segments."`
	Follow bool   `short:"f" help:"Go on with what changes, until Ctrl-C."`
	Limit  int    `default:"1000" placeholder:"N" help:"Newest so many, 1 to 10000 (1000)."`
}

// Help is shown under `porthole flows --help`.
func (flowsCmd) Help() string {
	return "One line a conversation: what its SYNs met, how long each station took, what passed. The host keeps 65,536; those not seen for longest go first."
}

// followEvery is how often a follower looks for changes.
const followEvery = 250 * time.Millisecond

// Run lists conversations, or shows one.
func (c *flowsCmd) Run(con *console) error {
	var id porthole.FlowID
	var port *services.Port
	isFlow := false
	if c.Of != "" {
		if p, err := services.ParsePort(c.Of); err == nil {
			port = &p
		} else if isFlow = id.UnmarshalText([]byte(c.Of)) == nil; !isFlow {
			return usageError{fmt.Errorf("flows %q: want a port (80/tcp) or a flow (f1a)", c.Of)}
		}
	}
	if c.Limit < 1 || c.Limit > 10000 {
		return usageError{fmt.Errorf("--limit: %d is not 1 to 10000", c.Limit)}
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	if isFlow {
		return c.one(con, client, id)
	}
	if c.Follow {
		return c.follow(con, client, port)
	}
	p, err := client.Flows(context.Background(), port, c.Limit)
	if err != nil {
		return err
	}
	return c.show(con, p, nil)
}

func (c *flowsCmd) one(con *console, client *control.Client, id porthole.FlowID) error {
	f, err := client.Flow(context.Background(), id)
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(con.out).Encode(&f)
	}
	return f.WriteLadder(con.out)
}

func (c *flowsCmd) follow(con *console, client *control.Client, port *services.Port) error {
	ctx, stop := untilSignal()
	defer stop()
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for cursor := uint64(0); ; {
		p, err := client.FlowsSince(ctx, cursor)
		if err != nil {
			return unlessDone(ctx, err)
		}
		cursor = p.Next
		if err := c.show(con, p, port); err != nil {
			return err
		}
		if len(p.Flows) > 0 {
			continue // there may be more
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// show writes a page, of one port alone when port is not nil.
func (c *flowsCmd) show(con *console, p control.FlowPage, port *services.Port) error {
	if p.Missed > 0 && !c.JSON {
		if _, err := fmt.Fprintf(con.out, "(%d changes missed)\n", p.Missed); err != nil {
			return err
		}
	}
	for i := range p.Flows {
		f := &p.Flows[i]
		if port != nil && f.Port() != port.String() {
			continue
		}
		var err error
		if c.JSON {
			err = json.NewEncoder(con.out).Encode(f)
		} else {
			_, err = fmt.Fprintf(con.out, "%-6v %s\n", f.ID, f.Line())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

type whyCmd struct {
	askFlags
	Of string `arg:"" optional:"" name:"flow|port|last" default:"last" help:"A flow (f1a), a port (80/tcp), or last: the conversation that last had something to explain."`
}

// Help is shown under `porthole why --help`.
func (whyCmd) Help() string {
	return "Plain sentences: what held it up, and which size of the queue would have been enough, found by playing the port's recorded arrivals again."
}

// Run explains.
func (c *whyCmd) Run(con *console) error {
	if c.Of != "last" {
		var id porthole.FlowID
		if _, err := services.ParsePort(c.Of); err != nil && id.UnmarshalText([]byte(c.Of)) != nil {
			return usageError{fmt.Errorf("why %q: want a flow (f1a), a port (80/tcp) or last", c.Of)}
		}
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	w, err := client.Why(context.Background(), c.Of)
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(con.out).Encode(&w)
	}
	if w.Text == "" {
		return errors.New("why: the host gave no answer")
	}
	_, err = fmt.Fprintln(con.out, w.Text)
	return err
}
