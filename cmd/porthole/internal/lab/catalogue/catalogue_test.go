package catalogue

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/cmd/porthole/internal/lab"
)

// TestAll holds every experiment against what a reader of its report needs.
func TestAll(t *testing.T) {
	seen := map[string]bool{}
	for _, e := range All() {
		t.Run(e.Name, func(t *testing.T) {
			require.False(t, seen[e.Name], "its name is taken")
			seen[e.Name] = true
			require.Regexp(t, regexp.MustCompile(`^[a-z][a-z-]*$`), e.Name)
			require.True(t, strings.HasSuffix(e.Question, "?"), "the question has no question mark")
			require.Contains(t, []lab.Kind{lab.Model, lab.Rig}, e.Kind)
			require.NotEmpty(t, e.About)
			require.NotEmpty(t, e.Means)
			require.NotEmpty(t, e.Columns)
			require.Positive(t, e.Takes)
			require.Positive(t, e.QuickTakes)
			require.False(t, e.Kernel && e.Kind == lab.Model, "a model has no kernel to compare with")
			for i := range e.Params {
				p := &e.Params[i]
				require.NotEmpty(t, p.Doc, p.Name)
				for _, quick := range []bool{false, true} { // defaults are in their own range
					_, err := e.Values(quick, []string{p.Name + "=" + p.Default(quick)})
					require.NoError(t, err)
				}
			}
		})
	}
}

// TestTime: all of them fit into what the command promises.
func TestTime(t *testing.T) {
	var all, quick float64
	for _, e := range All() {
		all += e.Takes.Seconds()
		quick += e.QuickTakes.Seconds()
	}
	require.Less(t, all, 540.)
	require.Less(t, quick, 85.)
}

var update = flag.Bool("update", false, "write the table of docs/lab.md")

// TestPage holds the table of docs/lab.md against the catalogue.
func TestPage(t *testing.T) {
	var rows strings.Builder
	for _, e := range All() {
		kind := string(e.Kind)
		if e.Kernel {
			kind += ", vs kernel"
		}
		fmt.Fprintf(&rows, "| `%s` | %s | %s |\n", e.Name, kind, e.Question)
	}
	path := filepath.Join("..", "..", "..", "..", "..", "docs", "lab.md")
	page, err := os.ReadFile(path)
	require.NoError(t, err)
	const head = "| experiment | kind | asks |\n|---|---|---|\n"
	before, rest, ok := strings.Cut(string(page), head)
	require.True(t, ok)
	old, after, ok := strings.Cut(rest, "\n\n")
	require.True(t, ok)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(before+head+rows.String()+"\n"+after), 0o644))
		return
	}
	require.Equal(t, rows.String(), old+"\n", "docs/lab.md is old: go test ./cmd/porthole/internal/lab/catalogue -update")
}
