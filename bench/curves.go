package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// curves are how cost grows: what curves.json holds.
type curves struct {
	When        time.Time     `json:"when"`
	Machine     machineFacts  `json:"machine"`
	Rounds      int           `json:"rounds"`
	Time        time.Duration `json:"time_ns"`
	ConnRate    []point       `json:"requests_per_second_by_connections"`
	ConnMemory  []point       `json:"mib_by_connections"`
	QueueMemory []point       `json:"mib_by_queued_packets"`
}

type point struct {
	Line string  `json:"line"`
	X    float64 `json:"x"`
	Y    float64 `json:"y"`
}

func (c *curves) save(dir string) error {
	b, err := json.MarshalIndent(c, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "curves.json"), append(b, '\n'), 0o644)
}

var pathLine = regexp.MustCompile(`^BenchmarkPath/(64B|1500B)/ports=(\d+)/uniform-\d+ .* ([0-9.]+) best-ns/op`)

// portCost reads what `go test -bench Path ./demux` printed: the least of the best
// windows, by packet size and bound ports.
func portCost(text []byte) (ps []point) {
	best := map[point]float64{}
	for in := bufio.NewScanner(bytes.NewReader(text)); in.Scan(); {
		m := pathLine.FindStringSubmatch(in.Text())
		if m == nil {
			continue
		}
		n, _ := strconv.ParseFloat(m[2], 64)
		ns, _ := strconv.ParseFloat(m[3], 64)
		k := point{Line: m[1], X: n}
		if old, ok := best[k]; !ok || ns < old {
			best[k] = ns
		}
	}
	for k, ns := range best {
		k.Y = ns
		ps = append(ps, k)
	}
	slices.SortFunc(ps, func(a, b point) int {
		if a.Line != b.Line {
			return strings.Compare(b.Line, a.Line)
		}
		return int(a.X - b.X)
	})
	return ps
}

// axis is one of a plot's two.
type axis struct {
	label string
	log   bool
	from  float64 // of a logarithmic one
}

const (
	plotW, plotH = 640, 320
	plotL, plotR = 70, 110
	plotT, plotB = 40, 46
)

var plotColors = []string{"#2563eb", "#dc2626", "#16a34a"}

// plotSVG draws the points as one line for each name, in the order of their first.
func plotSVG(title string, x, y axis, ps []point) []byte {
	var names []string
	xMax, yMax := 1.0, 1.0
	for _, p := range ps {
		if !slices.Contains(names, p.Line) {
			names = append(names, p.Line)
		}
		xMax, yMax = max(xMax, p.X), max(yMax, p.Y)
	}
	place := func(a axis, v, most, from, to float64) float64 {
		if !a.log {
			return from + (to-from)*v/most
		}
		v = max(v, a.from)
		return from + (to-from)*math.Log(v/a.from)/math.Log(max(most, a.from*2)/a.from)
	}
	px := func(v float64) float64 { return place(x, v, xMax, plotL, plotW-plotR) }
	py := func(v float64) float64 { return place(y, v, yMax*1.05, plotH-plotB, plotT) }
	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`, plotW, plotH)
	p(`<rect width="100%%" height="100%%" fill="#fff"/>`)
	p(`<text x="%d" y="22" font-size="14">%s</text>`, plotL, title)
	for _, v := range ticks(y, yMax) {
		p(`<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#e2e8f0"/>`, plotL, py(v), plotW-plotR, py(v))
		p(`<text x="%d" y="%.1f" text-anchor="end" fill="#555">%s</text>`, plotL-6, py(v)+4, tick(v))
	}
	for _, v := range ticks(x, xMax) {
		p(`<text x="%.1f" y="%d" text-anchor="middle" fill="#555">%s</text>`, px(v), plotH-plotB+18, tick(v))
	}
	p(`<text x="%d" y="%d" text-anchor="middle" fill="#555">%s</text>`, (plotL+plotW-plotR)/2, plotH-8, x.label)
	p(`<text x="14" y="%d" fill="#555" transform="rotate(-90 14 %d)" text-anchor="middle">%s</text>`, (plotT+plotH-plotB)/2, (plotT+plotH-plotB)/2, y.label)
	for i, name := range names {
		var at []string
		last := point{}
		for _, q := range ps {
			if q.Line == name {
				at = append(at, fmt.Sprintf("%.1f,%.1f", px(q.X), py(q.Y)))
				last = q
			}
		}
		color := plotColors[i%len(plotColors)]
		p(`<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`, strings.Join(at, " "), color)
		for _, q := range ps {
			if q.Line == name {
				p(`<circle cx="%.1f" cy="%.1f" r="3" fill="%s"><title>%s: %g, %s</title></circle>`, px(q.X), py(q.Y), color, name, q.X, number(q.Y))
			}
		}
		p(`<text x="%.1f" y="%.1f" fill="%s">%s</text>`, px(last.X)+8, py(last.Y)+4, color, name)
	}
	p(`</svg>`)
	return b.Bytes()
}

// ticks are round values up to most.
func ticks(a axis, most float64) (vs []float64) {
	if a.log {
		for v := a.from; v <= most*1.01; v *= 10 {
			vs = append(vs, v)
		}
		return vs
	}
	step := math.Pow(10, math.Floor(math.Log10(most)))
	for most/step < 4 {
		step /= 2
	}
	for v := 0.0; v <= most*1.01; v += step {
		vs = append(vs, v)
	}
	return vs
}

func tick(v float64) string {
	if v >= 1000 {
		return strconv.FormatFloat(v/1000, 'g', 4, 64) + "k"
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}
