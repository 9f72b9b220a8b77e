package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"porthole"
	"porthole/cmd/porthole/internal/control"
	"porthole/services"
)

type portsCmd struct {
	askFlags
	Ports    []string      `arg:"" optional:"" name:"port" help:"Only these, such as 80/tcp."`
	Watch    bool          `short:"w" help:"Again each interval, until Ctrl-C."`
	Interval time.Duration `default:"1s" placeholder:"TIME" help:"Between two looks (1s)."`
}

// Help is shown under `porthole ports --help`.
func (portsCmd) Help() string {
	return "QUEUE, SYN and ACCEPT are the port's queues: how many wait, and of how many (a backlog of N lets one more wait). PEAK is the most at once. " +
		"Where a service reads slower than its clients send: RECEIVED is the fullest receive buffer among the port's connections, of what it may hold, WINDOW the smallest that any was offered last, CLOSED how often and how long windows were closed."
}

// Run asks a running host for its port table.
func (c *portsCmd) Run(con *console) error {
	if c.Interval < 10*time.Millisecond || c.Interval > time.Hour {
		return usageError{fmt.Errorf("--interval: %v is not 10ms to 1h", c.Interval)}
	}
	var only []services.Port
	for _, s := range c.Ports {
		p, err := portArg(s)
		if err != nil {
			return err
		}
		only = append(only, p)
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	ctx, stop := untilSignal()
	defer stop()
	tick := time.NewTicker(c.Interval)
	defer tick.Stop()
	scr := newScreen(con)
	for {
		ports, err := askPorts(ctx, client, only)
		if err != nil {
			return unlessDone(ctx, err)
		}
		switch {
		case c.JSON:
			err = lines(con.out, ports)
		case c.Watch && scr.tty != nil:
			scr.show(func(w io.Writer) { _ = portTable(w, ports) })
		default:
			err = portTable(con.out, ports)
		}
		if err != nil || !c.Watch {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if scr.tty == nil && !c.JSON {
			fmt.Fprintln(con.out)
		}
	}
}

// askPorts gives all ports, or those that were named: of these each must be there.
func askPorts(ctx context.Context, client *control.Client, only []services.Port) ([]porthole.PortStatus, error) {
	if len(only) == 0 {
		return client.Ports(ctx)
	}
	var ports []porthole.PortStatus
	for _, p := range slices.Compact(only) {
		s, err := client.Port(ctx, p)
		if err != nil {
			return nil, err
		}
		ports = append(ports, s)
	}
	return ports, nil
}
