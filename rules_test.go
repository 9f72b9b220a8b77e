package porthole_test

import (
	"bytes"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"strings"
	"testing"
)

// Policy as a test: what may import what, and how the tree is kept. A rule that
// fails says why it is there.

// imports is the import table: a folder (or, with /, all folders below it) and the
// packages of this module that its files may import. Test files are exempt.
var imports = []struct {
	dir string
	may []string // a trailing / allows all below
	why string
}{
	{dir: "internal/limit", why: "a token bucket knows of time alone"},
	{dir: "internal/leak", why: "it looks at goroutines"},
	{dir: "internal/spell", why: "letters are letters"},
	{dir: "internal/codel", why: "a control law knows neither queue nor packet"},
	{dir: "internal/codel/codeltest", why: "the RFC's pseudocode is a reference: it is nothing of ours"},
	{dir: "internal/netns", why: "benchmarks and tests, which have namespaces, import it"},
	{dir: "impair", may: []string{"internal/spell", "internal/codel"}, why: "rules of a bad link: the device, the port table and experiments drive them"},
	{dir: "internal/logqueue", why: "lines are lines"},
	{dir: "tun", may: []string{"impair", "demux/packet"}, why: "a device knows nothing of ports; a link rule cuts super-packets as the parser does"},
	{dir: "demux/packet", why: "parsing is a function of bytes"},
	{dir: "demux/flow", may: []string{"demux", "demux/packet", "impair", "internal/limit"}, why: "timelines are derived from what demux saw"},
	{dir: "demux/capture", may: []string{"demux", "demux/packet", "demux/flow", "impair"}, why: "a capture hangs on what demux saw"},
	{dir: "demux", may: []string{"demux/packet", "impair", "internal/codel"}, why: "ports and queues know neither device nor stack"},
	{dir: "stack/stacktest", may: []string{"stack", "demux", "tun"}, why: "the client's end is another stack"},
	{dir: "stack", may: []string{"demux", "demux/packet", "demux/flow", "tun", "impair", "internal/limit"}, why: "the stack stands between the port table and the device"},
	{dir: "services", why: "the contract of services depends on nothing"},
	{dir: "services/servicestest", may: []string{"services"}, why: "it runs one service alone"},
	{dir: "services/all", may: []string{"services/"}, why: "the catalogue names every service"},
	{dir: "services/", may: []string{"services"}, why: "a service sees the host through services.Env alone"},
	{dir: ".", may: []string{"internal/logqueue", "internal/spell", "impair", "tun", "services", "services/all", "stack", "demux", "demux/flow", "demux/capture"}, why: "the library wires, and nothing else"},
	{dir: "portholetest", may: []string{".", "stack/stacktest", "tun", "demux", "services"}, why: "a host and its client in a test"},
	{dir: "bench", may: []string{".", "internal/netns", "services", "services/", "tun"}, why: "it measures the library as any user has it"},
	{dir: "cmd/porthole/internal/lab", may: []string{"internal/spell", "cmd/porthole/internal/columns", "cmd/porthole/internal/config", "cmd/porthole/internal/plot"}, why: "the framework knows neither queue nor host"},
	{dir: "cmd/porthole/internal/lab/recording", may: []string{"demux", "demux/flow"}, why: "it reads files"},
	{dir: "cmd/porthole/internal/lab/model", may: []string{"cmd/porthole/internal/lab", "cmd/porthole/internal/lab/recording", "demux", "demux/packet", "demux/flow", "impair"}, why: "model experiments drive the product's own queue"},
	{dir: "cmd/porthole/internal/lab/rig", may: []string{"cmd/porthole/internal/lab", "cmd/porthole/internal/sandbox", "cmd/porthole/internal/pause", ".", "services", "tun", "stack/stacktest", "impair"}, why: "rig experiments are users of the library"},
	{dir: "cmd/porthole/internal/plot", why: "a figure is a value"},
	{dir: "cmd/porthole/internal/columns", why: "a table is text"},
	{dir: "cmd/porthole/internal/pause", why: "it knows time and contexts"},
	{dir: "cmd/", may: []string{".", "impair", "internal/spell", "services", "services/", "tun", "stack/stacktest", "cmd/"}, why: "commands are users of the library"},
}

const module = "porthole"

func TestImports(t *testing.T) {
	eachGoFile(t, func(t *testing.T, name string, src []byte) {
		if strings.HasSuffix(name, "_test.go") {
			return
		}
		dir := path.Dir(name)
		f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range f.Imports {
			p := strings.Trim(imp.Path.Value, `"`)
			if strings.HasPrefix(p, "gvisor.dev/") && dir != "stack" {
				t.Errorf("%s imports %s: gVisor stays in stack, so that it can be replaced or upgraded in one place", name, p)
			}
			ours, ok := strings.CutPrefix(p, module)
			if !ok || ours != "" && ours[0] != '/' {
				continue
			}
			ours = path.Clean("./" + ours)
			if may, why := mayImport(dir, ours); !may {
				t.Errorf("%s imports %s: not in the import table (%s)", name, p, why)
			}
		}
	})
}

func mayImport(dir, pkg string) (bool, string) {
	for _, rule := range imports {
		below, isTree := strings.CutSuffix(rule.dir, "/")
		if rule.dir != dir && !(isTree && strings.HasPrefix(dir+"/", below+"/")) {
			continue
		}
		for _, m := range rule.may {
			if m == pkg || strings.HasSuffix(m, "/") && strings.HasPrefix(pkg+"/", m) {
				return true, ""
			}
		}
		return false, rule.why
	}
	return false, "the folder has no row"
}

func TestFormatAndPackageComments(t *testing.T) {
	if testing.Short() {
		t.Skip("reads every line")
	}
	comments := map[string][]string{} // folder -> files with a package comment
	hasGo := map[string]bool{}
	eachGoFile(t, func(t *testing.T, name string, src []byte) {
		out, err := format.Source(src)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if !bytes.Equal(out, src) {
			t.Errorf("%s is not gofmt-ed", name)
		}
		if strings.HasSuffix(name, "_test.go") {
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		hasGo[path.Dir(name)] = true
		if hasComment(f) {
			comments[path.Dir(name)] = append(comments[path.Dir(name)], name)
		}
	})
	for dir := range hasGo {
		if n := len(comments[dir]); n != 1 {
			t.Errorf("%s has %d package comments %v: one file owns the theory of a folder", dir, n, comments[dir])
		}
	}
}

func hasComment(f *ast.File) bool {
	return f.Doc != nil && strings.TrimSpace(f.Doc.Text()) != ""
}

// TestNoMachinePaths keeps the repository about the project alone.
func TestNoMachinePaths(t *testing.T) {
	eachGoFile(t, func(t *testing.T, name string, src []byte) {
		for _, bad := range []string{"/wor" + "k/", "/roo" + "t/"} {
			if bytes.Contains(src, []byte(bad)) {
				t.Errorf("%s names a path of one machine: %s", name, bad)
			}
		}
	})
}

func eachGoFile(t *testing.T, f func(t *testing.T, name string, src []byte)) {
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (name == "testdata" || name != "." && strings.HasPrefix(d.Name(), ".")):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		}
		src, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		f(t, name, src)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
