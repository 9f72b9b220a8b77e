package main

import "porthole/cmd/porthole/internal/config"

type configCmd struct {
	hostFlags
}

// Help is shown under `porthole config --help`.
func (configCmd) Help() string {
	return "Without flags these are the defaults. With --config and other flags it is what a host started with them would use."
}

// Run prints the configuration that the flags make.
func (c *configCmd) Run(con *console) error {
	f, err := c.load(con)
	if err != nil {
		return err
	}
	return config.Print(con.out, &f.Config)
}
