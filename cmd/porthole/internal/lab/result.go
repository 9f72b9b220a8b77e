package lab

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
)

// Result is what an experiment found: a plain value that goes through JSON and back.
// It holds no wall-clock time, so that two runs of a model experiment with one seed
// are the same byte for byte.
type Result struct {
	Experiment string    `json:"experiment"`
	Question   string    `json:"question"`
	Kind       Kind      `json:"kind"`
	About      string    `json:"about"`
	Setup      []string  `json:"setup,omitempty"` // facts of this run
	Parameters []Setting `json:"parameters,omitempty"`
	Columns    []Column  `json:"columns"`
	Rows       [][]any   `json:"rows"` // float64, string or nil
	Figures    []Figure  `json:"figures,omitempty"`
	Saw        string    `json:"saw"` // one sentence
	Means      string    `json:"means"`
	Checks     []Check   `json:"checks,omitempty"`
	Notes      []string  `json:"notes,omitempty"`
	Files      []string  `json:"files,omitempty"`   // beside the report: captures
	Partial    string    `json:"partial,omitempty"` // why it is not whole
	Repeat     Repeat    `json:"repeat"`
}

// Check is something that was promised, and whether it held.
type Check struct {
	What string `json:"what"`
	OK   bool   `json:"ok"`
}

// Repeat is how to get the result again.
type Repeat struct {
	Command string `json:"command"`
	Seed    uint64 `json:"seed"`
	Version string `json:"version"` // of porthole
	Go      string `json:"go"`
	Machine string `json:"machine"` // system, processors, kernel
	Stack   string `json:"stack,omitempty"`
}

// OK reports whether the result is whole and kept what was promised.
func (r *Result) OK() bool {
	for _, c := range r.Checks {
		if !c.OK {
			return false
		}
	}
	return r.Partial == ""
}

func repeat(e *Experiment, o Options, vs Values, version string) Repeat {
	words := []string{"porthole lab run", e.Name}
	defaults, _ := e.Values(o.Quick, nil)
	was := e.words(defaults)
	for i, s := range e.words(vs) {
		if s != was[i] {
			words = append(words, "--set "+quote(s.Name+"="+s.Value))
		}
	}
	if o.Quick {
		words = append(words, "--quick")
	}
	if o.Seed != DefaultSeed {
		words = append(words, fmt.Sprintf("--seed %d", o.Seed))
	}
	if o.Kernel && e.Kernel {
		words = append(words, "--vs kernel")
	}
	r := Repeat{Command: strings.Join(words, " "), Seed: o.Seed, Version: version, Go: runtime.Version(), Machine: machine()}
	if e.Kind == Rig {
		r.Stack = stackVersion()
	}
	return r
}

// quote makes one word of a shell's.
func quote(s string) string {
	if !strings.ContainsAny(s, " \t'\"$&|;<>()*?[]#~`\\!{}") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// machine is what a result may depend on.
func machine() string {
	s := fmt.Sprintf("%s/%s, %d processors", runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		s += ", kernel " + strings.TrimSpace(string(b))
	}
	return s
}

func stackVersion() string {
	bi, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, d := range bi.Deps {
		if d.Path == "gvisor.dev/gvisor" {
			return "gvisor " + d.Version
		}
	}
	return ""
}
