package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/signal"

	"golang.org/x/sys/unix"

	"porthole"
	"porthole/cmd/porthole/internal/control"
	"porthole/services"
)

// askFlags are the flags of every command that asks a running host.
type askFlags struct {
	Host string `placeholder:"NAME" help:"Name of the host, or path of its socket (the only one that runs)."`
	JSON bool   `name:"json" help:"One JSON object a line."`
}

func (a *askFlags) client() (*control.Client, error) { return control.Find(control.Dir(), a.Host) }

// portArg reads the port of a command line.
func portArg(s string) (services.Port, error) {
	p, err := services.ParsePort(s)
	if err != nil {
		return p, usageError{err}
	}
	return p, nil
}

// untilSignal is a context that Ctrl-C and its like end, for commands that follow.
func untilSignal() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
}

// lines writes one JSON object a line.
func lines[T any](w io.Writer, list []T) error {
	enc := json.NewEncoder(w)
	for i := range list {
		if err := enc.Encode(&list[i]); err != nil {
			return err
		}
	}
	return nil
}

// showPort writes one port's settings: as JSON, the port as it is.
func showPort(w io.Writer, p *porthole.PortStatus, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(p)
	}
	_, err := fmt.Fprintf(w, "%v %v\n%s", p.Port, p.Settings, impairmentLines(p.Port.String(), p.ImpairIn, p.ImpairOut))
	return err
}
