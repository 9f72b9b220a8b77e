package lab

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var sample = Experiment{
	Name: "sample", Question: "Does it?", Kind: Model,
	Params: []Param{
		Ints("capacity", []int{1, 8}, 1, 1024, "places", "places in the queue").WithQuick([]int{1}),
		Float("load", 0.5, 0.1, 2, "erlang", "offered load"),
		Duration("hold", time.Second, time.Millisecond, time.Minute, "how long"),
		Word("law", "exp", []string{"exp", "fixed"}, "distribution"),
	},
	Columns: []Column{{Name: "n"}, {Name: "took", Unit: "ms", Digits: 1}},
	Run: func(ctx context.Context, r *Run) error {
		for _, n := range r.Ints("capacity") {
			r.Row(n, r.Duration("hold"))
		}
		r.Saw("it does")
		return ctx.Err()
	},
}

func TestBadParameters(t *testing.T) {
	for _, tt := range []struct{ name, set, want string }{
		{"near", "capactiy=5", `sample: no parameter "capactiy"; did you mean capacity (1 to 1024 places, comma-separated)?`},
		{"far", "zebra=5", `sample: no parameter "zebra"; it has capacity (1 to 1024 places, comma-separated); load (0.1 to 2 erlang); hold (1ms to 1m); law (exp, fixed)`},
		{"no value", "load", `sample: load: no value; want load=VALUE with 0.1 to 2 erlang`},
		{"too large", "load=2.1", `sample: load: "2.1" is not in its range: 0.1 to 2 erlang`},
		{"not a number", "load=NaN", `sample: load: "NaN" is not in its range: 0.1 to 2 erlang`},
		{"one of a list", "capacity=1,0,5", `sample: capacity: "0" is not in its range: 1 to 1024 places, comma-separated`},
		{"no unit", "hold=20", `sample: hold: "20" is not in its range: 1ms to 1m`},
		{"word", "law=gamma", `sample: law: "gamma" is not in its range: exp, fixed`},
		{"empty", "law=", `sample: law: "" is not in its range: exp, fixed`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := sample.Values(false, []string{tt.set})
			require.EqualError(t, err, tt.want)
		})
	}
	_, err := sample.Values(false, []string{"load=1", "load=2"})
	require.EqualError(t, err, "sample: load: given twice")
}

func TestValues(t *testing.T) {
	r, err := NewRun(&sample, Options{Seed: 7, Quick: true, Set: []string{"hold=20ms", "law=fixed"}}, "v")
	require.NoError(t, err)
	require.Equal(t, []int{1}, r.Ints("capacity"))
	require.Equal(t, 20*time.Millisecond, r.Duration("hold"))
	require.Equal(t, "porthole lab run sample --set hold=20ms --set law=fixed --quick --seed 7", r.Result().Repeat.Command)
}

func TestRandIsItsOwn(t *testing.T) {
	r, err := NewRun(&sample, Options{Seed: 1}, "v")
	require.NoError(t, err)
	a, b, c := r.Rand("cell", 1).Uint64(), r.Rand("cell", 2).Uint64(), r.Rand("cell", 1).Uint64()
	require.Equal(t, a, c)
	require.NotEqual(t, a, b)
	o, err := NewRun(&sample, Options{Seed: 2}, "v")
	require.NoError(t, err)
	require.NotEqual(t, a, o.Rand("cell", 1).Uint64())
}
