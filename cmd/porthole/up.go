package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"porthole"
	"porthole/cmd/porthole/internal/caps"
	"porthole/cmd/porthole/internal/control"
)

type upCmd struct {
	hostFlags
	logFlags
	ControlListen string `placeholder:"ADDR:PORT" help:"Serve the API and /metrics on this loopback address, too, such as 127.0.0.1:9077; it needs the token that is printed."`
	Pprof         bool   `help:"Serve profiles of this process under /debug/pprof/, on the control socket and on --control-listen."`
	DryRun        bool   `help:"Print the plan and open nothing."`
	ReadyFD       *int   `name:"ready-fd" placeholder:"N" help:"Write a line to file descriptor N and close it when every service was probed."`
}

// Run brings the host up on this machine and serves until a signal.
func (c *upCmd) Run(con *console) error {
	f, err := c.load(con)
	if err != nil {
		return err
	}
	if c.ControlListen != "" {
		if err := control.LoopbackAddr(c.ControlListen); err != nil {
			return usageError{fmt.Errorf("--control-listen: %w", err)}
		}
	}
	p, err := makePlan(f, machine)
	if err != nil {
		return err
	}
	if c.DryRun {
		p.write(con.out)
		return nil
	}
	ready, err := readyFile(c.ReadyFD)
	if err != nil {
		return err
	}
	// From here on a signal finds something to take away, and takes it away.
	sigs := signals()
	defer signal.Stop(sigs)
	if !caps.Has(caps.NetAdmin) {
		return errors.New("up: making an interface needs CAP_NET_ADMIN; use `sudo porthole up`, or `porthole exec -- CMD`, which needs no root")
	}
	srv, err := control.Listen(control.Dir(), p.cfg.Name)
	if err != nil {
		return err
	}
	if c.ControlListen != "" {
		loop, err := srv.ListenLoopback(c.ControlListen)
		if err != nil {
			return errors.Join(fmt.Errorf("--control-listen: %w", err), srv.Close())
		}
		p.api = loop.URL() + "  (token in " + loop.TokenFile() + ")"
	}
	dev, err := p.device(f.IsSet("link.address6"))
	if err != nil {
		return errors.Join(err, srv.Close())
	}
	p.socket = srv.Path()
	scr := newScreen(con)
	h, err := porthole.New(p.cfg, dev, c.logger(scr.logs(con.err), slog.LevelInfo))
	if err != nil {
		return errors.Join(err, dev.Close(), srv.Close())
	}
	var more []control.Route
	if c.Pprof {
		more = control.Profiles()
	}
	s := startSession(h, srv, &reloader{c.hostFlags, f.Config}, more...)
	return serveUp(con.out, scr, p, s, ready, sigs, newHangup(h.Log(), con))
}

// signals are those that end a host, or make it reload.
func signals() chan os.Signal {
	sigs := make(chan os.Signal, 2)
	signal.Notify(sigs, unix.SIGINT, unix.SIGTERM)
	if !signal.Ignored(unix.SIGHUP) {
		signal.Notify(sigs, unix.SIGHUP)
	}
	return sigs
}

// serveUp shows a running session until a signal ends it. A second one ends the
// program at once; the kernel then takes the device away. SIGHUP reloads.
func serveUp(out io.Writer, scr *screen, p *plan, s *session, ready io.WriteCloser, sigs <-chan os.Signal, hup *hangup) error {
	ctx, cancel := context.WithCancel(context.Background())
	over, again := make(chan struct{}), make(chan struct{}, 1)
	var reloads sync.WaitGroup
	reloads.Go(func() { hup.serve(ctx, s, again) })
	defer reloads.Wait()
	defer cancel()
	defer close(over)
	go func() {
		for n := 0; ; n++ {
			select {
			case sig := <-sigs:
				if sig == unix.SIGHUP && n == 0 && !hup.real() {
					select {
					case again <- struct{}{}:
					default: // one waits already
					}
					n--
					continue
				}
				if n > 0 {
					os.Exit(128 + int(sig.(syscall.Signal)))
				}
				cancel()
			case <-over:
				return
			}
		}
	}()

	p.write(out)
	if err := s.ready(ctx); err != nil {
		return ended(ctx, s)
	}
	if scr.tty == nil { // a terminal gets the table below
		fmt.Fprintln(out)
		for _, l := range probeLines(listed(s.Ports())) {
			fmt.Fprintln(out, l)
		}
	}
	fmt.Fprintln(out, "porthole: ready")
	if ready != nil {
		_, err := io.WriteString(ready, "ready\n")
		if err = errors.Join(err, ready.Close()); err != nil {
			return errors.Join(fmt.Errorf("--ready-fd: %w", err), s.stop())
		}
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		scr.show(func(w io.Writer) { liveTable(w, s) })
		select {
		case <-tick.C:
		case <-s.done:
			scr.leave()
			return s.err
		case <-ctx.Done():
			scr.leave()
			return ended(ctx, s)
		}
	}
}

// ended stops the session. An end that was asked for is a good one.
func ended(ctx context.Context, s *session) error {
	if ctx.Err() == nil {
		return s.err
	}
	if err := s.stop(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// probeLines are the ports as the self-test found them: "53/udp dns answering 0.4 ms".
func probeLines(ports []porthole.PortStatus) []string {
	lines := make([]string, len(ports))
	for i := range ports {
		lines[i] = strings.Join(probeLine(&ports[i]), " ")
	}
	return lines
}

func liveTable(w io.Writer, s *session) {
	h := s.Health()
	ledger := "every packet accounted for"
	if !h.LedgerOK {
		ledger = "LEDGER BROKEN: arrived is not fates + queued"
	}
	var arrived uint64
	for _, n := range h.Arrived {
		arrived += n
	}
	lost := ""
	if h.LogLost > 0 {
		lost = fmt.Sprintf("  %d log lines lost.", h.LogLost)
	}
	fmt.Fprintf(w, "\n%s  %d packets arrived, %d queued, %s.%s  Ctrl-C stops.\n\n", h.Name, arrived, h.Queued, ledger, lost)
	_ = portTable(w, listed(s.Ports()))
}

// readyFile checks the descriptor of --ready-fd before anything is started.
func readyFile(fd *int) (io.WriteCloser, error) {
	if fd == nil {
		return nil, nil
	}
	if flags, err := unix.FcntlInt(uintptr(*fd), unix.F_GETFL, 0); err != nil || flags&unix.O_ACCMODE == unix.O_RDONLY {
		return nil, usageError{fmt.Errorf("--ready-fd: file descriptor %d is not open for writing", *fd)}
	}
	unix.CloseOnExec(*fd)
	return os.NewFile(uintptr(*fd), "ready-fd"), nil
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
