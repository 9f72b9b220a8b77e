package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"porthole"
	"porthole/impair"
)

type setCmd struct {
	askFlags
	Port     string   `arg:"" placeholder:"PORT" help:"Such as 80/tcp or 53/udp; link is the whole link."`
	Settings []string `arg:"" optional:"" name:"key=value" help:"What to change; nothing shows the settings."`
	Reset    bool     `help:"Take back what set has changed: the configuration counts again."`
}

// Help is shown under `porthole set --help`.
func (setCmd) Help() string {
	return "Every key can change while packets and connections wait; nothing that waits is thrown away. All of the keys take effect or none.\n\n" +
		"queue=N (packets), queue-bytes=SIZE, policy=" + strings.Join(porthole.Policies(), "|") + " (UDP; codel-target=5ms, codel-interval=100ms); " +
		"for TCP: backlog=N (both of the next two), syn-queue=N, accept-queue=N, syn-cookies=auto|never|always, abort-on-overflow=true|false, receive-buffer=SIZE|auto; " +
		"service-delay=2s|fixed(1ms)|exp(10ms) before each accept or datagram, accept=never|normal; " +
		"impair=RULES to packets that arrive, impair-out=RULES to those that leave.\n\n" +
		"RULES are as in tc-netem: loss:5%,delay:50ms±10ms (or +-), and " + strings.Join(impair.Words(), ", ") + "; none takes them away. " +
		"set link has each of them as a key, in both directions or with in. or out. before it in one.\n\n" +
		"Examples: porthole set 80/tcp accept-queue=1 service-delay=2s; porthole set 53/udp impair=loss:5%,delay:50ms; porthole set link rate=10mbit out.delay=20ms"
}

// Run changes a port of a running host, and shows its settings.
func (c *setCmd) Run(con *console) error {
	if c.Reset && len(c.Settings) > 0 {
		return usageError{errors.New("set: --reset takes everything back; leave the settings out")}
	}
	if c.Port == "link" {
		return c.link(con)
	}
	p, err := portArg(c.Port)
	if err != nil {
		return err
	}
	s, err := porthole.ParseSettings(strings.Join(c.Settings, " "))
	if err == nil {
		err = s.Check(p)
	}
	if err != nil {
		return usageError{err}
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

// link changes the rules of the whole link, and shows them.
func (c *setCmd) link(con *console) error {
	s, err := porthole.ParseLinkSettings(strings.Join(c.Settings, " "))
	if err != nil {
		return usageError{fmt.Errorf("set link: %w", err)}
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	var now porthole.LinkStatus
	switch ctx := context.Background(); {
	case c.Reset:
		now, err = client.ResetLink(ctx)
	case len(c.Settings) == 0:
		now, err = client.Link(ctx)
	default:
		now, err = client.SetLink(ctx, s)
	}
	if err != nil {
		return err
	}
	return showLink(con.out, &now, c.JSON)
}
