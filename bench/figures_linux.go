package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// kept measures what is left of the HTTP rate on port 80 while another port is
// flooded: the flooded rate over the quiet one, taken right before.
func kept(kind string) func(context.Context, *bench, *target, *files, *os.File) (sample, error) {
	return func(ctx context.Context, b *bench, t *target, f *files, zeros *os.File) (sample, error) {
		w := workNamed("http")
		rate := func() (sample, error) {
			out, err := t.run(ctx, w, b.o.time, f, zeros)
			if err != nil {
				return sample{}, err
			}
			return w.parse(out)
		}
		quiet, err := rate()
		if err != nil {
			return sample{}, err
		}
		// The flood begins before and ends after: wrk takes whole seconds.
		length := b.o.time.Round(time.Second) + 1500*time.Millisecond
		fl := t.command(ctx, selfPath, "client", kind, length.String())
		var out strings.Builder
		fl.Stdout = &out
		if err := fl.Start(); err != nil {
			return sample{}, err
		}
		defer fl.Wait()
		if err := sleep(ctx, 300*time.Millisecond); err != nil {
			return sample{}, err
		}
		busy, err := rate()
		if err != nil {
			return sample{}, err
		}
		if err := fl.Wait(); err != nil {
			return sample{}, fmt.Errorf("%s: %w", kind, err)
		}
		sent, err := parseOwn(out.String())
		if err != nil {
			return sample{}, err
		}
		return sample{Value: busy.Value / quiet.Value, Note: fmt.Sprintf("%.0f a second", sent.Value), Errors: quiet.Errors + busy.Errors}, nil
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// command runs something in the target's client namespace; it ends with ctx.
func (t *target) command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", t.clientNS}, argv...)...)
	cmd.WaitDelay = time.Second
	cmd.Stderr = os.Stderr
	return cmd
}

// idleConns is how many connections wait for their next request.
const idleConns = 10_000

// idleMemory is what a server's process grows by for each connection that asked once
// and is kept alive, in KiB. The kernel's own memory for veth's is not in it.
func idleMemory(ctx context.Context, b *bench, t *target, _ *files, _ *os.File) (sample, error) {
	fresh, end, err := b.fresh(ctx, t.name)
	if err != nil {
		return sample{}, err
	}
	defer end()
	before, err := fresh.heldMemory(ctx, 0)
	if err != nil {
		return sample{}, err
	}
	after, err := fresh.heldMemory(ctx, idleConns)
	return sample{Value: (after - before) * 1024 / idleConns}, err
}

// memory is what the server's process holds when it has given back all it can.
func (t *target) memory() (int64, error) {
	line, err := t.ask("memory")
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(line, 10, 64)
}

// heldMemory is the server's memory in MiB while n connections wait.
func (t *target) heldMemory(ctx context.Context, n int) (float64, error) {
	if n > 0 {
		hold := t.command(ctx, selfPath, "hold", strconv.Itoa(n), host+":80")
		in, err := hold.StdinPipe()
		if err != nil {
			return 0, err
		}
		out, err := hold.StdoutPipe()
		if err != nil {
			return 0, err
		}
		if err := hold.Start(); err != nil {
			return 0, err
		}
		defer hold.Wait()
		defer in.Close()
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "open\n" {
			return 0, fmt.Errorf("hold said %q: %w", line, err)
		}
	}
	m, err := t.memory()
	return float64(m) / (1 << 20), err
}

// restTime is how long held connections wait before they count as idle: a server may
// give back what an idle connection does not need, on kernel sockets or on porthole's.
const restTime = 2 * time.Second

// hold opens connections, asks once on each, waits, says so and keeps them until its
// input ends.
func hold(count, addr string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	conns := make([]net.Conn, n)
	errs := make([]error, 32)
	var wg sync.WaitGroup
	for w := range errs {
		wg.Go(func() {
			b := make([]byte, 4096)
			for i := w; i < n; i += len(errs) {
				c, err := net.DialTimeout("tcp4", addr, 10*time.Second)
				if err != nil {
					errs[w] = err
					return
				}
				conns[i] = c
				c.SetDeadline(time.Now().Add(20 * time.Second))
				if _, err = io.WriteString(c, "GET /blob/128 HTTP/1.1\r\nHost: "+zone+"\r\n\r\n"); err == nil {
					_, err = c.Read(b)
				}
				if err != nil {
					errs[w] = err
					return
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	time.Sleep(restTime)
	fmt.Println("open")
	_, err = io.Copy(io.Discard, os.Stdin)
	for _, c := range conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	return err
}

// program is the command that users run, beside this one.
func program() (string, error) {
	path := filepath.Join(filepath.Dir(selfPath), "porthole")
	_, err := os.Stat(path)
	return path, err
}

// started runs `porthole up` until it is ready and for half a second more.
func started(ctx context.Context, b *bench, figure func(ready time.Duration, rss int64) float64) (sample, error) {
	path, err := program()
	if err != nil {
		return sample{}, err
	}
	if b.upNS == "" {
		if b.upNS, err = b.namespace(ctx, "up"); err != nil {
			return sample{}, err
		}
	}
	dir, err := os.MkdirTemp("", "phbench-up")
	if err != nil {
		return sample{}, err
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("ip", "netns", "exec", b.upNS, path, "up", "--name", "bench", "--log-level", "error")
	cmd.Env = append(os.Environ(), "PORTHOLE_RUNTIME_DIR="+filepath.Join(dir, "run"))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return sample{}, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return sample{}, err
	}
	defer cmd.Wait()
	defer cmd.Process.Signal(unix.SIGTERM)
	for in := bufio.NewScanner(out); in.Scan(); {
		if in.Text() != "porthole: ready" {
			continue
		}
		ready := time.Since(began)
		go io.Copy(io.Discard, out)
		if err := sleep(ctx, 500*time.Millisecond); err != nil {
			return sample{}, err
		}
		return sample{Value: figure(ready, (&target{cmd: cmd}).rss())}, nil
	}
	return sample{}, fmt.Errorf("porthole up was never ready: %s", strings.TrimSpace(stderr.String()))
}

func startTime(ctx context.Context, b *bench, _ *target, _ *files, _ *os.File) (sample, error) {
	return started(ctx, b, func(ready time.Duration, _ int64) float64 { return float64(ready) / 1e6 })
}

func startMemory(ctx context.Context, b *bench, _ *target, _ *files, _ *os.File) (sample, error) {
	return started(ctx, b, func(_ time.Duration, rss int64) float64 { return float64(rss) / (1 << 20) })
}
