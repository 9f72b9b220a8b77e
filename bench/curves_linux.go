package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"porthole/internal/netns"
)

// measureCurves measures how cost grows with the work: requests a second and memory
// against connections, memory against queued packets.
func measureCurves(ctx context.Context, o *options) (*curves, error) {
	o.targets = []string{"veth", "offload"}
	b, err := newBench(ctx, o)
	if err != nil {
		return nil, err
	}
	defer b.close()
	c := &curves{When: time.Now().UTC().Truncate(time.Second), Machine: machine(), Time: o.time, Rounds: o.rounds}
	c.Machine.Congestion = b.cc
	for _, t := range b.targets {
		for _, n := range []int{0, 1000, 2500, 5000, 10000} {
			v, err := t.heldMemory(ctx, n)
			if err != nil {
				return nil, fmt.Errorf("%d connections on %s: %w", n, t.name, err)
			}
			c.ConnMemory = append(c.ConnMemory, point{t.name, float64(n), v})
		}
	}
	for _, n := range []int{0, 1024, 4096, 16384, 24576} {
		v, err := b.queuedMemory(ctx, n)
		if err != nil {
			return nil, fmt.Errorf("%d queued packets: %w", n, err)
		}
		c.QueueMemory = append(c.QueueMemory, point{"offload", float64(n), v})
	}
	f := &files{}
	for _, n := range []int{1, 4, 16, 64, 256, 1000, 4000, 10000} {
		w := workNamed("http")
		own := *w
		own.argv = func(t time.Duration, _ *files) []string {
			return []string{"wrk", "-t1", "-c" + strconv.Itoa(n), "-d" + whole(t) + "s", "--timeout", "10s", "http://" + host + "/blob/128"}
		}
		rates := map[string][]float64{}
		length := max(o.time, 2*time.Second)
		if n >= 4000 { // that many have to connect first
			length += 4 * time.Second
		}
		for range o.rounds {
			waitQuiet(ctx, o.quiet)
			for _, t := range b.targets {
				out, err := t.run(ctx, &own, length, f, nil)
				if err != nil {
					return nil, fmt.Errorf("%d connections on %s: %w", n, t.name, err)
				}
				s, err := w.parse(out)
				if err != nil {
					return nil, err
				}
				rates[t.name] = append(rates[t.name], s.Value)
			}
		}
		for _, t := range b.targets {
			c.ConnRate = append(c.ConnRate, point{t.name, float64(n), spreadOf(rates[t.name]).Median})
		}
		fmt.Fprintf(os.Stderr, "%d connections: %v\n", n, rates)
	}
	return c, nil
}

// queuedMemory is porthole's memory in MiB while n datagrams stand in a queue.
func (b *bench) queuedMemory(ctx context.Context, n int) (float64, error) {
	i := indexOf(b.o.targets, "offload")
	t := b.targets[i]
	if n > 0 {
		if err := t.tell("queue %d", n); err != nil {
			return 0, err
		}
		defer t.tell("unqueue")
		if err := netns.Do(t.clientNS, func() error { return fill(n) }); err != nil {
			return 0, err
		}
		line, err := t.ask("queued")
		if err != nil {
			return 0, err
		}
		if line != strconv.Itoa(n) {
			return 0, fmt.Errorf("%s datagrams are queued", line)
		}
	}
	m, err := t.memory()
	return float64(m) / (1 << 20), errors.Join(err, ctx.Err())
}

// fill sends n datagrams and a few more to 9/udp, no faster than a device's ring takes.
func fill(n int) error {
	c, err := net.Dial("udp4", host+":9")
	if err != nil {
		return err
	}
	defer c.Close()
	for i := range n + n/4 + 64 {
		if _, err := c.Write([]byte("queued")); err != nil {
			return err
		}
		if i%64 == 63 {
			time.Sleep(time.Millisecond)
		}
	}
	time.Sleep(200 * time.Millisecond)
	return nil
}
