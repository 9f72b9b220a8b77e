package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"porthole/internal/spell"
)

// Inside runs a rig experiment where it may make devices, and returns what Do would.
// The error is why the result is not whole.
type Inside func(ctx context.Context, e *Experiment, o Options, progress func(float64)) (Result, error)

// Runner runs experiments one after the other.
type Runner struct {
	Version string
	Inside  Inside
	// Meter is told how far all of it is; nil tells nobody.
	Meter *Meter
}

// Do runs one experiment in this process.
func Do(ctx context.Context, e *Experiment, o Options, version string, progress func(float64)) (Result, error) {
	r, err := NewRun(e, o, version)
	if err != nil {
		return Result{}, err
	}
	if progress != nil {
		r.progress = progress
	}
	return do(ctx, e, r)
}

// Run runs one experiment where it belongs.
func (n *Runner) Run(ctx context.Context, e *Experiment, o Options) (Result, error) {
	progress := func(done float64) { n.Meter.at(e, done) }
	n.Meter.begin(e)
	defer n.Meter.end(e)
	if e.Kind == Rig {
		return n.Inside(ctx, e, o, progress)
	}
	return Do(ctx, e, o, n.Version, progress)
}

// RunInto is Run, and writes the files of its report into dir, which it makes.
func (n *Runner) RunInto(ctx context.Context, e *Experiment, o Options, dir string) (Result, error) {
	if dir != "" {
		if err := makeDir(dir); err != nil {
			return Result{}, fmt.Errorf("--out: %w", err)
		}
		o.Dir = dir
	}
	res, err := n.Run(ctx, e, o)
	if dir != "" && res.Experiment != "" {
		err = errors.Join(err, res.WriteFiles(dir))
	}
	return res, err
}

// WriteIndex writes one report about all results into dir.
func WriteIndex(dir string, rs []Result) error {
	return writeFile(filepath.Join(dir, reportFile), func(w io.Writer) error { return WriteReport(w, rs) })
}

// Find is the experiment of that name in the catalogue.
func Find(all []*Experiment, name string) (*Experiment, error) {
	var names []string
	for _, e := range all {
		if e.Name == name {
			return e, nil
		}
		names = append(names, e.Name)
	}
	if near := spell.Nearest(name, append(slices.Clone(names), "all")); near != "" {
		return nil, fmt.Errorf("no experiment %q; did you mean %s?", name, near)
	}
	return nil, fmt.Errorf("no experiment %q; `porthole lab list` shows those there are", name)
}

// Meter reckons what is done of several experiments and how long the rest takes, from
// how long each usually takes and how fast this machine was so far. A nil Meter tells
// nobody.
type Meter struct {
	Show func(Status)

	quick bool
	all   []*Experiment
	began time.Time

	mu   sync.Mutex // guards what follows
	done map[*Experiment]float64
	now  *Experiment
}

// Status is how far a run is.
type Status struct {
	Now       string  // the experiment that runs
	N, Of     int     // it is the N-th
	Done      float64 // of all, 0 to 1
	Remaining time.Duration
	Known     bool // Remaining is more than the usual time
	Ended     bool // Now has ended
}

// NewMeter makes the meter of these experiments.
func NewMeter(all []*Experiment, quick bool, show func(Status)) *Meter {
	return &Meter{Show: show, quick: quick, all: all, began: time.Now(), done: map[*Experiment]float64{}}
}

func (m *Meter) begin(e *Experiment) {
	if m == nil {
		return
	}
	m.mu.Lock()
	m.now = e
	m.mu.Unlock()
	m.at(e, 0)
}

func (m *Meter) end(e *Experiment) { m.tell(e, 1, true) }

func (m *Meter) at(e *Experiment, done float64) { m.tell(e, done, false) }

func (m *Meter) tell(e *Experiment, done float64, ended bool) {
	if m == nil {
		return
	}
	m.mu.Lock()
	m.done[e] = max(m.done[e], done)
	s := m.statusLocked(time.Since(m.began))
	s.Ended = ended
	m.mu.Unlock()
	m.Show(s)
}

func (m *Meter) statusLocked(elapsed time.Duration) Status {
	var usual, did float64 // seconds
	s := Status{Of: len(m.all)}
	for i, e := range m.all {
		t := e.takes(m.quick).Seconds()
		usual += t
		did += t * m.done[e]
		if e == m.now {
			s.Now, s.N = e.Name, i+1
		}
	}
	pace := 1.0 // of this machine: until a while has passed, the usual one
	if did > 1 {
		s.Known = true
		trust := min(did/10, 1)
		pace = 1 - trust + trust*elapsed.Seconds()/did
	}
	s.Done = did / usual
	s.Remaining = time.Duration((usual - did) * pace * float64(time.Second))
	return s
}
