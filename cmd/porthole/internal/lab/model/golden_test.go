package model

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/cmd/porthole/internal/lab"
)

var update = flag.Bool("update", false, "write the golden tables")

// golden are the tables of the repository's testdata.
var golden = filepath.Join("..", "..", "..", "..", "..", "testdata", "lab")

// run runs an experiment quickly.
func run(t testing.TB, e *lab.Experiment, seed uint64, set ...string) lab.Result {
	t.Helper()
	res, err := lab.Do(t.Context(), e, lab.Options{Quick: true, Seed: seed, Set: set}, "test", nil)
	require.NoError(t, err)
	require.Empty(t, res.Partial)
	require.NotEmpty(t, res.Saw)
	return res
}

func goldenText(t testing.TB, r lab.Result) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, r.WriteText(&b))
	return b.Bytes()
}

// TestGolden: one seed, one table; what changes of it is for a reviewer to read.
func TestGolden(t *testing.T) {
	for _, tt := range []struct {
		name string
		e    *lab.Experiment
		set  []string
	}{
		{"queue-loss", &QueueLoss, []string{"arrivals=20000", "queue=udp,tcp"}},
		{"queue-policy", &QueuePolicy, nil},
		{"what-if", &WhatIf, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if testing.Short() && tt.e != &QueuePolicy {
				t.Skip("drives some millions of packets, on one goroutine")
			}
			got := goldenText(t, run(t, tt.e, lab.DefaultSeed, tt.set...))
			path := filepath.Join(golden, tt.name+".golden")
			if *update {
				require.NoError(t, os.WriteFile(path, got, 0o644))
				return
			}
			want, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, string(want), string(got), "go test ./cmd/porthole/internal/lab/model -update writes it anew")
		})
	}
}

// TestSeed: one seed gives the same result byte for byte, figures included, and another
// seed another.
func TestSeed(t *testing.T) {
	if testing.Short() {
		t.Skip("drives some millions of packets, on one goroutine")
	}
	for _, e := range []*lab.Experiment{&QueueLoss, &QueuePolicy, &WhatIf} {
		set := []string{}
		if e == &QueueLoss {
			set = append(set, "arrivals=5000")
		}
		text := func(seed uint64) string {
			b, err := json.Marshal(run(t, e, seed, set...))
			require.NoError(t, err)
			return string(b)
		}
		one := text(1)
		require.Equal(t, one, text(1), e.Name)
		require.NotEqual(t, one, text(2), e.Name)
	}
}

// TestTheory holds loss and wait against theory, as the experiment promises: loss
// within max(0.002, 5 %), wait within 5 %, for capacities up to 64.
func TestTheory(t *testing.T) {
	if testing.Short() {
		t.Skip("drives some millions of packets")
	}
	door := run(t, &QueueLoss, 1, "queue=tcp", "law=exp,fixed", "capacity=1,16", "load=0.95,1.2")
	require.True(t, door.OK(), "%s", goldenText(t, door))
	fixed := run(t, &QueueLoss, 1, "queue=udp", "law=fixed", "capacity=1,16", "load=0.95,1.2")
	require.True(t, fixed.OK(), "%s", goldenText(t, fixed))
	r := run(t, &QueueLoss, 1, "queue=udp", "law=exp", "capacity=1,16,64", "load=0.5,0.95,1.2")
	require.True(t, r.OK(), "%s", goldenText(t, r))
	require.Len(t, r.Rows, 9)
	// Above load 1 a longer queue only adds delay.
	rows := map[float64][]any{}
	for _, row := range r.Rows {
		if row[0] == "udp" && row[1] == "exp" && row[3] == 1.2 {
			rows[row[2].(float64)] = row
		}
	}
	require.InDelta(t, 100*(1-1/1.2), rows[64][4], 0.5)
	require.Greater(t, rows[64][6].(float64), 10*rows[1][6].(float64))
}

// TestPolicies holds the policies against what they are for.
func TestPolicies(t *testing.T) {
	if testing.Short() {
		t.Skip("drives some millions of packets, on one goroutine")
	}
	r := run(t, &QueuePolicy, 1)
	row := func(traffic, policy string, queue, load float64) []any {
		for _, row := range r.Rows {
			if row[0] == traffic && row[1] == policy && row[2] == queue && row[3] == load {
				return row
			}
		}
		t.Fatalf("no row %s %s %v", traffic, policy, queue)
		return nil
	}
	num := func(row []any, i int) float64 { return row[i].(float64) }
	const lost, median, late, good = 4, 5, 6, 7
	for _, p := range policyNames() { // steady: no policy has anything to do
		require.Less(t, num(row("steady", p, 1024, 0.8), lost), 0.1, p)
	}
	// A queue that holds a burst loses nothing of it; one that does not, does.
	require.Zero(t, num(row("bursts", "tail-drop", 1024, 0.8), lost))
	require.Greater(t, num(row("bursts", "tail-drop", 128, 0.8), lost), 10.)
	// Slight overload of a long queue: CoDel keeps it short, tail drop lets it stand.
	tail, codel := row("overload", "tail-drop", 1024, 1.05), row("overload", "codel", 1024, 1.05)
	require.Greater(t, num(tail, late), 5*num(codel, late))
	require.Greater(t, num(codel, good), 3*num(tail, good))
	// Heavy overload: whoever is served at a head-drop queue has waited less.
	tail, head := row("overload", "tail-drop", 1024, 1.3), row("overload", "head-drop", 1024, 1.3)
	require.Less(t, num(head, median), num(tail, median))
	// The service never rests, so all lose about what is too much.
	require.InDelta(t, num(tail, lost), num(head, lost), 1)
}
