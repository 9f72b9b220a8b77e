package porthole_test

import (
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/impair"
)

// TestSetPage: the page of settings has every key, in the order of the source, and
// no other.
func TestSetPage(t *testing.T) {
	page, err := os.ReadFile("docs/set.md")
	require.NoError(t, err)
	var keys []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| [^|]* \\| (?:all|TCP|UDP) \\|").FindAllSubmatch(page, -1) {
		keys = append(keys, string(row[1]))
	}
	require.Equal(t, porthole.SettingNames(), keys)
	for _, p := range porthole.Policies() {
		require.Contains(t, string(page), "`"+p+"`")
	}
}

// TestImpairPage: the page of the rules has every word, in the order of the source.
func TestImpairPage(t *testing.T) {
	page, err := os.ReadFile("docs/impair.md")
	require.NoError(t, err)
	var rows []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`[a-z-]+`(?:, `[a-z-]+`)*) \\|").FindAllSubmatch(page, -1) {
		for _, w := range regexp.MustCompile("[a-z-]+").FindAll(row[1], -1) {
			rows = append(rows, string(w))
		}
	}
	require.Equal(t, impair.Words(), rows)
}
