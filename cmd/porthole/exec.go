package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"porthole"
	"porthole/cmd/porthole/internal/config"
	"porthole/cmd/porthole/internal/control"
	"porthole/cmd/porthole/internal/sandbox"
)

type execCmd struct {
	hostFlags
	logFlags
	Root bool     `help:"Be uid 0 inside, for programs that insist (nmap -sS, dhclient). The default keeps your uid."`
	Argv []string `arg:"" passthrough:"" name:"cmd" help:"The command and its arguments."`
}

// Help is shown under `porthole exec --help`.
func (execCmd) Help() string {
	return "CMD sees one network: its own, with the host in it. Names resolve through the host. " +
		"Its exit code is passed on (128+n for signal n). What it leaves running ends with it. " +
		"Proxy variables are taken from its environment, and " + control.EnvSocket + " leads `porthole ports` to the host."
}

// Run makes the private network and passes CMD's exit code on.
func (c *execCmd) Run(con *console) error {
	marked := len(c.Argv) > 0 && c.Argv[0] == "--"
	if marked {
		c.Argv = c.Argv[1:]
	}
	if len(c.Argv) == 0 {
		return usageError{errors.New("exec: no command; give one, such as `porthole exec -- curl http://porthole.test/`")}
	}
	if !marked && strings.HasPrefix(c.Argv[0], "-") {
		return usageError{fmt.Errorf("unknown flag %s; a command that begins with - comes after --; see `porthole exec --help`", c.Argv[0])}
	}
	f, err := c.load(con)
	if err != nil {
		return err
	}
	code, err := c.launch(f, "", c.Argv)
	if err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	return codeError(code)
}

// innerSpec is what the outer process tells the inner one.
type innerSpec struct {
	Config   string // the whole configuration, as YAML
	Path     string // of CMD; "" looks Argv[0] up
	Argv     []string
	Dir      string // of the control socket
	Named    bool   // the name was asked for: no suffix
	Asked6   bool   // the IPv6 address was asked for: no doing without
	LogLevel string
	LogForm  string
	Flags    hostFlags // for a reload; the path of the file is absolute
	Probe    bool      // only try whether all this can be made
}

// launch runs argv beside a host in namespaces of their own. path is as in
// sandbox.Inside.Exec.
func (c *execCmd) launch(f *config.File, path string, argv []string) (code int, err error) {
	var yaml bytes.Buffer
	if err := config.Print(&yaml, &f.Config); err != nil {
		return 1, err
	}
	flags := c.hostFlags
	if flags.Config != "" && flags.Config != "-" {
		if flags.Config, err = filepath.Abs(flags.Config); err != nil {
			return 1, err
		}
	}
	payload, err := json.Marshal(innerSpec{
		Config: yaml.String(), Path: path, Argv: argv, Dir: control.Dir(),
		Named: f.IsSet("name"), Asked6: f.IsSet("link.address6"),
		LogLevel: c.LogLevel, LogForm: c.LogFormat, Flags: flags,
	})
	if err != nil {
		return 1, err
	}
	return sandbox.Run(sandbox.Options{Args: []string{"inside"}, Payload: payload, Root: c.Root})
}

// insideCmd is the inner process. Only sandbox.Run starts it.
type insideCmd struct{}

// Run brings the host up in the namespace it finds itself in and runs CMD.
func (insideCmd) Run(con *console) error {
	in, err := sandbox.Enter()
	if err != nil {
		return usageError{err}
	}
	var spec innerSpec
	if err := json.Unmarshal(in.Payload, &spec); err != nil {
		return fmt.Errorf("inside: payload: %w", err)
	}
	if spec.Probe {
		return insideProbe(in)
	}
	s, p, err := insideHost(in, &spec, con)
	if err != nil {
		return err
	}
	go func() {
		<-s.done
		in.Kill() // CMD has nobody to talk to any more
	}()
	code, err := in.Exec(spec.Path, spec.Argv, insideEnv(os.Environ(), p.socket))
	if err != nil {
		err = fmt.Errorf("exec: %w", err)
	}
	select {
	case <-s.done:
		return errors.Join(err, s.err)
	default:
	}
	go func() { _ = s.stop() }()
	select {
	case <-s.done:
	case <-time.After(5 * time.Second): // for the last lines of its log; nobody is left to be polite to
	}
	if err != nil {
		report(con, err)
	}
	return codeError(code)
}

// insideProbe makes what a host needs, for `doctor` and `demo`, and no host.
func insideProbe(in *sandbox.Inside) error {
	if err := in.Loopback(); err != nil {
		return err
	}
	p, err := makePlan(config.Default(), nowhere)
	if err != nil {
		return err
	}
	if _, err := in.Files(resolver(&p.cfg)); err != nil {
		return err
	}
	dev, err := p.device(false)
	if err != nil {
		return err
	}
	return dev.Close()
}

// insideHost brings the host up and waits until it answers.
func insideHost(in *sandbox.Inside, spec *innerSpec, con *console) (*session, *plan, error) {
	f, err := config.Decode("configuration", strings.NewReader(spec.Config))
	if err != nil {
		return nil, nil, err
	}
	log := logFlags{spec.LogLevel, spec.LogForm}.logger(con.err, slog.LevelWarn)
	p, err := makePlan(f, nowhere)
	if err != nil {
		return nil, nil, err
	}
	if err := in.Loopback(); err != nil {
		return nil, nil, err
	}
	warnings, err := in.Files(resolver(&p.cfg))
	if err != nil {
		return nil, nil, err
	}
	srv, err := listenInside(spec, p)
	if err != nil {
		return nil, nil, err
	}
	dev, err := p.device(spec.Asked6)
	if err != nil {
		return nil, nil, errors.Join(err, srv.Close())
	}
	for _, w := range append(warnings, p.notes...) {
		log.Warn(w)
	}
	h, err := porthole.New(p.cfg, dev, log)
	if err != nil {
		return nil, nil, errors.Join(err, dev.Close(), srv.Close())
	}
	s := startSession(h, srv, &reloader{spec.Flags, f.Config})
	if err := s.ready(in.Context()); err != nil {
		return nil, nil, errors.Join(err, s.stop())
	}
	for _, st := range s.Ports() {
		if st.State == "failed" {
			h.Log().Warn("probe failed", "port", st.Port, "service", st.Service, "error", st.Error)
		}
	}
	return s, p, nil
}

// listenInside binds the control socket; a name that nobody asked for gets a suffix
// where another host has it.
func listenInside(spec *innerSpec, p *plan) (srv *control.Server, err error) {
	if spec.Named {
		srv, err = control.Listen(spec.Dir, p.cfg.Name)
	} else {
		srv, p.cfg.Name, err = control.ListenFree(spec.Dir, p.cfg.Name)
	}
	if err == nil {
		p.socket = srv.Path()
	}
	return srv, err
}

func resolver(cfg *porthole.Config) sandbox.Resolver {
	r := sandbox.Resolver{Search: cfg.Zone}
	if cfg.Link.Address.IsValid() {
		r.Servers = append(r.Servers, cfg.Link.Address.Addr())
	}
	if cfg.Link.Address6.IsValid() {
		r.Servers = append(r.Servers, cfg.Link.Address6.Addr())
	}
	return r
}

// insideEnv is CMD's environment: no proxy (none can be reached from inside), and
// the way to the host's socket.
func insideEnv(env []string, socket string) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return strings.HasSuffix(strings.ToLower(name), "_proxy") || name == control.EnvSocket
	})
	return append(env, control.EnvSocket+"="+socket)
}
