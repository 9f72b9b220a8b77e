// Package plot draws the lab's figures as SVG, on gonum.org/v1/plot.
//
// A Figure is a plain value: axes with units, series of points, marks. What a
// series is decides how it looks, so that a reader tells theory from measurement
// without colour:
//
//	theory     a line without markers
//	measured   filled markers, joined by a thin solid line unless a theory of the
//	           same group runs there
//	kernel     hollow markers, joined by a dashed line
//
// Group decides the colour (Okabe and Ito's eight, which colour-blind readers tell
// apart), the marker's shape and the dash pattern of a theory line: what belongs
// together, say one queue size in theory, measured and in the kernel, has one group.
package plot

import "math"

// Figure is one diagram.
type Figure struct {
	Name    string   `json:"name"` // of its file and anchor: "loss"
	Title   string   `json:"title"`
	X       Axis     `json:"x"`
	Y       Axis     `json:"y"`
	Series  []Series `json:"series"`
	Marks   []Mark   `json:"marks,omitempty"`
	Caption string   `json:"caption,omitempty"` // below it: how to read it
}

// Axis is one axis. Min and Max bound what is drawn where they differ; on a
// logarithmic axis Min is also where values of 0 are drawn.
type Axis struct {
	Label string  `json:"label"`
	Unit  string  `json:"unit,omitempty"`
	Log   bool    `json:"log,omitempty"`
	Min   float64 `json:"min,omitempty"`
	Max   float64 `json:"max,omitempty"`
}

func (a Axis) title() string {
	if a.Unit == "" {
		return a.Label
	}
	return a.Label + " (" + a.Unit + ")"
}

// Kind says where a series comes from.
type Kind string

// The kinds of series.
const (
	Theory   Kind = "theory"
	Measured Kind = "measured"
	Kernel   Kind = "kernel"
)

// Series is points of one origin.
type Series struct {
	Name   string  `json:"name"` // in the legend
	Kind   Kind    `json:"kind"`
	Group  int     `json:"group"`
	Step   bool    `json:"step,omitempty"` // a staircase, as of a distribution
	Points []Point `json:"points"`
}

// Point is one point.
type Point struct {
	X float64 `json:"x"`
	Y float64 `json:"y"`
}

// Mark is a vertical line with a word: the sufficient size, the knee.
type Mark struct {
	X     float64 `json:"x"`
	Label string  `json:"label"`
}

// limit is the largest value that is drawn: ticks are reckoned with room to spare.
const limit = 1e100

// drawable is a value where it can be drawn on a; ok is false for what is no number or
// larger than any, and for 0 and less on a logarithmic axis that names no Min.
func (a Axis) drawable(v float64) (float64, bool) {
	if !(math.Abs(v) <= limit) {
		return 0, false
	}
	if a.Log && v <= 0 && a.Min <= 0 {
		return 0, false
	}
	if a.Min != a.Max || a.Log && a.Min > 0 {
		v = max(v, a.Min)
	}
	if a.Max > a.Min {
		v = min(v, a.Max)
	}
	return v, true
}
