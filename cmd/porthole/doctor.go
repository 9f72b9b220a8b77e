package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"porthole"
	"porthole/cmd/porthole/internal/caps"
	"porthole/cmd/porthole/internal/control"
	"porthole/cmd/porthole/internal/doctor"
	"porthole/cmd/porthole/internal/sandbox"
	"porthole/tun"
)

type doctorCmd struct {
	JSON bool `name:"json" help:"One JSON object a line."`
}

// Help is shown under `porthole doctor --help`.
func (doctorCmd) Help() string {
	return "It changes nothing. The exit code is 1 when something is missing that porthole cannot do without."
}

// Run prints what this machine has and lacks.
func (c *doctorCmd) Run(con *console) error {
	l := porthole.DefaultConfig().Link
	found := doctor.Examine(&doctor.System{
		Read: func(path string) (string, error) {
			b, err := os.ReadFile(path)
			return strings.TrimSpace(string(b)), err
		},
		Glob: func(pattern string) []string {
			paths, _ := filepath.Glob(pattern)
			return paths
		},
		OpenTUN:  openTUN,
		HasAdmin: caps.Has(caps.NetAdmin),
		Root:     caps.Has(caps.SysAdmin),
		Sandbox:  trySandbox,
		Overlap:  tun.Overlap,
		Look: func(program string) bool {
			_, err := exec.LookPath(program)
			return err == nil
		},
		Control:  func() error { return control.Writable(control.Dir()) },
		Prefixes: []netip.Prefix{l.Address, l.Address6},
	})
	missing := 0
	enc := json.NewEncoder(con.out)
	for _, f := range found {
		if f.State == doctor.Missing {
			missing++
		}
		if c.JSON {
			if err := enc.Encode(f); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(con.out, "%-8s %-18s %s\n", f.State, f.Check, oneLine(f.Detail))
		if f.Mend != "" {
			fmt.Fprintf(con.out, "%-8s %-18s   %s\n", "", "", f.Mend)
		}
	}
	if missing > 0 {
		return codeError(1)
	}
	return nil
}

func openTUN() error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// trySandbox does what `exec` does, without a host: namespaces, mounts, a device.
func trySandbox() error {
	payload, err := json.Marshal(innerSpec{Probe: true})
	if err != nil {
		return err
	}
	return sandbox.Try(sandbox.Options{Args: []string{"inside"}, Payload: payload})
}
