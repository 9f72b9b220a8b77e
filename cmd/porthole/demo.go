package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"porthole"
	"porthole/cmd/porthole/internal/config"
	"porthole/cmd/porthole/internal/control"
	"porthole/stack/stacktest"
	"porthole/tun"
)

type demoCmd struct {
	InMemory bool `help:"No namespace and no device: the host and built-in clients in one process."`
	Inside   bool `hidden:""`
}

// Run shows a host and its clients, in a private network where one can be had.
func (c *demoCmd) Run(con *console) error {
	if c.Inside {
		return c.steps(con)
	}
	if !c.InMemory {
		why := trySandbox()
		if why == nil {
			fmt.Fprintln(con.out, "A virtual host in a private network of its own. Nothing outside it changes.")
			code, err := (&execCmd{}).launch(config.Default(), "/proc/self/exe", []string{"porthole", "demo", "--inside"})
			if err != nil {
				return fmt.Errorf("demo: %w", err)
			}
			return codeError(code)
		}
		fmt.Fprintf(con.out, "No private network here: %s.\n`porthole doctor` says what mends it.\n\n", oneLine(why.Error()))
	}
	fmt.Fprintln(con.out, "A virtual host and its clients, in the memory of this one process.")
	return c.inMemory(con)
}

// steps points the clients at the host that this command runs under.
func (c *demoCmd) steps(con *console) error {
	client, err := control.Find(control.Dir(), "")
	if err != nil {
		return err
	}
	h, err := client.Health(context.Background())
	if err != nil {
		return err
	}
	p4, err := netip.ParsePrefix(h.Address)
	if err != nil {
		return fmt.Errorf("demo: the host's address: %w", err)
	}
	var d net.Dialer
	t := &target{dial: d.DialContext, addr: p4.Addr(), zone: porthole.DefaultConfig().Zone, real: true}
	return show(con, t, func() ([]porthole.PortStatus, error) { return client.Ports(context.Background()) })
}

// inMemory runs the host on one end of a pipe and the clients on the other.
func (c *demoCmd) inMemory(con *console) error {
	cfg := porthole.DefaultConfig()
	o := tun.PipeOptions{MTU: cfg.Link.MTU}
	a, b := tun.Pipe(o, o)
	h, err := porthole.New(cfg, a, logFlags{}.logger(con.err, slog.LevelWarn))
	if err != nil {
		return errors.Join(err, a.Close(), b.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	<-h.Ready()
	client, err := stacktest.NewClient(b, peerPrefix("auto", cfg.Link.Address), peerPrefix("auto", cfg.Link.Address6))
	if err == nil {
		t := &target{dial: client.DialContext, addr: cfg.Link.Address.Addr(), zone: cfg.Zone}
		err = show(con, t, func() ([]porthole.PortStatus, error) { return h.Ports(), nil })
		err = errors.Join(err, client.Close())
	}
	cancel()
	return errors.Join(err, <-done)
}

// show runs every step and then the port table. Its error counts the steps that failed.
func show(con *console, t *target, ports func() ([]porthole.PortStatus, error)) error {
	bold, plain := "", ""
	if isTerminal(con.out) {
		bold, plain = "\x1b[1m", "\x1b[0m"
	}
	begin, failed, ran := time.Now(), 0, 0
	for _, s := range t.steps() {
		command, do := s.choose(t.real)
		if do == nil {
			fmt.Fprintf(con.out, "\n%s: left out; it needs the program and a network of the kernel\n", s.argv[0])
			continue
		}
		fmt.Fprintf(con.out, "\n%s%s%s\n", bold, command, plain)
		ctx, cancel := context.WithTimeout(context.Background(), stepLimit)
		out, err := do(ctx)
		cancel()
		ran++
		if err == nil && !strings.Contains(out, s.want) {
			err = fmt.Errorf("no %q in the answer", s.want)
		}
		for _, l := range lastLines(out, s.lines) {
			fmt.Fprintf(con.out, "  %s\n", l)
		}
		if err != nil {
			failed++
			fmt.Fprintf(con.out, "  failed: %s\n", oneLine(err.Error()))
		}
	}
	table, err := ports()
	if err != nil {
		return err
	}
	fmt.Fprintf(con.out, "\n%sEvery port is a queue. What arrived at each, and how full it was:%s\n\n", bold, plain)
	_ = portTable(con.out, listed(table))
	if failed > 0 {
		return fmt.Errorf("demo: %d of %d clients failed; `porthole doctor` says what this machine lacks", failed, ran)
	}
	fmt.Fprintf(con.out, "\nAll %d clients were answered, in %.1f s. Next: porthole exec -- bash\n", ran, time.Since(begin).Seconds())
	return nil
}

// stepLimit is for what comes at once: on a busy machine it takes seconds. The programs'
// own limits, which tell more, are shorter.
const stepLimit = 45 * time.Second

// step is one client: a real program, and what does the same where it is missing.
type step struct {
	argv    []string
	quoted  string // the command line as a person types it
	want    string // what a good answer contains
	lines   int    // of its output, from the end, that are shown
	builtin func(context.Context) (string, error)
	about   string // of the built-in client
}

// choose takes the program where there is one.
func (s *step) choose(programs bool) (string, func(context.Context) (string, error)) {
	if programs {
		if path, err := exec.LookPath(s.argv[0]); err == nil {
			return "$ " + s.quoted, func(ctx context.Context) (string, error) { return output(ctx, path, s.argv) }
		}
	}
	return "built-in " + s.about, s.builtin
}

// output runs a program and returns what it wrote, errors included.
func output(ctx context.Context, path string, argv []string) (string, error) {
	cmd := exec.CommandContext(ctx, path, argv[1:]...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if len(out) > limitOutput {
		out = out[:limitOutput]
	}
	return string(out), err
}

const limitOutput = 1 << 20

func lastLines(s string, n int) []string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if s == "" {
		return nil
	}
	return lines[max(len(lines)-n, 0):]
}

// target is the host as its clients reach it.
type target struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	addr netip.Addr
	zone string
	real bool // programs reach it too
}

func (t *target) steps() []step {
	blob := 64 << 20
	if !t.real {
		blob = 4 << 20 // in memory there are no super-packets
	}
	web, file := "http://"+t.zone, fmt.Sprintf("http://%s/blob/%d", t.zone, blob)
	page, bulk := "%{http_code} %{content_type}, %{size_download} bytes in %{time_total} s", "%{http_code}, %{size_download} bytes in %{time_total} s"
	return []step{
		{
			argv: []string{"dig", "+time=10", "+noall", "+answer", t.zone}, quoted: "dig +noall +answer " + t.zone,
			want: t.addr.String(), lines: 3, about: "DNS client: A " + t.zone, builtin: t.lookup,
		}, {
			argv: []string{"curl", "-sS", "-o", os.DevNull, "-w", page, web + "/"}, quoted: "curl " + web + "/",
			want: "200 ", lines: 1, about: "HTTP client: GET " + web + "/", builtin: func(ctx context.Context) (string, error) { return t.get(ctx, "/") },
		}, {
			argv: []string{"curl", "-sS", "-o", os.DevNull, "-w", bulk, file}, quoted: "curl -o /dev/null " + file,
			want: fmt.Sprint(blob), lines: 1, about: "HTTP client: GET " + file,
			builtin: func(ctx context.Context) (string, error) { return t.get(ctx, fmt.Sprintf("/blob/%d", blob)) },
		}, {
			argv:   []string{"lftp", "-c", "set net:timeout 20; set net:max-retries 1; set cmd:fail-exit yes; open ftp://" + t.zone + "; ls"},
			quoted: "lftp -c 'open ftp://" + t.zone + "; ls'", lines: 4, about: "FTP client: ls", builtin: t.list,
		}, {
			argv: []string{"ping", "-n", "-c", "3", "-i", "0.2", "-W", "20", t.zone}, quoted: "ping -c 3 -i 0.2 " + t.zone,
			want: " 3 received", lines: 2,
		},
	}
}
