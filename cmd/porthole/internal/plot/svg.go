package plot

import (
	"bytes"
	"fmt"
	"image/color"
	"io"
	"math"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Size of a figure.
const (
	width  = 640 * vg.Inch / 96
	height = 400 * vg.Inch / 96
)

// palette is Okabe and Ito's, without yellow, which is too faint on white.
var palette = []color.RGBA{
	{0x00, 0x72, 0xb2, 0xff}, // blue
	{0xd5, 0x5e, 0x00, 0xff}, // vermilion
	{0x00, 0x9e, 0x73, 0xff}, // bluish green
	{0xcc, 0x79, 0xa7, 0xff}, // reddish purple
	{0x00, 0x00, 0x00, 0xff}, // black
	{0xe6, 0x9f, 0x00, 0xff}, // orange
	{0x56, 0xb4, 0xe9, 0xff}, // sky blue
}

var (
	filled = []draw.GlyphDrawer{draw.CircleGlyph{}, draw.BoxGlyph{}, draw.PyramidGlyph{}, diamond{}, draw.CrossGlyph{}}
	hollow = []draw.GlyphDrawer{draw.RingGlyph{}, draw.SquareGlyph{}, draw.TriangleGlyph{}, diamond{hollow: true}, draw.PlusGlyph{}}
	dashes = [][]vg.Length{nil, {8, 3}, {2, 3}, {8, 3, 2, 3}, {14, 4}}
)

// diamond is a square on its corner.
type diamond struct{ hollow bool }

// DrawGlyph implements draw.GlyphDrawer.
func (d diamond) DrawGlyph(c *draw.Canvas, sty draw.GlyphStyle, pt vg.Point) {
	r := sty.Radius * 1.25
	var p vg.Path
	p.Move(vg.Point{X: pt.X, Y: pt.Y + r})
	p.Line(vg.Point{X: pt.X + r, Y: pt.Y})
	p.Line(vg.Point{X: pt.X, Y: pt.Y - r})
	p.Line(vg.Point{X: pt.X - r, Y: pt.Y})
	p.Close()
	c.SetColor(sty.Color)
	if d.hollow {
		c.SetLineStyle(draw.LineStyle{Color: sty.Color, Width: vg.Points(0.8)})
		c.Stroke(p)
		return
	}
	c.Fill(p)
}

// SVG draws f. What it writes names no font file, script or address: it stands by
// itself, also inside HTML.
func SVG(w io.Writer, f *Figure) error {
	p := plot.New()
	face := func(f *font.Font, size float64) { f.Variant, f.Size = "Sans", vg.Points(size) }
	p.Title.Text = f.Title
	face(&p.Title.TextStyle.Font, 11)
	p.Title.Padding = 6
	for _, a := range []struct {
		to   *plot.Axis
		from *Axis
	}{{&p.X, &f.X}, {&p.Y, &f.Y}} {
		a.to.Label.Text = a.from.title()
		face(&a.to.Label.TextStyle.Font, 10)
		face(&a.to.Tick.Label.Font, 9)
		a.to.Label.Padding = 4
		a.to.Padding = 2
	}
	p.Add(grid{})
	p.Legend.Top, p.Legend.Left = true, true
	face(&p.Legend.TextStyle.Font, 9)
	p.Legend.ThumbnailWidth = 28
	p.Legend.Padding = 2
	for i := range f.Series {
		if err := add(p, f, &f.Series[i]); err != nil {
			return fmt.Errorf("plot %s: %w", f.Name, err)
		}
	}
	settle(&p.X, &f.X)
	settle(&p.Y, &f.Y)
	if !f.Y.Log && f.Y.Min == f.Y.Max && p.Y.Min >= 0 {
		p.Y.Min = 0
	}
	for _, m := range f.Marks {
		if x, ok := f.X.drawable(m.X); ok && x == m.X {
			p.Add(mark{m})
		}
	}
	c := vgsvg.New(width+legendWidth(p, f), height)
	area := draw.New(c)
	plotArea := draw.Crop(area, 6, -legendWidth(p, f)-6, 6, -6)
	legend := p.Legend
	p.Legend = plot.NewLegend()
	p.Draw(plotArea)
	legend.Draw(draw.Crop(area, width+4, -4, 0, -34))
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return fmt.Errorf("plot %s: %w", f.Name, err)
	}
	_, err := w.Write(inline(b.Bytes()))
	return err
}

// legendWidth is what the legend takes to the right of the diagram, so that it never
// covers a point. The names stand behind their samples, and have a fifth more than they
// need here: where none of the fonts is that we name, another one is wider.
func legendWidth(p *plot.Plot, f *Figure) vg.Length {
	w := vg.Length(0)
	for _, s := range f.Series {
		w = max(w, p.Legend.TextStyle.Width(s.Name))
	}
	return w*6/5 + p.Legend.ThumbnailWidth + 20
}

// inline takes off the XML prologue, which has no place within HTML, and lets a
// reader without the first font take the next.
func inline(svg []byte) []byte {
	if i := bytes.Index(svg, []byte("<svg")); i > 0 {
		svg = svg[i:]
	}
	return bytes.ReplaceAll(svg, []byte("font-family:Liberation Sans;"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif;"))
}

// add puts one series into the diagram and its legend.
func add(p *plot.Plot, f *Figure, s *Series) error {
	var xys plotter.XYs
	for _, pt := range s.Points {
		x, okX := f.X.drawable(pt.X)
		y, okY := f.Y.drawable(pt.Y)
		if s.Kind == Theory && (x != pt.X || y != pt.Y) {
			continue // a line ends where the diagram does
		}
		if okX && okY {
			xys = append(xys, plotter.XY{X: x, Y: y})
		}
	}
	if len(xys) == 0 {
		return nil
	}
	g := max(s.Group, 0)
	line, err := plotter.NewLine(xys)
	if err != nil {
		return err
	}
	line.Color = palette[g%len(palette)]
	if s.Step {
		line.StepStyle = plotter.PostStep
	}
	if s.Kind == Theory {
		line.Width, line.Dashes = 1.2, dashes[g%len(dashes)]
		p.Add(line)
		p.Legend.Add(s.Name, line)
		return nil
	}
	points, err := plotter.NewScatter(xys)
	if err != nil {
		return err
	}
	points.Color, points.Radius = line.Color, 2.8
	line.Width = 0.5
	points.Shape = filled[g%len(filled)]
	if s.Kind == Kernel {
		points.Shape = hollow[g%len(hollow)]
		line.Dashes = []vg.Length{4, 3}
	}
	switch {
	case s.Step:
		line.Width = 1
		points.XYs = sparse(points.XYs, 8)
	case f.theory(s.Group):
		p.Add(points)
		p.Legend.Add(s.Name, points)
		return nil
	}
	p.Add(line, points)
	p.Legend.Add(s.Name, line, points)
	return nil
}

// sparse leaves about n points of many, the last among them: a marker each tells the
// staircases apart.
func sparse(xys plotter.XYs, n int) plotter.XYs {
	if len(xys) <= n {
		return xys
	}
	few := make(plotter.XYs, 0, n+1)
	for i := range n + 1 {
		few = append(few, xys[i*(len(xys)-1)/n])
	}
	return few
}

// theory reports whether the figure has a theory of that group.
func (f *Figure) theory(group int) bool {
	return slices.ContainsFunc(f.Series, func(s Series) bool { return s.Kind == Theory && s.Group == group })
}

// settle gives an axis its range, scale and ticks.
func settle(to *plot.Axis, a *Axis) {
	if a.Max > a.Min {
		to.Min, to.Max = a.Min, a.Max
	}
	if math.IsInf(to.Min, 0) || math.IsInf(to.Max, 0) { // nothing to draw
		to.Min, to.Max = 0.1, 1
	}
	to.Tick.Marker = ticks{log: a.Log}
	if a.Log {
		if a.Min > 0 {
			to.Min = a.Min
		}
		if to.Max <= to.Min {
			to.Max = to.Min * 10
		}
		to.Scale = plot.LogScale{}
		return
	}
	if to.Max == to.Min {
		to.Max++
	}
}

// most bounds the ticks of an axis, whatever its range.
const most = 250

// ticks label an axis in plain numbers: 0.001, 0.5, 20, 1000.
type ticks struct{ log bool }

// Ticks implements plot.Ticker.
func (t ticks) Ticks(low, high float64) []plot.Tick {
	if !t.log {
		return linear(low, high)
	}
	decades := math.Log10(high / low)
	var all []plot.Tick
	first := math.Floor(math.Log10(low) + 1e-9)
	for e := first; e <= first+most; e++ {
		base := math.Pow(10, e)
		if base > high*(1+1e-9) {
			break
		}
		for k := 1.0; k < 10; k++ {
			v := base * k
			if v < low*(1-1e-9) || v > high*(1+1e-9) {
				continue
			}
			tick := plot.Tick{Value: v}
			if k == 1 || decades < 2.5 && (k == 2 || k == 5) || decades < 0.7 {
				tick.Label = number(v)
			}
			all = append(all, tick)
		}
	}
	return all
}

// linear are some five to eight labelled ticks at round numbers, and one between each
// two.
func linear(low, high float64) (all []plot.Tick) {
	step := math.Pow(10, math.Floor(math.Log10((high-low)/5)))
	for _, k := range []float64{1, 2, 2.5, 5, 10} {
		if (high-low)/(step*k) <= 8 {
			step *= k
			break
		}
	}
	first := math.Ceil(low/step*2 - 1e-9)
	for i := first; i <= first+most && i*step/2 <= high+step*1e-9; i++ {
		t := plot.Tick{Value: i * step / 2}
		if math.Mod(i, 2) == 0 {
			t.Label = number(t.Value)
		}
		all = append(all, t)
	}
	return all
}

// number is a tick's label.
func number(v float64) string {
	if v != 0 && (math.Abs(v) < 1e-4 || math.Abs(v) >= 1e6) {
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	return strconv.FormatFloat(math.Round(v*1e6)/1e6+0, 'f', -1, 64) // + 0: never "-0"
}

// grid is faint lines at the labelled ticks.
type grid struct{}

// Plot implements plot.Plotter.
func (grid) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	style := draw.LineStyle{Color: color.Gray{0xe4}, Width: 0.5}
	for _, t := range p.X.Tick.Marker.Ticks(p.X.Min, p.X.Max) {
		if at := x(t.Value); t.Label != "" && at >= c.Min.X && at <= c.Max.X {
			c.StrokeLine2(style, at, c.Min.Y, at, c.Max.Y)
		}
	}
	for _, t := range p.Y.Tick.Marker.Ticks(p.Y.Min, p.Y.Max) {
		if at := y(t.Value); t.Label != "" && at >= c.Min.Y && at <= c.Max.Y {
			c.StrokeLine2(style, c.Min.X, at, c.Max.X, at)
		}
	}
}

// Plot implements plot.Plotter: a dotted upright line with its word along it.
func (m mark) Plot(c draw.Canvas, p *plot.Plot) {
	x, _ := p.Transforms(&c)
	at := x(m.X)
	if at < c.Min.X || at > c.Max.X || math.IsNaN(float64(at)) {
		return
	}
	grey := color.Gray{0x40}
	c.StrokeLine2(draw.LineStyle{Color: grey, Width: 1, Dashes: []vg.Length{1, 2}}, at, c.Min.Y, at, c.Max.Y)
	style := p.X.Tick.Label
	style.Color, style.XAlign, style.YAlign, style.Rotation = grey, draw.XRight, draw.YBottom, math.Pi/2
	c.FillText(style, vg.Point{X: at - 2, Y: c.Max.Y - 2}, m.Label)
}

type mark struct{ Mark }
