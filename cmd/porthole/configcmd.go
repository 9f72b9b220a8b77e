package main

import (
	"context"
	"io"

	"porthole/cmd/porthole/internal/config"
	"porthole/cmd/porthole/internal/control"
)

type configCmd struct {
	hostFlags
	Running bool   `help:"What a running host runs by, instead."`
	Host    string `placeholder:"NAME" help:"With --running: name of the host, or path of its socket (the only one that runs)."`
}

// Help is shown under `porthole config --help`.
func (configCmd) Help() string {
	return "Without flags these are the defaults. With --config and other flags it is what a host started with them would use."
}

// Run prints the configuration that the flags make.
func (c *configCmd) Run(con *console) error {
	if c.Running {
		client, err := control.Find(control.Dir(), c.Host)
		if err != nil {
			return err
		}
		text, err := client.Config(context.Background())
		if err == nil {
			_, err = io.WriteString(con.out, text)
		}
		return err
	}
	f, err := c.load(con)
	if err != nil {
		return err
	}
	return config.Print(con.out, &f.Config)
}
