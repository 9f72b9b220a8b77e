package tun

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Holder is a process that has a TUN or TAP device open.
type Holder struct {
	PID     int
	Command string // its command line, shortened
}

func (h Holder) String() string {
	if h.PID == os.Getpid() {
		return "this process itself"
	}
	return fmt.Sprintf("process %d (%s)", h.PID, h.Command)
}

// Holders lists who has the TUN or TAP device name of this network namespace
// open, in order of process id. It finds what the caller may look into: all as
// root, else the user's own processes.
func Holders(name string) []Holder {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	want := []byte("iff:\t" + name + "\n")
	netns, _ := os.Readlink("/proc/thread-self/ns/net")
	var here, elsewhere []Holder
	for _, dir := range procs {
		if !holds(dir, want) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(dir))
		h := Holder{PID: pid, Command: command(dir)}
		// The device stays in the namespace where it was made while the process
		// may have moved on, so the others are the second guess, not discarded. The
		// caller's other threads may be anywhere.
		if ns, _ := os.Readlink(dir + "/ns/net"); ns == netns || pid == os.Getpid() {
			here = append(here, h)
		} else {
			elsewhere = append(elsewhere, h)
		}
	}
	if len(here) > 0 {
		return here
	}
	return elsewhere
}

// holds reports whether a descriptor of the process at dir is attached as want says.
func holds(dir string, want []byte) bool {
	fds, err := os.ReadDir(dir + "/fd")
	if err != nil {
		return false
	}
	for _, fd := range fds {
		// Cheaper than reading every fdinfo; in another mount namespace the node
		// may have another directory, never another end.
		if to, err := os.Readlink(dir + "/fd/" + fd.Name()); err != nil || !strings.HasSuffix(to, "tun") {
			continue
		}
		info, err := os.ReadFile(dir + "/fdinfo/" + fd.Name())
		if err == nil && bytes.Contains(info, want) {
			return true
		}
	}
	return false
}

// command is one printable line of at most 60 bytes.
func command(dir string) string {
	b, _ := os.ReadFile(dir + "/cmdline")
	if len(b) == 0 {
		b, _ = os.ReadFile(dir + "/comm")
	}
	s := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return ' '
		}
		return r
	}, string(b))
	s = strings.TrimSpace(s)
	if len(s) > 60 {
		s = strings.ToValidUTF8(s[:57], "") + "..."
	}
	return s
}
