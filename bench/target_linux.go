package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"porthole/internal/netns"
)

// selfPath is this program, which is also every server and some of the clients.
var selfPath = func() string {
	p, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return p
}()

const nsPrefix = "phbench-"

// bench owns the namespaces and servers of one run. close takes all of it away,
// and is called however the run ends; what a killed run left is taken away by the
// next one, since the names hold the process id.
type bench struct {
	o       *options
	ns      []string
	dirs    []string // of references
	upNS    string   // where porthole itself is started
	targets []*target
	cc      string // congestion control of all namespaces
}

// target is one server and where its clients run.
type target struct {
	name     string
	clientNS string
	cmd      *exec.Cmd
	in       io.WriteCloser // its end ends the server
	out      *bufio.Reader
	ready    time.Duration // from start to ready
}

func newBench(ctx context.Context, o *options) (*bench, error) {
	if _, err := exec.LookPath("ip"); err != nil {
		return nil, errors.New("no ip here, which makes the namespaces: install the Debian package iproute2")
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("needs root: it makes network namespaces and devices in them")
	}
	sweep()
	b := &bench{o: o}
	for _, name := range o.targets {
		t, err := b.start(ctx, name, name)
		if err != nil {
			b.close()
			return nil, fmt.Errorf("start %s: %w", name, err)
		}
		b.targets = append(b.targets, t)
	}
	return b, nil
}

// fresh starts a server that has done nothing yet, until end: in one that has worked,
// memory comes to use again, and what connections take of it is not seen.
func (b *bench) fresh(ctx context.Context, name string) (t *target, end func(), err error) {
	had := len(b.ns)
	if t, err = b.start(ctx, name, name+"-fresh"); err != nil {
		return nil, nil, fmt.Errorf("start another %s: %w", name, err)
	}
	return t, func() {
		t.close()
		for _, ns := range b.ns[had:] {
			removeNS(ns)
		}
		b.ns = b.ns[:had]
	}, nil
}

// start makes a target's namespaces and its server. A TUN device stands in the
// client's namespace, as it stands in a user's machine.
func (b *bench) start(ctx context.Context, name, ns string) (*target, error) {
	began := time.Now()
	t := &target{name: name}
	var err error
	var serverNS string
	if name == "veth" {
		serverNS, err = b.veth(ctx, t, ns)
	} else {
		t.clientNS, err = b.namespace(ctx, ns)
		serverNS = t.clientNS
	}
	if err != nil {
		return nil, err
	}
	t.cmd = exec.Command("ip", "netns", "exec", serverNS, selfPath, "serve", name, strconv.Itoa(b.o.mtu), b.o.log)
	t.cmd.Stderr = os.Stderr
	if t.in, err = t.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := t.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	t.out = bufio.NewReader(out)
	if err := t.cmd.Start(); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { t.in.Close() })
	defer stop()
	line, err := t.out.ReadString('\n')
	if err != nil || line != "ready\n" {
		t.close()
		return nil, fmt.Errorf("server said %q: %w", line, errors.Join(err, ctx.Err()))
	}
	t.ready = time.Since(began)
	return t, nil
}

// veth makes a client's and a server's namespace, joined.
func (b *bench) veth(ctx context.Context, t *target, name string) (serverNS string, err error) {
	if t.clientNS, err = b.namespace(ctx, name); err != nil {
		return "", err
	}
	if serverNS, err = b.namespace(ctx, name+"-server"); err != nil {
		return "", err
	}
	mtu := strconv.Itoa(b.o.mtu)
	for _, c := range []string{
		"link add v0 netns " + t.clientNS + " mtu " + mtu + " type veth peer name v0 netns " + serverNS + " mtu " + mtu,
		"-n " + t.clientNS + " address add " + client + "/24 dev v0",
		"-n " + serverNS + " address add " + host + "/24 dev v0",
		"-n " + t.clientNS + " link set v0 up",
		"-n " + serverNS + " link set v0 up",
	} {
		if err := ip(ctx, c); err != nil {
			return "", err
		}
	}
	return serverNS, nil
}

// namespace makes one with what all have in common: the same congestion control,
// and enough local ports for many short connections.
func (b *bench) namespace(ctx context.Context, name string) (string, error) {
	ns := fmt.Sprintf("%s%d-%s", nsPrefix, os.Getpid(), name)
	if err := ip(ctx, "netns add "+ns); err != nil {
		return "", err
	}
	b.ns = append(b.ns, ns)
	for _, c := range []string{
		"link set lo up",
		"tuntap add dev none mode tun", // nobody reads it: it drops what it gets
		"address add " + nowhereNet + " dev none",
		"link set none up",
	} {
		if err := ip(ctx, "-n "+ns+" "+c); err != nil {
			return "", err
		}
	}
	return ns, netns.Do(ns, func() error {
		const ipv4 = "/proc/sys/net/ipv4/"
		// A namespace may only use what its machine calls non-restricted: cubic where
		// that is the machine's default, reno always. The report says what is in force.
		for _, cc := range []string{"cubic", "reno"} {
			if os.WriteFile(ipv4+"tcp_congestion_control", []byte(cc+"\n"), 0) == nil {
				break
			}
		}
		b.cc = readLine(ipv4 + "tcp_congestion_control")
		return os.WriteFile(ipv4+"ip_local_port_range", []byte("10000 65000\n"), 0)
	})
}

func ip(ctx context.Context, args string) error {
	out, err := exec.CommandContext(ctx, "ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", args, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// tell sends a server one command and waits for its answer.
func (t *target) tell(format string, args ...any) error {
	if _, err := fmt.Fprintf(t.in, format+"\n", args...); err != nil {
		return err
	}
	line, err := t.out.ReadString('\n')
	if err == nil && line != "ok\n" {
		err = errors.New(strings.TrimSpace(line))
	}
	return err
}

// run runs a client in the target's client namespace. It gets time and a half, and
// is killed when ctx ends.
func (t *target) run(ctx context.Context, w *work, d time.Duration, f *files, zeros *os.File) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, d+d/2+5*time.Second)
	defer cancel()
	argv := w.argv(d, f)
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", t.clientNS}, argv...)...)
	cmd.ExtraFiles = []*os.File{zeros}
	cmd.WaitDelay = time.Second
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return "", fmt.Errorf("%s did not end: %w", argv[0], ctx.Err())
	}
	if err != nil && !w.fails {
		return "", fmt.Errorf("%s: %w: %s", argv[0], err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

func (t *target) close() {
	if t.in != nil {
		t.in.Close()
	} else { // a reference: a process of its own, that ends its workers
		t.cmd.Process.Signal(syscall.SIGTERM)
	}
	done := make(chan struct{})
	go func() { t.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(15 * time.Second):
		t.cmd.Process.Kill()
		<-done
	}
}

func (b *bench) close() {
	for _, t := range b.targets {
		t.close()
	}
	for _, ns := range b.ns {
		removeNS(ns)
	}
	for _, dir := range b.dirs {
		os.RemoveAll(dir)
	}
}

// sweep removes the namespaces of runs that were killed.
func sweep() {
	left, _ := filepath.Glob("/run/netns/" + nsPrefix + "*")
	for _, path := range left {
		name := filepath.Base(path)
		pid, _, _ := strings.Cut(strings.TrimPrefix(name, nsPrefix), "-")
		if n, err := strconv.Atoi(pid); err == nil && syscall.Kill(n, 0) == syscall.ESRCH {
			removeNS(name)
		}
	}
}

// removeNS removes a namespace of ours, and first what still runs in it: a reference
// server does not end with this program.
func removeNS(name string) {
	out, _ := exec.Command("ip", "netns", "pids", name).Output()
	for pid := range strings.FieldsSeq(string(out)) {
		if n, err := strconv.Atoi(pid); err == nil && n > 1 {
			syscall.Kill(n, syscall.SIGKILL)
		}
	}
	exec.Command("ip", "netns", "del", name).Run()
}

// zeros is a file of size bytes that takes no memory: reads of a hole in it are
// served from one page of the kernel's.
func newZeros(size int64) (*os.File, error) {
	fd, err := memfd("zeros")
	if err != nil {
		return nil, fmt.Errorf("make file of zeros: %w", err)
	}
	f := os.NewFile(uintptr(fd), "zeros")
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
