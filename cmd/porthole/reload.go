package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"

	"porthole"
	"porthole/cmd/porthole/internal/config"
)

type reloadCmd struct {
	askFlags
	Config string `placeholder:"FILE" help:"Take this configuration instead of reading the host's own file again; - reads standard input."`
}

// Help is shown under `porthole reload --help`.
func (reloadCmd) Help() string {
	return "The host reads the file of its --config again (SIGHUP to `porthole up` does the same), under the flags that it was started with, and applies it whole, without dropping an accepted connection; or refuses it whole and says why. " +
		"Settings of ports, and services with their ports and options, can change; the name, the zone, the data directory and the link cannot. What `porthole set` changed stays on top."
}

// Run makes a running host take its changed configuration.
func (c *reloadCmd) Run(con *console) error {
	var text []byte
	name := c.Config
	if c.Config != "" {
		r := con.in
		if c.Config == "-" {
			name = "standard input"
		} else {
			f, err := os.Open(c.Config)
			if err != nil {
				return usageError{fmt.Errorf("--config: %w", err)}
			}
			defer func() { _ = f.Close() }()
			r = f
		}
		var err error
		if text, err = io.ReadAll(io.LimitReader(r, config.LimitBytes+1)); err != nil {
			return usageError{fmt.Errorf("--config: %w", err)}
		}
		if len(text) == 0 {
			text = []byte("\n") // an empty file is one that says nothing
		}
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	changes, err := client.Reload(context.Background(), name, text)
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(con.out).Encode(map[string][]string{"changes": append([]string{}, changes...)})
	}
	if len(changes) == 0 {
		changes = []string{"nothing changed"}
	}
	_, err = fmt.Fprintln(con.out, strings.Join(changes, "\n"))
	return err
}

// reloader makes a running host's configuration anew from what it was started with.
type reloader struct {
	flags hostFlags
	asked porthole.Config // as file and flags had it, before the addresses were settled
}

// reloadable is what it needs of the host.
type reloadable interface {
	Config() porthole.Config
	Reload(ctx context.Context, cfg porthole.Config) ([]string, error)
}

// reload applies text, or the host's own file when it is nil. Errors of the
// configuration have their places in it.
func (r *reloader) reload(ctx context.Context, h reloadable, name string, text []byte) ([]string, error) {
	var in io.Reader
	switch {
	case text != nil:
		in = strings.NewReader(string(text))
	case r.flags.Config == "":
		return nil, &porthole.Error{Kind: porthole.Invalid, Err: errors.New("reload: the host was started without --config; give it one with `porthole reload --config FILE`")}
	case r.flags.Config == "-":
		return nil, &porthole.Error{Kind: porthole.Invalid, Err: errors.New("reload: the host read its configuration from standard input; give it one with `porthole reload --config FILE`")}
	default:
		f, err := os.Open(r.flags.Config)
		if err != nil {
			return nil, &porthole.Error{Kind: porthole.Failed, Err: fmt.Errorf("reload: %w", err)}
		}
		defer func() { _ = f.Close() }()
		in, name = f, r.flags.Config
	}
	f, err := r.flags.read(name, in)
	if err != nil {
		return nil, invalid(err)
	}
	cfg := f.Config
	settled := h.Config()
	keep(reflect.ValueOf(&cfg.Name).Elem(), reflect.ValueOf(r.asked.Name), reflect.ValueOf(settled.Name))
	link, asked, now := reflect.ValueOf(&cfg.Link).Elem(), reflect.ValueOf(r.asked.Link), reflect.ValueOf(settled.Link)
	for i := range link.NumField() {
		keep(link.Field(i), asked.Field(i), now.Field(i))
	}
	changes, err := h.Reload(ctx, cfg)
	return changes, f.Locate(err)
}

// keep: what the configuration says as before is as the host settled it.
func keep(v, asked, settled reflect.Value) {
	if v.Interface() == asked.Interface() {
		v.Set(settled)
	}
}

// invalid marks an error of reading a configuration as the asker's.
func invalid(err error) error {
	if ps := (config.Problems)(nil); errors.As(err, &ps) {
		return ps
	}
	return &porthole.Error{Kind: porthole.Invalid, Err: err}
}
