package porthole_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/demux"
)

var update = flag.Bool("update", false, "write generated pages instead of comparing them")

// TestFatesPage holds docs/fates.md against the source.
func TestFatesPage(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Fates

Every frame that arrives has exactly one of these outcomes, counted at its port (or lane) and for the host. Law: *arrived = sum of fates + still queued*, at every snapshot; queued includes what a worker holds. This page is generated from ` + "`demux/fate.go`" + ` (` + "`go test -run TestFatesPage -update .`" + `).

| fate | meaning | lost | in Linux |
|---|---|---|---|
`)
	for f := demux.NoFate + 1; int(f) < demux.NumFates; f++ {
		lost := ""
		if f.Dropped() {
			lost = "yes"
		}
		linux := f.Linux()
		if linux != "" {
			linux = "`" + strings.ReplaceAll(linux, ", ", "`, `") + "`"
		}
		fmt.Fprintf(&b, "| `%v` | %s | %s | %s |\n", f, f.Doc(), lost, linux)
	}
	b.WriteString(`
` + "`arrived`" + ` has kinds: ` + "`device`" + ` (read from the device; equal to the kernel's count of frames it handed to the interface), ` + "`reassembled`" + ` (put together from fragments that are counted themselves as to-reassembly), ` + "`self-test`" + ` (from the host to itself), ` + "`duplicated`" + ` (by an impairment rule), ` + "`segmented`" + ` (cut from a super-packet for an impairment rule; its first piece counts as device).

Packets that belong to no bound port are counted at lanes, which are queues like any other: ` + "`closed`" + ` (ports that nobody has), ` + "`link`" + ` (ARP, neighbour discovery, packet too big), ` + "`icmp`" + ` (echo, fragments, other protocols), ` + "`host`" + ` (what gets its fate at once).
`)
	const page = "docs/fates.md"
	if *update {
		require.NoError(t, os.MkdirAll("docs", 0o755))
		require.NoError(t, os.WriteFile(page, []byte(b.String()), 0o644))
	}
	got, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Equal(t, b.String(), string(got), "docs/fates.md is old: go test -run TestFatesPage -update .")
}

func TestFateNames(t *testing.T) {
	seen := map[string]bool{}
	for f := demux.NoFate + 1; int(f) < demux.NumFates; f++ {
		require.NotEmpty(t, f.String())
		require.NotEmpty(t, f.Doc())
		require.False(t, seen[f.String()], "%v twice", f)
		seen[f.String()] = true
		back, ok := demux.ParseFate(f.String())
		require.True(t, ok)
		require.Equal(t, f, back)
	}
}
