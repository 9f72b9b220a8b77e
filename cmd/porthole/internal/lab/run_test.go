package lab

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestCells: those that are ready come in their order, also when others are not.
func TestCells(t *testing.T) {
	r, err := NewRun(&sample, Options{Seed: 1}, "v")
	require.NoError(t, err)
	var got []int
	require.NoError(t, Cells(t.Context(), r, 100, func(_ context.Context, i int) (int, error) { return i * i, nil },
		func(i, v int) { require.Equal(t, i*i, v); got = append(got, i) }))
	require.Len(t, got, 100)
	require.IsIncreasing(t, got)

	got = nil
	boom := errors.New("boom")
	err = Cells(t.Context(), r, 100, func(_ context.Context, i int) (int, error) {
		if i == 50 {
			return 0, boom
		}
		return i, nil
	}, func(i, _ int) { got = append(got, i) })
	require.ErrorIs(t, err, boom)
	require.NotContains(t, got, 50)
	require.IsIncreasing(t, got)
}

// TestInterrupted: what was ready is in the table, and said to be a part.
func TestInterrupted(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	e := sample
	e.Run = func(ctx context.Context, r *Run) error {
		return Cells(ctx, r, 10, func(ctx context.Context, i int) (int, error) {
			if i == 3 {
				stop()
				<-ctx.Done()
			}
			return i, ctx.Err()
		}, func(i, _ int) { r.Row(i, time.Duration(0)) })
	}
	res, err := Do(ctx, &e, Options{Seed: 1}, "v", nil)
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, len(res.Rows), 10)
	require.Contains(t, res.Partial, "interrupted; the table has the ")
	require.False(t, res.OK())
	require.Empty(t, res.Saw)
}

// TestDeaf: an experiment that does not listen is left alone, with what it has.
func TestDeaf(t *testing.T) {
	if testing.Short() {
		t.Skip("waits out the grace")
	}
	ctx, stop := context.WithCancel(t.Context())
	end := make(chan struct{})
	defer close(end)
	e := sample
	e.Run = func(_ context.Context, r *Run) error {
		r.Row(1, time.Second)
		stop()
		<-end
		return nil
	}
	res, err := Do(ctx, &e, Options{Seed: 1}, "v", nil)
	require.ErrorContains(t, err, "did not end within")
	require.Len(t, res.Rows, 1)
}

func TestCellsOfATable(t *testing.T) {
	r, err := NewRun(&sample, Options{Seed: 1}, "v")
	require.NoError(t, err)
	r.Row(1, 20*time.Millisecond)
	r.Row("text", nil)
	r.Row(math.NaN(), math.Inf(1))
	require.Panics(t, func() { r.Row(1) })
	require.Equal(t, [][]any{{1., 20.}, {"text", nil}, {nil, nil}}, r.Result().Rows)
	r.Row(1<<20, 1e-9)
	res := r.Result()
	require.Equal(t, "      n  took\n           ms\n      1  20.0\n   text     -\n      -     -\n1048576   0.0\n", res.table())

	var b bytes.Buffer
	require.NoError(t, res.WriteCSV(&b))
	rows, err := csv.NewReader(&b).ReadAll()
	require.NoError(t, err)
	require.Equal(t, [][]string{{"n", "took (ms)"}, {"1", "20"}, {"text", ""}, {"", ""}, {"1048576", "0.000000001"}}, rows, "numbers are plain: no exponents")
}

// TestServe: what the other process writes comes back the same, progress first.
func TestServe(t *testing.T) {
	pr, pw := io.Pipe()
	go func() {
		err := Serve(t.Context(), pw, &sample, Options{Seed: 3, Quick: true}, "v")
		_ = pw.CloseWithError(err)
	}()
	res, err := Collect(pr, func(float64) {})
	require.NoError(t, err)
	here, err := Do(t.Context(), &sample, Options{Seed: 3, Quick: true}, "v", nil)
	require.NoError(t, err)
	a, _ := json.Marshal(res)
	b, _ := json.Marshal(here)
	require.Equal(t, string(b), string(a))

	_, err = Collect(bytes.NewReader(nil), nil)
	require.ErrorIs(t, err, ErrNothing)
	_, err = Collect(bytes.NewReader([]byte("panic: no JSON")), nil)
	require.ErrorContains(t, err, "read result: ")
}

// TestMeter: half of the usual time gone at half the usual pace leaves as much again.
func TestMeter(t *testing.T) {
	a, b := sample, sample
	a.Takes, b.Takes = 60*time.Second, 60*time.Second
	m := NewMeter([]*Experiment{&a, &b}, false, func(Status) {})
	m.begin(&a)
	s := m.statusLocked(0)
	require.Equal(t, 2*time.Minute, s.Remaining)
	m.end(&a)
	m.begin(&b)
	s = m.statusLocked(2 * time.Minute)
	require.Equal(t, 2*time.Minute, s.Remaining)
	require.InDelta(t, 0.5, s.Done, 1e-9)
	require.Equal(t, 2, s.N)
	m.end(&b)
	require.Zero(t, m.statusLocked(time.Hour).Remaining)
}

// TestReport: it stands by itself, and nothing in it is taken for HTML.
func TestReport(t *testing.T) {
	r, err := NewRun(&sample, Options{Seed: 1}, "v")
	require.NoError(t, err)
	r.Row("<b>", 0)
	r.Saw("1 < 2 & <script>alert(1)</script>, `porthole <set>` and ` alone")
	r.Figure(Figure{Name: "f", Title: "<i>", X: Axis{Label: "x <", Unit: "ms"}, Y: Axis{Label: "y"}, Series: []Series{
		{Name: "a & b", Kind: Theory, Points: []Point{{X: 1, Y: 1}, {X: 2, Y: math.MaxFloat64}}},
		{Name: "<u>", Kind: Measured, Points: []Point{{X: 1, Y: 1}, {X: 2, Y: 2}}},
	}})
	var b bytes.Buffer
	require.NoError(t, WriteReport(&b, []Result{r.Result(), r.Result()}))
	html := b.String()
	require.NotContains(t, html, "<script")
	require.NotContains(t, html, "<b>")
	require.NotContains(t, html, "<i>")
	require.NotContains(t, html, "<u>")
	require.Contains(t, html, "1 &lt; 2")
	require.Contains(t, html, "<code>porthole &lt;set&gt;</code> and ` alone")
	require.Contains(t, html, "<svg")
	for _, outside := range []string{"src=", "@import", "url(", "href=\"http"} {
		require.NotContains(t, html, outside)
	}
}
