package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// measure runs all rounds. It returns what it has when ctx ends in the middle.
func measure(ctx context.Context, o *options) (*report, error) {
	dir, err := os.MkdirTemp("", "phbench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	f := &files{queries: filepath.Join(dir, "queries"), zeros: "/dev/fd/3"}
	if err := os.WriteFile(f.queries, []byte(queries()), 0o600); err != nil {
		return nil, err
	}
	zeros, err := newZeros(zerosSize)
	if err != nil {
		return nil, err
	}
	defer zeros.Close()

	r := &report{When: time.Now().UTC().Truncate(time.Second), Rounds: o.rounds, Time: o.time, MTU: o.mtu, Targets: o.targets}
	r.Machine = machine()
	todo := pick(o, r)
	b, err := newBench(ctx, o)
	if err != nil {
		return r, err
	}
	defer b.close()
	r.Machine.Congestion = b.cc
	for _, t := range b.targets {
		r.Servers = append(r.Servers, serverFacts{t.name, t.ready, t.rss()})
	}
	began := time.Now()
	for round := range o.rounds {
		if spent := time.Since(began); o.limit > 0 && round > 0 && spent+spent/time.Duration(round) > o.limit {
			r.Missing = append(r.Missing, missing{"round " + strconv.Itoa(round+1), "it would not have ended within " + o.limit.String()})
			r.Rounds = round
			break
		}
		for _, w := range todo {
			busy := waitQuiet(ctx, o.quiet)
			if ctx.Err() != nil {
				return r, ctx.Err()
			}
			res := r.result(w)
			r.Busy = append(r.Busy, busy)
			targets, err := b.targetsOf(ctx, w)
			if err != nil {
				return r, err
			}
			for i := range targets {
				t := targets[(round+i)%len(targets)]
				s, err := b.sample(ctx, t, w, f, zeros, round)
				if err != nil {
					if ctx.Err() != nil {
						return r, ctx.Err()
					}
					return r, fmt.Errorf("%s on %s: %w", w.name, t.name, err)
				}
				s.Noisy = busy > quietShare
				res.Samples[t.name] = append(res.Samples[t.name], s)
			}
			fmt.Fprintf(os.Stderr, "round %d/%d  %s\n", round+1, o.rounds, res.line(o.targets))
		}
	}
	return r, nil
}

// pick names the works whose clients are here, and says which are not.
func pick(o *options, r *report) (todo []*work) {
	for _, w := range allWorks() {
		if !o.only.MatchString(w.name) {
			continue
		}
		if w.long && o.quick {
			r.Missing = append(r.Missing, missing{w.name, "quick leaves it out"})
			continue
		}
		if ref := referenceNamed(w.beside); ref != nil {
			if _, err := exec.LookPath(ref.name); err != nil {
				r.Missing = append(r.Missing, missing{w.name, fmt.Sprintf("no %s here: install the Debian package %s", ref.name, ref.pack)})
				continue
			}
		}
		if w.name == "start" || w.name == "rss" {
			if _, err := program(); err != nil {
				r.Missing = append(r.Missing, missing{w.name, "no porthole beside this program: make build"})
				continue
			}
		}
		if _, err := exec.LookPath(w.tool); w.tool != "self" && err != nil {
			m := missing{w.name, fmt.Sprintf("no %s here: install the Debian package %s", w.tool, w.pack)}
			if w.instead == nil {
				r.Missing = append(r.Missing, m)
				continue
			}
			m.Why += "; measured with an own client instead"
			r.Missing = append(r.Missing, m)
			w = w.instead
		}
		todo = append(todo, w)
	}
	return todo
}

// targetsOf are the targets that a work is measured on. A reference starts when it is
// first needed.
func (b *bench) targetsOf(ctx context.Context, w *work) (ts []*target, err error) {
	want := func(t *target) bool {
		switch {
		case w.beside != "":
			return t.name == w.beside || t.name == "offload"
		case referenceNamed(t.name) != nil:
			return false
		}
		return w.on == nil || indexOf(w.on, t.name) >= 0
	}
	found := false
	for _, t := range b.targets {
		if want(t) {
			ts = append(ts, t)
		}
		found = found || t.name == w.beside
	}
	if w.beside != "" && !found {
		t, err := b.startReference(ctx, referenceNamed(w.beside))
		if err != nil {
			return nil, err
		}
		ts = append(ts, t)
	}
	return ts, nil
}

// sample measures one work on one target.
func (b *bench) sample(ctx context.Context, t *target, w *work, f *files, zeros *os.File, round int) (sample, error) {
	profile := ""
	if b.o.profile != "" && t.in != nil && w.run == nil && round == b.o.rounds-1 {
		profile, _ = filepath.Abs(filepath.Join(b.o.profile, w.name+"-"+t.name+".prof"))
		if err := t.tell("profile %s", profile); err != nil {
			return sample{}, err
		}
	}
	c0, s0, cpu0, began := t.clientCounters(), t.serverCounters(), t.cpu(), time.Now()
	var s sample
	var out string
	var err error
	if w.run != nil {
		s, err = w.run(ctx, b, t, f, zeros)
	} else {
		out, err = t.run(ctx, w, b.o.time, f, zeros)
	}
	took := time.Since(began)
	cpu1, c1, s1 := t.cpu(), t.clientCounters(), t.serverCounters()
	if profile != "" {
		if err := t.tell("stop"); err != nil {
			return sample{}, err
		}
	}
	if err != nil {
		return sample{}, err
	}
	if w.run == nil {
		if s, err = w.parse(out); err != nil {
			return s, err
		}
	}
	s.Retrans, s.PeerAgain, s.SrvRetrans = c1.retrans-c0.retrans, c1.again-c0.again, s1.retrans-s0.retrans
	if t.in == nil { // a reference's workers are processes of their own
		return s, nil
	}
	s.CPU = (cpu1 - cpu0).Seconds() / took.Seconds()
	return s, nil
}

func machine() machineFacts {
	m := machineFacts{Cores: runtime.NumCPU(), Go: runtime.Version()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
	}
	return m
}
