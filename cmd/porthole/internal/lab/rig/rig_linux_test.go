package rig

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/cmd/porthole/internal/lab"
)

// TestMain is also the inner process of the experiments under test.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "inside" {
		if err := Serve(os.Stdout, func(name string) (*lab.Experiment, error) { return lab.Find(experiments, name) }, "test"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// experiments are those that tests run.
var experiments = []*lab.Experiment{&AcceptQueue, &UDPBurst, &Closed, &Isolation, &SYNFlood, &Ports, &Handshake, &Window, &Loss, &Bufferbloat}

// found runs an experiment quickly in a private network. It skips where there can be
// none, unless the run may not skip.
func found(t *testing.T, e *lab.Experiment, kernel bool, set ...string) lab.Result {
	t.Helper()
	if err := Try("inside"); err != nil {
		if os.Getenv("PORTHOLE_E2E") == "require" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	n := &lab.Runner{Version: "test", Inside: Inside("inside")}
	res, err := n.Run(t.Context(), e, lab.Options{Quick: true, Kernel: kernel, Seed: lab.DefaultSeed, Set: set})
	require.NoError(t, err)
	require.Empty(t, res.Partial)
	return res
}

// where picks the rows whose first cells are these.
func where(r lab.Result, first ...any) (rows [][]any) {
	for _, row := range r.Rows {
		same := true
		for i, v := range first {
			same = same && row[i] == v
		}
		if same {
			rows = append(rows, row)
		}
	}
	return rows
}

// column is the index of a column.
func column(t *testing.T, r lab.Result, name string) int {
	t.Helper()
	for i, c := range r.Columns {
		if c.Name == name {
			return i
		}
	}
	t.Fatalf("no column %q", name)
	return 0
}
