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
		"Where a service reads slower than its clients send: RECEIVED is the fullest receive buffer among the port's connections, of what it may hold, WINDOW the smallest that any was offered last, CLOSED how often and how long windows were closed."
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
		return func(w io.Writer) error {
			if c.JSON {
				return lines(w, ports)
			}
			return portTable(w, ports)
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
