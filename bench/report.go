package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is all that a run found: what bench.json holds.
type report struct {
	When    time.Time     `json:"when"`
	Machine machineFacts  `json:"machine"`
	Rounds  int           `json:"rounds"`
	Time    time.Duration `json:"time_ns"` // of one measurement
	MTU     int           `json:"mtu"`
	Targets []string      `json:"targets"`
	Servers []serverFacts `json:"servers"`
	Works   []*result     `json:"works"`
	Missing []missing     `json:"not_measured,omitempty"`
	Busy    []float64     `json:"busy_before"` // share of the cores that others used, before each work of a round
}

type machineFacts struct {
	Kernel     string `json:"kernel"`
	Cores      int    `json:"cores"`
	Go         string `json:"go"`
	Congestion string `json:"congestion_control"`
}

type serverFacts struct {
	Name  string        `json:"name"`
	Ready time.Duration `json:"ready_ns"` // from making the namespace to the last good probe
	RSS   int64         `json:"idle_rss_bytes"`
}

type missing struct {
	Work string `json:"work"`
	Why  string `json:"why"`
}

// result is one row. Samples of a target are in the order of the rounds.
type result struct {
	Name    string              `json:"name"`
	About   string              `json:"about"`
	Unit    string              `json:"unit"`
	Reach   float64             `json:"reach,omitempty"`
	Beside  string              `json:"beside,omitempty"` // the reference; else it is veth
	Figure  bool                `json:"figure,omitempty"` // the value stands for itself; Reach is its bound
	Most    bool                `json:"most,omitempty"`   // and an upper one
	Samples map[string][]sample `json:"samples"`
	Ratios  map[string]spread   `json:"ratios"` // filled by summarize
}

// spread is a median with what was seen around it.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func (r *report) result(w *work) *result {
	for _, res := range r.Works {
		if res.Name == w.name {
			return res
		}
	}
	res := &result{
		Name: w.name, About: w.about, Unit: w.unit, Reach: w.reach, Samples: map[string][]sample{},
		Beside: w.beside, Figure: w.figure, Most: w.most,
	}
	r.Works = append(r.Works, res)
	return res
}

func spreadOf(v []float64) spread {
	if len(v) == 0 {
		return spread{}
	}
	v = slices.Clone(v)
	slices.Sort(v)
	m := v[len(v)/2]
	if len(v)%2 == 0 {
		m = (m + v[len(v)/2-1]) / 2
	}
	return spread{m, v[0], v[len(v)-1]}
}

func (res *result) values(target string) spread {
	var v []float64
	for _, s := range res.Samples[target] {
		v = append(v, s.Value)
	}
	return spreadOf(v)
}

// ratio is the median of the ratios of the rounds, which the machine's moods
// between rounds do not touch.
func (res *result) ratio(of, to string) (spread, bool) {
	var v []float64
	a, b := res.Samples[of], res.Samples[to]
	for i := range min(len(a), len(b)) {
		if b[i].Value > 0 {
			v = append(v, a[i].Value/b[i].Value)
		}
	}
	return spreadOf(v), len(v) > 0
}

// pairs are the ratios that are shown.
var pairs = [][2]string{{"offload", "veth"}, {"water", "veth"}, {"offload", "water"}}

func (r *report) summarize() {
	for _, res := range r.Works {
		res.Ratios = map[string]spread{}
		for _, p := range append(pairs, [2]string{"offload", res.Beside}) {
			if s, ok := res.ratio(p[0], p[1]); ok {
				res.Ratios[p[0]+"/"+p[1]] = s
			}
		}
	}
}

// line is the last round of a row, for those who wait.
func (res *result) line(targets []string) string {
	s := fmt.Sprintf("%-13s", res.Name)
	if res.Beside != "" {
		targets = []string{res.Beside, "offload"}
	}
	for _, t := range targets {
		if v := res.Samples[t]; len(v) > 0 {
			s += fmt.Sprintf("  %s %s", t, number(v[len(v)-1].Value))
		}
	}
	return s + "  " + res.Unit
}

func number(v float64) string {
	switch {
	case v >= 1000:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func (r *report) writeTable(w io.Writer) {
	fmt.Fprintf(w, "\n%s, %d cores, %s, MTU %d, %s; %d rounds of %v; medians, ratios of the same round [least most]\n\n",
		r.Machine.Kernel, r.Machine.Cores, r.Machine.Go, r.MTU, r.Machine.Congestion, r.Rounds, r.Time)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head := []string{"work", "unit"}
	head = append(head, r.Targets...)
	for _, p := range pairs {
		head = append(head, p[0]+"/"+p[1])
	}
	fmt.Fprintln(t, strings.Join(append(head, "reach"), "\t"))
	for _, res := range r.Works {
		if len(res.Samples) == 0 || res.Beside != "" || res.Figure {
			continue // interrupted before the first, or in a table below
		}
		row := []string{res.Name, res.Unit}
		for _, name := range r.Targets {
			row = append(row, number(res.values(name).Median))
		}
		for _, p := range pairs {
			cell := ""
			if s, ok := res.ratio(p[0], p[1]); ok {
				cell = fmt.Sprintf("%.2f [%.2f %.2f]", s.Median, s.Min, s.Max)
			}
			row = append(row, cell)
		}
		fmt.Fprintln(t, strings.Join(append(row, res.reach()), "\t"))
	}
	t.Flush()
	r.writeBeside(w)
	r.writeFigures(w)
	r.writeNotes(w)
}

// writeBeside is the table of the works that servers in C do too.
func (r *report) writeBeside(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head := "\nwork\tunit\treference\t\toffload\toffload/reference\treach"
	for _, res := range r.Works {
		s, ok := res.ratio("offload", res.Beside)
		if res.Beside == "" || !ok {
			continue
		}
		if head != "" {
			fmt.Fprintln(t, head)
			head = ""
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%.2f [%.2f %.2f]\t%s\n", res.Name, res.Unit, res.Beside,
			number(res.values(res.Beside).Median), number(res.values("offload").Median), s.Median, s.Min, s.Max, res.reach())
	}
	t.Flush()
}

// writeFigures is the table of values that stand for themselves.
func (r *report) writeFigures(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head := "\nfigure\tunit\t" + strings.Join(r.Targets, "\t") + "\treach"
	for _, res := range r.Works {
		if !res.Figure || len(res.Samples) == 0 {
			continue
		}
		if head != "" {
			fmt.Fprintln(t, head)
			head = ""
		}
		row := []string{res.Name, res.Unit}
		for _, name := range r.Targets {
			cell := ""
			if len(res.Samples[name]) > 0 {
				v := res.values(name)
				cell = fmt.Sprintf("%s [%s %s]", number(v.Median), number(v.Min), number(v.Max))
			}
			row = append(row, cell)
		}
		fmt.Fprintln(t, strings.Join(append(row, res.reach()), "\t"))
	}
	t.Flush()
}

// reach is what is asked for, in words.
func (res *result) reach() string {
	switch {
	case res.Reach == 0:
		return ""
	case res.Most:
		return "at most " + number(res.Reach)
	}
	return fmt.Sprintf("%.2f", res.Reach)
}

// writeNotes says what stands behind the figures.
func (r *report) writeNotes(w io.Writer) {
	fmt.Fprintln(w)
	for _, res := range r.Works {
		fmt.Fprintf(w, "%s: %s\n", res.Name, res.About)
		for _, name := range res.targets(r.Targets) {
			var total sample
			var cpu []float64
			for _, s := range res.Samples[name] {
				total.Errors += s.Errors
				total.Retrans += s.Retrans
				total.PeerAgain += s.PeerAgain
				total.SrvRetrans += s.SrvRetrans
				cpu = append(cpu, s.CPU)
				if s.Note != "" {
					total.Note = s.Note
				}
			}
			if res.Figure {
				if total.Note != "" {
					fmt.Fprintf(w, "    %-8s %s\n", name, total.Note)
				}
				continue
			}
			fmt.Fprintf(w, "    %-8s server CPU %.2f cores, client retransmitted %d, got again %d", name, spreadOf(cpu).Median, total.Retrans, total.PeerAgain)
			if name == "veth" {
				fmt.Fprintf(w, ", server retransmitted %d", total.SrvRetrans)
			}
			if total.Errors > 0 {
				fmt.Fprintf(w, ", ERRORS %d", total.Errors)
			}
			if total.Note != "" {
				fmt.Fprintf(w, ": %s", total.Note)
			}
			fmt.Fprintln(w)
		}
	}
	fmt.Fprintln(w)
	for _, s := range r.Servers {
		fmt.Fprintf(w, "%s: ready after %v, idle RSS %.0f MiB\n", s.Name, s.Ready.Round(time.Millisecond), float64(s.RSS)/(1<<20))
	}
	for _, m := range r.Missing {
		fmt.Fprintf(w, "not measured: %s: %s\n", m.Work, m.Why)
	}
	if noisy, busy := r.disturbed(), spreadOf(r.Busy); noisy > 0 {
		fmt.Fprintf(w, "noisy: before %d of %d measurements others used more than %.0f %% of the machine (median %.0f %%, most %.0f %%)\n",
			noisy, len(r.Busy), quietShare*100, busy.Median*100, busy.Max*100)
	}
}

// targets are those that a work was measured on.
func (res *result) targets(all []string) (on []string) {
	for _, t := range append([]string{res.Beside}, all...) {
		if len(res.Samples[t]) > 0 {
			on = append(on, t)
		}
	}
	return on
}

// disturbed counts the measurements that did not get a quiet machine.
func (r *report) disturbed() (n int) {
	for _, b := range r.Busy {
		if b > quietShare {
			n++
		}
	}
	return n
}

// noisy is disturbed in words, for the picture.
func (r *report) noisy() string {
	if n := r.disturbed(); n > 0 {
		return fmt.Sprintf("; %d of %d not on a quiet machine", n, len(r.Busy))
	}
	return ""
}

// quietShare is how much of the machine others may use for it to count as quiet.
const quietShare = 0.10

// writeBench prints one line per measurement, for benchstat.
func (r *report) writeBench(w io.Writer) {
	fmt.Fprintf(w, "goos: linux\ngoarch: %s\npkg: porthole/bench\n", runtime.GOARCH)
	told := map[string]bool{}
	for _, res := range r.Works {
		if better := map[bool]string{false: "higher", true: "lower"}[res.Most]; !told[res.Unit] {
			told[res.Unit] = true
			fmt.Fprintf(w, "Unit %s better=%s\n", res.Unit, better)
		}
	}
	for _, res := range r.Works {
		for _, t := range res.targets(r.Targets) {
			for _, s := range res.Samples[t] {
				fmt.Fprintf(w, "Benchmark%s/%s 1 %g %s\n", title(res.Name), t, s.Value, res.Unit)
			}
		}
	}
}

// title is bulk-down as BulkDown.
func title(s string) string {
	out := ""
	for _, p := range strings.Split(s, "-") {
		out += strings.ToUpper(p[:1]) + p[1:]
	}
	return out
}

func (r *report) save(dir string) error {
	r.summarize()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "bench.json"), append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "bench.svg"), r.svg(), 0o644)
}
