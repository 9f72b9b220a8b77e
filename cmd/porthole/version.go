package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"porthole"
)

type versionCmd struct{}

// Run prints one line: the version, the commit where the build knows it, the system.
func (versionCmd) Run(con *console) error {
	commit := ""
	if bi, ok := debug.ReadBuildInfo(); ok {
		for _, s := range bi.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				commit = " " + s.Value[:12]
			}
		}
	}
	_, err := fmt.Fprintf(con.out, "porthole %s%s %s %s/%s\n", porthole.Version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
