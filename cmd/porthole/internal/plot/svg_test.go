package plot

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func picture(t require.TestingT, f Figure) string {
	var b bytes.Buffer
	require.NoError(t, SVG(&b, &f))
	for d := xml.NewDecoder(bytes.NewReader(b.Bytes())); ; { // well-formed
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
	}
	return b.String()
}

// TestApart: theory, measurement and kernel differ in more than colour.
func TestApart(t *testing.T) {
	f := Figure{Name: "f", Title: "title", X: Axis{Label: "size", Unit: "packets"}, Y: Axis{Label: "lost", Unit: "%"}}
	pts := []Point{{1, 1}, {2, 2}, {3, 4}}
	f.Series = []Series{{Name: "theory", Kind: Theory, Group: 1, Points: pts}}
	theory := picture(t, f)
	f.Series = []Series{{Name: "measured", Kind: Measured, Group: 1, Points: pts}}
	measured := picture(t, f)
	f.Series = []Series{{Name: "kernel", Kind: Kernel, Group: 1, Points: pts}}
	kernel := picture(t, f)
	markers := func(svg string) int { return strings.Count(svg, "fill:#D55E00") }
	dashed := func(svg string) bool { return strings.Contains(svg, "stroke-dasharray") }
	require.Zero(t, markers(theory), "a line has no markers")
	require.GreaterOrEqual(t, markers(measured), len(pts), "filled markers")
	require.Zero(t, markers(kernel), "hollow markers")
	require.False(t, dashed(measured))
	require.True(t, dashed(kernel))
	for _, svg := range []string{theory, measured, kernel} {
		require.Contains(t, svg, ">size (packets)<")
		require.Contains(t, svg, ">lost (%)<")
	}
}

// TestWhatever: any numbers give a picture, in bounded time.
func TestWhatever(t *testing.T) {
	numbers := []float64{0, 1, -1, 1e-300, 1e300, math.MaxFloat64, math.NaN(), math.Inf(1), math.Inf(-1), 0.5, 42}
	rapid.Check(t, func(rt *rapid.T) {
		pts := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) Point {
			return Point{rapid.SampledFrom(numbers).Draw(rt, "x"), rapid.SampledFrom(numbers).Draw(rt, "y")}
		}), 0, 6).Draw(rt, "points")
		kinds := []Kind{Theory, Measured, Kernel}
		picture(rt, Figure{
			Name: "f", Title: "a < b", X: Axis{Label: "x", Log: rapid.Bool().Draw(rt, "logX")},
			Y: Axis{Label: "y", Log: rapid.Bool().Draw(rt, "logY"), Min: rapid.SampledFrom([]float64{0, 0.1}).Draw(rt, "min")},
			Series: []Series{{Name: "<s>", Kind: rapid.SampledFrom(kinds).Draw(rt, "kind"), Group: rapid.IntRange(0, 20).Draw(rt, "group"),
				Step: rapid.Bool().Draw(rt, "step"), Points: pts}},
			Marks: []Mark{{rapid.SampledFrom(numbers).Draw(rt, "mark"), "here"}},
		})
	})
}

func TestTicks(t *testing.T) {
	labels := func(log bool, low, high float64) (s []string) {
		for _, t := range (ticks{log}).Ticks(low, high) {
			if t.Label != "" {
				s = append(s, t.Label)
			}
		}
		return s
	}
	require.Equal(t, []string{"0", "2", "4", "6", "8"}, labels(false, 0, 9))
	require.Equal(t, []string{"0", "20", "40", "60", "80", "100"}, labels(false, 0, 102))
	require.Equal(t, []string{"0.01", "0.1", "1", "10", "100"}, labels(true, 0.01, 100))
	require.Equal(t, []string{"10", "20", "50", "100"}, labels(true, 8, 120))
}

// TestLegendBesideItsSamples: a name begins behind its sample, and where it stands there
// is room for it in a font that is wider than the one it was measured in (DejaVu Sans
// beside Liberation Sans: a sixth), so that no reader sees one drawn over the other.
func TestLegendBesideItsSamples(t *testing.T) {
	const name = "porthole, client, two destinations"
	svg := picture(t, Figure{Name: "f", Series: []Series{{Name: name, Kind: Theory, Points: []Point{{1, 1}, {2, 2}}}}})
	m := regexp.MustCompile(`<path d="M[0-9.]+,[0-9.]+L([0-9.]+),[0-9.]+"[^>]*>\s*<text x="([0-9.]+)"[^>]*>` + name).FindStringSubmatch(svg)
	require.NotNil(t, m, svg)
	box := regexp.MustCompile(`viewBox="0 0 ([0-9.]+) `).FindStringSubmatch(svg)
	require.NotNil(t, box)
	number := func(s string) float64 {
		v, err := strconv.ParseFloat(s, 64)
		require.NoError(t, err)
		return v
	}
	const measured = 133 // points of Liberation Sans, of 9
	require.Greater(t, number(m[2]), number(m[1]))
	require.Less(t, number(m[2])+measured*7.0/6, number(box[1]))
}
