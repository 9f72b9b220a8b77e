package main

import (
	"context"
	"encoding/json"

	"porthole/cmd/porthole/internal/control"
)

type portsCmd struct {
	Host string `placeholder:"NAME" help:"Name of the host, or path of its socket (the only one that runs)."`
	JSON bool   `name:"json" help:"One JSON object a line."`
}

// Run asks a running host for its port table.
func (c *portsCmd) Run(con *console) error {
	client, err := control.Find(control.Dir(), c.Host)
	if err != nil {
		return err
	}
	ports, err := client.Ports(context.Background())
	if err != nil {
		return err
	}
	if c.JSON {
		enc := json.NewEncoder(con.out)
		for i := range ports {
			if err := enc.Encode(&ports[i]); err != nil {
				return err
			}
		}
		return nil
	}
	return portTable(con.out, ports)
}
