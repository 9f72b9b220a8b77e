package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
)

// The picture: a bar per work and device, its length the ratio to kernel sockets
// over veth, with a whisker from the least to the most of the rounds, a line at 1
// and a tick at what is asked for. The scale is logarithmic, so that half and
// double are equally far from 1.
const (
	svgWidth  = 860
	svgLeft   = 130
	svgRight  = 90
	svgTop    = 64
	svgRow    = 46
	svgBar    = 14
	svgLowest = 0.02 // the left edge
)

var svgColor = map[string]string{"offload": "#2563eb", "water": "#94a3b8"}

func (r *report) svg() []byte {
	highest := 2.0
	var works []*result // those with a ratio to kernel sockets
	for _, res := range r.Works {
		if res.Beside == "" && !res.Figure {
			works = append(works, res)
		}
	}
	for _, res := range works {
		for _, of := range []string{"offload", "water"} {
			if s, ok := res.ratio(of, "veth"); ok {
				highest = max(highest, s.Max*1.1)
			}
		}
	}
	x := func(v float64) float64 {
		v = min(max(v, svgLowest), highest)
		return svgLeft + (svgWidth-svgLeft-svgRight)*math.Log(v/svgLowest)/math.Log(highest/svgLowest)
	}
	height := svgTop + svgRow*len(works) + 40
	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`, svgWidth, height)
	p(`<rect width="100%%" height="100%%" fill="#fff"/>`)
	p(`<text x="12" y="22" font-size="15">porthole beside the same services on kernel sockets over veth (1 = as fast)</text>`)
	p(`<text x="12" y="42" fill="#555">%s</text>`, html.EscapeString(fmt.Sprintf("%s, %d cores, MTU %d, %d rounds of %v; median, whiskers from least to most%s",
		r.Machine.Kernel, r.Machine.Cores, r.MTU, r.Rounds, r.Time, r.noisy())))
	bottom := height - 34
	for _, v := range []float64{0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8} {
		if v > highest {
			break
		}
		color, wide := "#e2e8f0", 1.0
		if v == 1 {
			color, wide = "#0f172a", 1.5
		}
		p(`<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="%s" stroke-width="%g"/>`, x(v), svgTop-8, x(v), bottom, color, wide)
		p(`<text x="%.1f" y="%d" text-anchor="middle" fill="#555">%g</text>`, x(v), bottom+14, v)
	}
	for i, res := range works {
		y := float64(svgTop + svgRow*i)
		p(`<text x="%d" y="%.1f" text-anchor="end">%s</text>`, svgLeft-10, y+20, html.EscapeString(res.Name))
		for j, of := range []string{"offload", "water"} {
			s, ok := res.ratio(of, "veth")
			if !ok {
				continue
			}
			top := y + float64(j)*(svgBar+2)
			mid := top + svgBar/2
			p(`<rect x="%d" y="%.1f" width="%.1f" height="%d" fill="%s"><title>%s</title></rect>`,
				svgLeft, top, x(s.Median)-svgLeft, svgBar, svgColor[of], html.EscapeString(of+": "+res.About))
			p(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#334155"/>`, x(s.Min), mid, x(s.Max), mid)
			p(`<text x="%.1f" y="%.1f" fill="#334155">%.2f %s</text>`, x(s.Max)+5, mid+4, s.Median, of)
		}
		if res.Reach > 0 {
			p(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#dc2626" stroke-width="2"><title>asked for: %g</title></line>`,
				x(res.Reach), y-2, x(res.Reach), y+svgBar+2, res.Reach)
		}
	}
	p(`<text x="12" y="%d" fill="#dc2626">red tick: what is asked for</text>`, height-8)
	p(`</svg>`)
	return b.Bytes()
}
