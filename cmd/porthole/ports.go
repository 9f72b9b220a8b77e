package main

import (
	"context"
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
		"Where a service reads slower than its clients send: RECEIVED is the fullest receive buffer among the port's connections, of what it may hold, WINDOW the smallest that any was offered last, CLOSED how often and how long windows were closed. " +
		"Below stands what came for ports that nobody has: who scans the host."
}

// Run asks a running host for its port table.
func (c *portsCmd) Run(con *console) error {
	var only []services.Port
	for _, s := range c.Ports {
		p, err := portArg(s)
		if err != nil {
			return err
		}
		only = append(only, p)
	}
	return looks(con, &c.askFlags, c.Watch, c.Interval, func(ctx context.Context, client *control.Client) (func(io.Writer) error, error) {
		ports, err := askPorts(ctx, client, only)
		if err != nil {
			return nil, err
		}
		if c.JSON {
			return func(w io.Writer) error { return lines(w, ports) }, nil
		}
		var knocks *porthole.Knocks
		if len(only) == 0 {
			closed, err := client.Fates(ctx, "closed")
			if err != nil {
				return nil, err
			}
			knocks = closed.Knocks
		}
		return func(w io.Writer) error {
			if err := portTable(w, ports); err != nil {
				return err
			}
			_, err := io.WriteString(w, knockLine(knocks))
			return err
		}, nil
	})
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
