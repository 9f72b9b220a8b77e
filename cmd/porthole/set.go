package main

import (
	"context"
	"errors"
	"strings"

	"porthole"
)

type setCmd struct {
	askFlags
	Port     string   `arg:"" placeholder:"PORT" help:"Such as 80/tcp or 53/udp."`
	Settings []string `arg:"" optional:"" name:"key=value" help:"What to change; nothing shows the port's settings."`
	Reset    bool     `help:"Take back what set has changed: the configuration counts again."`
}

// Help is shown under `porthole set --help`.
func (setCmd) Help() string {
	return "Every key can change while packets and connections wait; nothing that waits is thrown away. All of the keys take effect or none.\n\n" +
		"queue=N (packets), queue-bytes=SIZE, policy=" + strings.Join(porthole.Policies(), "|") + " (UDP; codel-target=5ms, codel-interval=100ms); " +
		"for TCP: backlog=N (both of the next two), syn-queue=N, accept-queue=N, syn-cookies=auto|never|always, abort-on-overflow=true|false, receive-buffer=SIZE|auto; " +
		"service-delay=2s|fixed(1ms)|exp(10ms) before each accept or datagram, accept=never|normal.\n\n" +
		"Example: porthole set 80/tcp accept-queue=1 service-delay=2s"
}

// Run changes a port of a running host, and shows its settings.
func (c *setCmd) Run(con *console) error {
	p, err := portArg(c.Port)
	if err != nil {
		return err
	}
	s, err := porthole.ParseSettings(strings.Join(c.Settings, " "))
	if err == nil {
		err = s.Check(p)
	}
	switch {
	case err != nil:
		return usageError{err}
	case c.Reset && len(c.Settings) > 0:
		return usageError{errors.New("set: --reset takes everything back; leave the settings out")}
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	var now porthole.PortStatus
	switch ctx := context.Background(); {
	case c.Reset:
		now, err = client.Reset(ctx, p)
	case len(c.Settings) == 0:
		now, err = client.Port(ctx, p)
	default:
		now, err = client.Set(ctx, p, s)
	}
	if err != nil {
		return err
	}
	return showPort(con.out, &now, c.JSON)
}
