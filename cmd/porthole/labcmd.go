package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"porthole"
	"porthole/cmd/porthole/internal/columns"
	"porthole/cmd/porthole/internal/lab"
	"porthole/cmd/porthole/internal/lab/catalogue"
	"porthole/cmd/porthole/internal/lab/rig"
)

type labCmd struct {
	List   labListCmd   `cmd:"" help:"The experiments: what each asks, and what can be set."`
	Run    labRunCmd    `cmd:"" help:"Run an experiment, or all: a table, figures, one sentence that says what was seen."`
	Inside labInsideCmd `cmd:"" hidden:""`
}

type labListCmd struct {
	JSON bool `help:"One JSON object a line."`
}

// Run lists the experiments with their parameters.
func (c *labListCmd) Run(con *console) error {
	for _, e := range catalogue.All() {
		if c.JSON {
			if err := json.NewEncoder(con.out).Encode(struct {
				Name     string      `json:"name"`
				Kind     lab.Kind    `json:"kind"`
				Question string      `json:"question"`
				VsKernel bool        `json:"vs_kernel"`
				Params   []lab.Param `json:"params"`
			}{e.Name, e.Kind, e.Question, e.Kernel, e.Params}); err != nil {
				return err
			}
			continue
		}
		vs := ""
		if e.Kernel {
			vs = ", --vs kernel"
		}
		fmt.Fprintf(con.out, "%s (%s%s)\n  %s\n", e.Name, e.Kind, vs, e.Question)
		rows := [][]string{}
		for i := range e.Params {
			p := &e.Params[i]
			rows = append(rows, []string{"   ", p.Name + "=" + p.Default(false), p.Range(), p.Doc})
		}
		fmt.Fprint(con.out, columns.Text(rows))
	}
	return nil
}

type labRunCmd struct {
	Name  string   `arg:"" help:"An experiment, see porthole lab list; or all."`
	Set   []string `sep:"none" placeholder:"NAME=VALUE" help:"Change a parameter; may be repeated. A sweep takes values with commas."`
	Seed  uint64   `default:"1" help:"Of all randomness: one seed, one result."`
	Vs    string   `placeholder:"kernel" help:"Run the same client against a kernel socket, too."`
	From  string   `placeholder:"FILE" help:"Recording for what-if: a capture, or what porthole flows --json printed."`
	Out   string   `placeholder:"DIR" type:"path" help:"Write report.html, data.csv, data.json and captures into DIR."`
	JSON  bool     `help:"The result as JSON, an object a line."`
	Quick bool     `help:"Fewer and shorter runs: all of them in a minute and a half."`
}

// Help is shown under `porthole lab run --help`.
func (labRunCmd) Help() string {
	return "Model experiments run on a virtual clock and give the same result for the same seed. Rig experiments bring a host up " +
		"in a private network, which needs what `porthole exec` needs. Ctrl-C shows what there is so far (exit code 130)."
}

// Run runs experiments and shows what they found.
func (c *labRunCmd) Run(con *console) error {
	todo, err := c.chosen()
	if err != nil {
		return usageError{fmt.Errorf("lab run: %w", err)}
	}
	o := lab.Options{Quick: c.Quick, Kernel: c.Vs == "kernel", Seed: c.Seed, Set: c.Set}
	ctx, stop := untilSignal()
	defer stop()
	bar := newLabBar(con, len(todo))
	defer bar.clear()
	runner := &lab.Runner{Version: porthole.Version, Inside: rig.Inside("lab", "inside"), Meter: lab.NewMeter(todo, c.Quick, bar.show)}
	var results []lab.Result
	var failed []string
	for _, e := range todo {
		res, err := runner.RunInto(ctx, e, o, c.dir(e))
		bar.clear()
		if len(res.Rows) == 0 && err != nil { // not even begun
			if len(todo) == 1 {
				return c.ended(ctx, con, err)
			}
			if ctx.Err() != nil {
				break // what others found is kept
			}
			fmt.Fprintf(con.err, "porthole: lab run: %s: %s\n", e.Name, oneLine(err.Error()))
			failed = append(failed, e.Name)
			continue
		}
		results = append(results, res)
		if serr := c.print(con, &res, len(results) > 1); serr != nil {
			return serr
		}
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			fmt.Fprintf(con.err, "porthole: lab run: %s: %s\n", e.Name, oneLine(err.Error()))
		}
		if !res.OK() || err != nil {
			failed = append(failed, e.Name)
		}
	}
	if c.Out != "" {
		if err := lab.WriteIndex(c.Out, results); len(todo) > 1 && err != nil {
			return fmt.Errorf("lab run: %w", err)
		}
		fmt.Fprintf(con.err, "report: %s\n", filepath.Join(c.Out, "report.html"))
	}
	if len(failed) > 0 && ctx.Err() == nil {
		return fmt.Errorf("lab run: %s did not give what was promised; see above", strings.Join(failed, ", "))
	}
	return c.ended(ctx, con, nil)
}

// ended is the error of a run that gave no row, or that a signal ended.
func (c *labRunCmd) ended(ctx context.Context, con *console, err error) error {
	if ctx.Err() != nil {
		if err != nil {
			fmt.Fprintln(con.err, "porthole: lab run: interrupted before the first row was ready")
		}
		return codeError(130)
	}
	if err != nil {
		return fmt.Errorf("lab run: %w", err)
	}
	return nil
}

// chosen are the experiments to run; it looks at all that can be wrong before anything
// runs.
func (c *labRunCmd) chosen() ([]*lab.Experiment, error) {
	all := catalogue.All()
	if c.Vs != "" && c.Vs != "kernel" {
		return nil, fmt.Errorf("--vs: %q is nothing to compare with; want kernel", c.Vs)
	}
	if c.Name == "all" {
		if len(c.Set) > 0 || c.From != "" {
			return nil, errors.New("--set and --from are for one experiment; name it instead of all")
		}
		return all, nil
	}
	e, err := lab.Find(all, c.Name)
	if err != nil {
		return nil, err
	}
	if c.From != "" {
		from, err := filepath.Abs(c.From)
		if err != nil {
			return nil, fmt.Errorf("--from: %w", err)
		}
		if !e.Has("from") {
			return nil, fmt.Errorf("--from: %s takes no recording; what-if does", e.Name)
		}
		c.Set = append(c.Set, "from="+from)
	}
	if c.Vs != "" && !e.Kernel {
		return nil, fmt.Errorf("--vs: %s has no kernel side to compare with; `porthole lab list` shows which have", e.Name)
	}
	if _, err := e.Values(c.Quick, c.Set); err != nil {
		return nil, err
	}
	return []*lab.Experiment{e}, nil
}

// dir is where an experiment's files go.
func (c *labRunCmd) dir(e *lab.Experiment) string {
	if c.Out == "" || c.Name != "all" {
		return c.Out
	}
	return filepath.Join(c.Out, e.Name)
}

func (c *labRunCmd) print(con *console, r *lab.Result, further bool) error {
	if c.JSON {
		return json.NewEncoder(con.out).Encode(r)
	}
	if further {
		fmt.Fprintln(con.out)
	}
	return r.WriteText(con.out)
}
