package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// TestMain makes this test binary the program that the scripts run.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"porthole": main})
}

// hearHangups lets SIGHUP come to the programs of a test, also where the tests
// themselves were started with it ignored (nohup), which up respects and hands on.
func hearHangups(t *testing.T) {
	if signal.Ignored(unix.SIGHUP) {
		sigs := make(chan os.Signal, 1)
		signal.Notify(sigs, unix.SIGHUP)
		t.Cleanup(func() { signal.Stop(sigs) })
	}
}

// TestScripts runs testdata/script. Scripts that need namespaces say [!e2e] skip;
// PORTHOLE_E2E=require makes that an error instead.
func TestScripts(t *testing.T) {
	e2e := namespaces(t)
	hearHangups(t)
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PORTHOLE_RUNTIME_DIR", filepath.Join(env.WorkDir, "run"))
			env.Setenv("PORTHOLE_SOCK", "")
			env.Setenv("GORACE", os.Getenv("GORACE"))
			return nil
		},
		Condition: func(cond string) (bool, error) {
			return cond == "e2e" && e2e || cond == "root" && os.Geteuid() == 0, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"json": jsonLines, "await": await,
		},
	})
}

// namespaces reports whether exec can work here.
func namespaces(t *testing.T) bool {
	t.Helper()
	err := openTUN()
	if err == nil {
		return true
	}
	if os.Getenv("PORTHOLE_E2E") == "require" {
		t.Fatalf("the end-to-end scripts may not be skipped: %v", err)
	}
	return false
}

// jsonLines checks that every line of a file is one JSON object with these keys.
func jsonLines(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: json FILE KEY...")
	}
	lines := strings.Split(strings.TrimSpace(ts.ReadFile(args[0])), "\n")
	for _, line := range lines {
		var v map[string]any
		d := json.NewDecoder(bytes.NewReader([]byte(line)))
		if err := d.Decode(&v); err != nil || d.More() {
			ts.Fatalf("%q is not one JSON object: %v", line, err)
		}
		for _, key := range args[1:] {
			if _, ok := v[key]; !ok {
				ts.Fatalf("%q has no key %q", line, key)
			}
		}
	}
}

// await reads a named pipe until its writer closes it: `await FIFO TEXT`.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await FIFO TEXT")
	}
	b, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	if !strings.Contains(string(b), args[1]) {
		ts.Fatalf("%s gave %q, want %q", args[0], b, args[1])
	}
}
