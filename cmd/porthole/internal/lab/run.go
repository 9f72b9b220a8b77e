package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"
)

// DefaultSeed is the seed of a run that names none.
const DefaultSeed = 1

// Options are what a run was asked for.
type Options struct {
	Quick  bool     `json:"quick,omitempty"`
	Kernel bool     `json:"kernel,omitempty"` // --vs kernel
	Seed   uint64   `json:"seed"`
	Set    []string `json:"set,omitempty"` // "name=value"
	// Dir is where files of this experiment go beside its report; "" keeps none. It
	// exists.
	Dir string `json:"dir,omitempty"`
}

// Run is one run of an experiment: its parameters, its randomness, and the result as
// far as it has got. Its methods may be called from any goroutine.
type Run struct {
	Options
	values Values

	mu       sync.Mutex // guards what follows
	res      Result
	progress func(done float64)
}

// NewRun makes a run of e. Its error is about the parameters.
func NewRun(e *Experiment, o Options, version string) (*Run, error) {
	vs, err := e.Values(o.Quick, o.Set)
	if err != nil {
		return nil, err
	}
	o.Kernel = o.Kernel && e.Kernel // `run all --vs kernel` asks also those that have no such side
	return &Run{Options: o, values: vs, progress: func(float64) {}, res: Result{
		Experiment: e.Name, Question: e.Question, Kind: e.Kind, About: e.About, Means: e.Means,
		Parameters: e.words(vs), Columns: e.Columns, Rows: [][]any{}, Repeat: repeat(e, o, vs, version),
	}}, nil
}

// Int, Float, Duration, Text and their plurals are parameters' values.
func (r *Run) Int(name string) int                   { return r.values[name].(int) }
func (r *Run) Ints(name string) []int                { return r.values[name].([]int) }
func (r *Run) Float(name string) float64             { return r.values[name].(float64) }
func (r *Run) Floats(name string) []float64          { return r.values[name].([]float64) }
func (r *Run) Duration(name string) time.Duration    { return r.values[name].(time.Duration) }
func (r *Run) Durations(name string) []time.Duration { return r.values[name].([]time.Duration) }
func (r *Run) Text(name string) string               { return r.values[name].(string) }
func (r *Run) Texts(name string) []string            { return r.values[name].([]string) }

// Rand is randomness of its own for each list of words: what one cell of a sweep draws
// does not depend on which other cells there are, or on their order.
func (r *Run) Rand(words ...any) *rand.Rand {
	h := fnv.New64a()
	fmt.Fprint(h, r.res.Experiment)
	for _, w := range words {
		fmt.Fprint(h, "\x00", w)
	}
	return rand.New(rand.NewPCG(r.Seed, h.Sum64()))
}

// Progress says how much is done, from 0 to 1.
func (r *Run) Progress(done float64) {
	r.mu.Lock()
	f := r.progress
	r.mu.Unlock()
	f(min(max(done, 0), 1))
}

// Setup adds a fact of this run that is no parameter.
func (r *Run) Setup(format string, args ...any) {
	r.change(func(res *Result) { res.Setup = append(res.Setup, fmt.Sprintf(format, args...)) })
}

// Saw is the one sentence that says what was seen.
func (r *Run) Saw(format string, args ...any) {
	r.change(func(res *Result) { res.Saw = fmt.Sprintf(format, args...) })
}

// Note adds what a reader must know of this run: what was left out, and why.
func (r *Run) Note(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	r.change(func(res *Result) {
		if !slices.Contains(res.Notes, s) {
			res.Notes = append(res.Notes, s)
		}
	})
}

// Check says whether something that is promised held.
func (r *Run) Check(ok bool, format string, args ...any) {
	r.change(func(res *Result) { res.Checks = append(res.Checks, Check{fmt.Sprintf(format, args...), ok}) })
}

// Row adds a row to the table: a cell a column. Numbers of any kind, texts, booleans
// and nil; a time.Duration takes the column's unit (ns, µs, ms or s).
func (r *Run) Row(cells ...any) {
	r.change(func(res *Result) {
		if len(cells) != len(res.Columns) {
			panic(fmt.Sprintf("lab: %s has %d columns, got %d cells", res.Experiment, len(res.Columns), len(cells)))
		}
		row := make([]any, len(cells))
		for i, c := range cells {
			row[i] = cell(c, res.Columns[i].Unit)
		}
		res.Rows = append(res.Rows, row)
	})
}

func cell(c any, unit string) any {
	switch c := c.(type) {
	case nil, string:
		return c
	case float64:
		if math.IsNaN(c) || math.IsInf(c, 0) {
			return nil // JSON has neither
		}
		return c
	case time.Duration:
		per := map[string]time.Duration{"ns": 1, "µs": time.Microsecond, "ms": time.Millisecond, "s": time.Second}[unit]
		if per == 0 {
			panic(fmt.Sprintf("lab: a duration in a column of unit %q", unit))
		}
		return float64(c) / float64(per)
	case bool:
		if c {
			return "yes"
		}
		return "no"
	case int:
		return float64(c)
	case int64:
		return float64(c)
	case uint64:
		return float64(c)
	}
	return fmt.Sprint(c)
}

// Figure adds a figure, or replaces the one of the same name.
func (r *Run) Figure(f Figure) {
	r.change(func(res *Result) {
		for i := range res.Figures {
			if res.Figures[i].Name == f.Name {
				res.Figures[i] = f
				return
			}
		}
		res.Figures = append(res.Figures, f)
	})
}

// File writes a file beside the report, where one is made, and lists it.
func (r *Run) File(name string, write func(path string) error) error {
	if r.Dir == "" {
		return nil
	}
	if err := write(filepath.Join(r.Dir, name)); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	r.change(func(res *Result) { res.Files = append(res.Files, name) })
	return nil
}

// Keeps reports whether File keeps anything.
func (r *Run) Keeps() bool { return r.Dir != "" }

func (r *Run) change(f func(*Result)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.res)
}

// Result is the result as far as it has got.
func (r *Run) Result() Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, err := json.Marshal(&r.res) // a deep copy, and the same that other processes see
	if err != nil {
		panic(fmt.Sprintf("lab: result of %s: %v", r.res.Experiment, err))
	}
	var c Result
	if err := json.Unmarshal(b, &c); err != nil {
		panic(fmt.Sprintf("lab: result of %s: %v", r.res.Experiment, err))
	}
	return c
}

// grace is how long an experiment may take to end after it was told to.
const grace = 5 * time.Second

// do runs e to its end, or to a moment after ctx ends, and returns what there is. The
// error is why the result is not whole; it is also in the result.
func do(ctx context.Context, e *Experiment, r *Run) (Result, error) {
	limit := limitOf(e, r.Quick)
	bounded, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than %v", limit))
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- e.Run(bounded, r) }()
	var err error
	select {
	case err = <-done:
	case <-bounded.Done():
		late := time.NewTimer(grace)
		defer late.Stop()
		select {
		case err = <-done:
		case <-late.C:
			err = fmt.Errorf("%w; it did not end within %v", context.Cause(bounded), grace)
		}
	}
	switch {
	case err == nil:
		err = ctx.Err()
	case ctx.Err() == nil && bounded.Err() != nil && errors.Is(err, bounded.Err()):
		err = context.Cause(bounded)
	}
	res := r.Result()
	if err != nil {
		res.Partial = partial(ctx, err, len(res.Rows))
		res.Saw = ""
	}
	return res, err
}

// limitOf is how long an experiment may take. A model's depends on what was asked of
// it, and Ctrl-C ends it at any time; a rig must not stand for ever.
func limitOf(e *Experiment, quick bool) time.Duration {
	if e.Kind == Model {
		return 24 * time.Hour
	}
	return 10*e.takes(quick) + 5*time.Minute
}

func partial(ctx context.Context, err error, rows int) string {
	why := err.Error()
	if ctx.Err() != nil {
		why = "interrupted"
	}
	were := "rows that were"
	if rows == 1 {
		were = "row that was"
	}
	return fmt.Sprintf("%s; the table has the %d %s ready", why, rows, were)
}

// Cells calls f for 0 to n-1, several at once, and reports the progress. Those that
// are ready are handed to ready in their order, also when ctx ends or f fails: then
// the rest is left out. f looks at ctx now and then.
func Cells[T any](ctx context.Context, r *Run, n int, f func(ctx context.Context, i int) (T, error), ready func(i int, v T)) error {
	type cell struct {
		v  T
		ok bool
	}
	cells := make([]cell, n)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex // guards next, done and first
	var next, done int
	var first error
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), n) {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= n || ctx.Err() != nil {
					return
				}
				v, err := f(ctx, i)
				mu.Lock()
				if err != nil {
					if first == nil {
						first = err
					}
					mu.Unlock()
					cancel()
					return
				}
				cells[i] = cell{v, true}
				done++
				share := float64(done) / float64(n)
				mu.Unlock()
				r.Progress(share)
			}
		})
	}
	wg.Wait()
	for i, c := range cells {
		if c.ok {
			ready(i, c.v)
		}
	}
	if first == nil && done < n {
		first = context.Cause(ctx)
	}
	return first
}

// makeDir makes a directory for files.
func makeDir(dir string) error { return os.MkdirAll(dir, 0o755) }
