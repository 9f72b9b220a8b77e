// Package lab runs experiments that show how ports, handshakes and queue sizes
// behave. An Experiment asks one question and answers with a table, figures and one
// sentence that says what was seen. There are two kinds:
//
//	model   drives the product's own queue and door on a virtual clock: hours take
//	        moments, and a seed gives the same result bit for bit
//	rig     runs a whole host on a real TUN device in a private network, with kernel
//	        sockets as clients; --vs kernel runs the same client against a kernel
//	        socket in the same network
//
// An experiment is one file with one literal, in lab/model or lab/rig, and one line
// in lab/catalogue. This package knows neither queue nor device: it holds parameters
// (param.go), the Run that an experiment writes its result into (run.go), the Result
// as a plain value (result.go), its forms (text.go, report.go, files.go), and the
// order in which several run (runner.go).
package lab

import (
	"context"
	"time"

	"porthole/cmd/porthole/internal/plot"
)

// Kind is model or rig.
type Kind string

// The kinds of experiments.
const (
	Model Kind = "model"
	Rig   Kind = "rig"
)

// Experiment is one question and the way to its answer.
type Experiment struct {
	Name     string // "queue-loss"
	Question string // one sentence, with its question mark
	Kind     Kind
	// About says how the question is put: what drives what, which theory stands
	// beside, what is left out. A paragraph of the report.
	About string
	// Means says what a reader takes home, whatever the numbers of one run.
	Means string
	// Kernel says that --vs kernel has something to compare with.
	Kernel bool
	// Params are what --set may change.
	Params []Param
	// Columns are the table's.
	Columns []Column
	// Takes is about how long it takes on two cores, and QuickTakes with --quick. The
	// remaining time of `run all` is reckoned from them.
	Takes, QuickTakes time.Duration
	// Run does it. It writes what it finds into r as it goes, so that an interrupted
	// run has something to show, and returns soon after ctx ends, with ctx's error.
	Run func(ctx context.Context, r *Run) error
}

// Column is one column of the table. Cells are numbers, texts, or nil for nothing.
type Column struct {
	Name   string `json:"name"`
	Unit   string `json:"unit,omitempty"`
	Digits int    `json:"digits"` // behind the point, in text
}

// Figure, Axis, Series, Point and Mark are plot's: an experiment needs this package alone.
type (
	Figure = plot.Figure
	Axis   = plot.Axis
	Series = plot.Series
	Point  = plot.Point
	Mark   = plot.Mark
)

// The kinds of series.
const (
	Theory   = plot.Theory
	Measured = plot.Measured
	Kernel   = plot.Kernel
)

func (e *Experiment) takes(quick bool) time.Duration {
	d := e.Takes
	if quick {
		d = e.QuickTakes
	}
	return max(d, 100*time.Millisecond)
}

// Has reports whether the experiment has that parameter.
func (e *Experiment) Has(name string) bool {
	for i := range e.Params {
		if e.Params[i].Name == name {
			return true
		}
	}
	return false
}
