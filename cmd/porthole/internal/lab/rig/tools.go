package rig

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"porthole/cmd/porthole/internal/lab"
)

// patience is how long an experiment waits for what comes at once unless something is broken.
const patience = 30 * time.Second

// until looks every millisecond whether something has come true.
func until(ctx context.Context, within time.Duration, ok func() bool, format string, args ...any) error {
	over := time.Now().Add(within)
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(over) {
			return fmt.Errorf("waited %v for "+format, append([]any{within}, args...)...)
		}
	}
	return nil
}

// series is one of the target's: filled markers for the host, hollow for the kernel.
func (t Target) series(name string, group int) lab.Series {
	s := lab.Series{Name: t.Name, Kind: lab.Measured, Group: group}
	if name != "" {
		s.Name += ", " + name
	}
	if t.Kernel {
		s.Kind = lab.Kernel
	}
	return s
}

// point adds a point to the series of that name, which it makes when there is none.
func point(f *lab.Figure, s lab.Series, x, y float64) {
	i := slices.IndexFunc(f.Series, func(o lab.Series) bool { return o.Name == s.Name })
	if i < 0 {
		i = len(f.Series)
		f.Series = append(f.Series, s)
	}
	f.Series[i].Points = append(f.Series[i].Points, lab.Point{X: x, Y: y})
}

// line adds a line of theory through points of f at xs.
func line(f *lab.Figure, name string, group int, xs []float64, y func(x float64) float64) {
	for _, x := range xs {
		point(f, lab.Series{Name: name, Kind: lab.Theory, Group: group}, x, y(x))
	}
}

// spread is n values from low to high, equal steps apart on a logarithmic scale.
func spread(low, high float64, n int) []float64 {
	xs := make([]float64, n)
	for i := range xs {
		xs[i] = low * math.Pow(high/low, float64(i)/float64(max(n-1, 1)))
	}
	return xs
}

// floats are numbers as a figure takes them.
func floats(ns []int) []float64 {
	fs := make([]float64, len(ns))
	for i, n := range ns {
		fs[i] = float64(n)
	}
	return fs
}

// percent of a whole; 0 of nothing.
func percent(n, of int) float64 {
	if of == 0 {
		return 0
	}
	return 100 * float64(n) / float64(of)
}

// ms is a time in a figure's milliseconds.
func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// noteLost tells what the device's own queue lost before the host could read it: a sign
// of a busy machine, and no fate of a port.
func (g *Rig) noteLost(r *lab.Run) {
	if d := g.Host.Ledger().Device; d != nil && d.InDropped > 0 {
		r.Note("the interface's own queue was full for %d frames before the host read them: this machine was busy", d.InDropped)
	}
}
