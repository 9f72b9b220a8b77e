package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

type openCmd struct {
	askFlags
	Port    string `arg:"" placeholder:"PORT" help:"Such as 8080/tcp."`
	Service string `required:"" placeholder:"NAME" help:"What shall answer there."`
}

// Help is shown under `porthole open --help`.
func (openCmd) Help() string {
	return "One more instance of the service, with the service's configuration. It stays until `porthole close` or the end of the host."
}

// Run opens a port of a running host, and shows how its self-test went.
func (c *openCmd) Run(con *console) error {
	p, err := portArg(c.Port)
	if err != nil {
		return err
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	now, err := client.Open(context.Background(), p, c.Service)
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(con.out).Encode(&now)
	}
	_, err = fmt.Fprintln(con.out, strings.Join(probeLine(&now), " "))
	return err
}

type closeCmd struct {
	askFlags
	Port string `arg:"" placeholder:"PORT" help:"Such as 8080/tcp."`
}

// Help is shown under `porthole close --help`.
func (closeCmd) Help() string {
	return "New clients are refused at once, connections that wait to be accepted get RST, and those that the service has accepted live on."
}

// Run closes a port of a running host.
func (c *closeCmd) Run(con *console) error {
	p, err := portArg(c.Port)
	if err != nil {
		return err
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	if err := client.Close(context.Background(), p); err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(con.out).Encode(map[string]string{"port": p.String(), "state": "closed"})
	}
	_, err = fmt.Fprintf(con.out, "%v closed\n", p)
	return err
}
