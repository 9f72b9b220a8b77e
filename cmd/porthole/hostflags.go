package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"porthole/cmd/porthole/internal/config"
)

// hostFlags are the flags of every command that makes a host. They stand over the
// configuration file; all are words here, so that they are read and refused in one
// place, as the file's are.
type hostFlags struct {
	Config       string `placeholder:"FILE" help:"Configuration file; - reads it from standard input. See 'porthole config'."`
	Name         string `placeholder:"LABEL" help:"Name of the host and of its control socket (porthole)."`
	Zone         string `placeholder:"ZONE" help:"DNS zone that the host is authoritative for (porthole.test)."`
	Interface    string `placeholder:"NAME" help:"Name of the interface (the next free of ph0, ph1...)."`
	Address      string `placeholder:"ADDR/BITS" help:"The host's IPv4 address and link prefix, or none (10.77.0.1/24, else the next free range)."`
	Address6     string `name:"address6" placeholder:"ADDR/BITS" help:"The host's IPv6 address and link prefix, or none (fd77::1/64)."`
	PeerAddress  string `placeholder:"ADDR" help:"This machine's IPv4 address on the link; auto takes the next one, none leaves it to a DHCP client."`
	PeerAddress6 string `name:"peer-address6" placeholder:"ADDR" help:"This machine's IPv6 address on the link, likewise."`
	MTU          string `name:"mtu" placeholder:"BYTES" help:"Bytes of IP in one packet, 1280 to 65520 (1500)."`
	Device       string `placeholder:"KIND" help:"auto, offload, water or tap (auto)."`
	Queues       string `placeholder:"N" help:"Reader queues of the device, 1 to 16 (1)."`
	DataDir      string `placeholder:"DIR" help:"Directory for what must survive a restart; without it nothing does."`
}

// logFlags choose what is logged to standard error, and how.
type logFlags struct {
	LogLevel  string `enum:"debug,info,warn,error," default:"" placeholder:"LEVEL" help:"debug, info, warn or error (up: info, which has a line per request; else warn)."`
	LogFormat string `enum:"text,json" default:"text" placeholder:"FORMAT" help:"text or json (text)."`
}

// load reads the file, lays the flags over it and checks the whole.
func (h *hostFlags) load(con *console) (*config.File, error) {
	switch h.Config {
	case "":
		return h.over(config.Default())
	case "-":
		return h.read("standard input", con.in)
	}
	file, err := os.Open(h.Config)
	if err != nil {
		return nil, usageError{fmt.Errorf("--config: %w", err)}
	}
	defer func() { _ = file.Close() }()
	return h.read(h.Config, file)
}

// read is load for a file that is open.
func (h *hostFlags) read(name string, r io.Reader) (*config.File, error) {
	f, err := config.Decode(name, r)
	if err != nil {
		return nil, err
	}
	return h.over(f)
}

// over lays the flags over f and checks the whole.
func (h *hostFlags) over(f *config.File) (*config.File, error) {
	for _, s := range []struct{ path, flag, value string }{
		{"name", "--name", h.Name},
		{"zone", "--zone", h.Zone},
		{"data-dir", "--data-dir", h.DataDir},
		{"link.interface", "--interface", h.Interface},
		{"link.address", "--address", h.Address},
		{"link.address6", "--address6", h.Address6},
		{"link.peer-address", "--peer-address", h.PeerAddress},
		{"link.peer-address6", "--peer-address6", h.PeerAddress6},
		{"link.mtu", "--mtu", h.MTU},
		{"link.device", "--device", h.Device},
		{"link.queues", "--queues", h.Queues},
	} {
		if s.value == "" {
			continue
		}
		if err := f.Set(s.path, s.flag, s.value); err != nil {
			return nil, usageError{err}
		}
	}
	if err := f.Check(); err != nil {
		return nil, usageError{err}
	}
	return f, nil
}

func (l logFlags) level(otherwise slog.Level) slog.Level {
	if l.LogLevel == "" {
		return otherwise
	}
	var level slog.Level
	_ = level.UnmarshalText([]byte(strings.ToUpper(l.LogLevel))) // kong has checked the word
	return level
}

// logger writes to w at the level of the flags, or at otherwise without one.
func (l logFlags) logger(w io.Writer, otherwise slog.Level) *slog.Logger {
	opts := &slog.HandlerOptions{Level: l.level(otherwise)}
	if l.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
