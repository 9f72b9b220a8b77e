package main

import (
	"os"

	"porthole"
	"porthole/cmd/porthole/internal/lab"
	"porthole/cmd/porthole/internal/lab/catalogue"
	"porthole/cmd/porthole/internal/lab/rig"
)

// labInsideCmd is the inner process of a rig experiment.
type labInsideCmd struct{}

// Run runs one experiment. Only rig.Inside starts it.
func (labInsideCmd) Run(con *console) error {
	err := rig.Serve(con.out, func(name string) (*lab.Experiment, error) { return lab.Find(catalogue.All(), name) }, porthole.Version)
	if err != nil && os.Getpid() != 1 {
		return usageError{err}
	}
	return err
}
