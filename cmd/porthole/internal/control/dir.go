// Package control is how a command talks to a running host: HTTP and JSON over a
// unix socket, one per host, NAME.sock in a directory that only its user can enter.
//
// The socket's name is the host's name, so that two hosts of one user cannot take
// the same. A host holds a lock on the directory while it looks whether the name
// is free and binds it: a socket that nobody answers on any more (its host was
// killed) is replaced, one that somebody answers on is refused, and of two hosts
// that start at the same moment exactly one wins.
package control

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// EnvSocket names the socket of the host that a command runs under (`porthole
// exec` sets it), and EnvDir another directory than the user's own for sockets.
const (
	EnvSocket = "PORTHOLE_SOCK"
	EnvDir    = "PORTHOLE_RUNTIME_DIR"
)

// limitPath is the longest path that fits struct sockaddr_un everywhere.
const limitPath = 103

// Dir is where this user's hosts have their sockets.
func Dir() string {
	if d := os.Getenv(EnvDir); d != "" {
		return d
	}
	if os.Geteuid() == 0 {
		return systemDir()
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" {
		return filepath.Join(d, "porthole")
	}
	return filepath.Join(os.TempDir(), "porthole-"+strconv.Itoa(os.Geteuid()))
}

// systemDir is where root's hosts have them; it is there while one runs.
func systemDir() string {
	if runtime.GOOS == "linux" {
		return "/run/porthole"
	}
	return "/var/run/porthole"
}

// socketPath is where the host called name listens.
func socketPath(dir, name string) (string, error) {
	p := filepath.Join(dir, name+".sock")
	if len(p) > limitPath {
		return "", fmt.Errorf("control socket %s: the path is longer than %d bytes; set %s to a shorter directory", p, limitPath, EnvDir)
	}
	return p, nil
}

// ownDir makes dir, or checks that the one that is there is the user's own: in a
// shared place such as /tmp somebody else may have made it first.
func ownDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("control directory: %w; set %s to one that can be written", err, EnvDir)
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("control directory %s: %w", dir, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("control directory %s: not a directory; remove it or set %s", dir, EnvDir)
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("control directory %s: belongs to uid %d; remove it or set %s", dir, st.Uid, EnvDir)
	}
	return os.Chmod(dir, 0o700)
}

// Writable reports whether a host of this user could have a socket in dir.
func Writable(dir string) error {
	_, held := os.Stat(dir)
	if err := ownDir(dir); err != nil {
		return err
	}
	if held != nil {
		_ = os.Remove(dir) // as it was
	}
	return nil
}

// lock holds the directory until unlock: the kernel drops it with the process. A
// directory that its last host removed meanwhile gives errGone.
func lock(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errGone
	}
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	var mine, now os.FileInfo
	if err == nil {
		mine, err = f.Stat()
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	if now, err = os.Lstat(dir); err != nil || !os.SameFile(mine, now) {
		_ = f.Close()
		return nil, errGone
	}
	return func() { _ = f.Close() }, nil
}

// errGone is for a directory that was removed between making and locking it.
var errGone = errors.New("the control directory was removed at the same moment")

// hostName is the host's name that a socket's path stands for.
func hostName(path string) string { return strings.TrimSuffix(filepath.Base(path), ".sock") }
