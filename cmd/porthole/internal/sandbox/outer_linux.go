package sandbox

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"porthole/cmd/porthole/internal/caps"
)

// innerCaps are what the inner process needs to make mounts and the device, and
// commandCaps what CMD keeps of them.
var (
	commandCaps = []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE}
	innerCaps   = append([]uintptr{unix.CAP_SYS_ADMIN}, commandCaps...)
)

// Run runs the inner process in namespaces of its own and returns its exit code,
// which is CMD's (128+n when signal n ended it). The error is for an inner process
// that could not start.
func Run(o Options) (code int, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 1, err
	}
	defer func() { _ = w.Close() }()
	sigs := make(chan os.Signal, 16)
	signal.Notify(sigs, passed()...)
	defer signal.Stop(sigs)
	tty := openTerminal()
	defer tty.restore()

	cmd := o.inner(r)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if o.Out != nil {
		cmd.Stdout = o.Out
	}
	err = cmd.Start()
	_ = r.Close()
	if err != nil {
		return 1, startError(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	if err := send(w, o.Payload); err != nil {
		_ = cmd.Process.Kill()
		<-done
		return 1, fmt.Errorf("start the inner process: %w", err)
	}
	for {
		select {
		case s := <-sigs:
			n := s.(syscall.Signal)
			if (n == unix.SIGINT || n == unix.SIGQUIT) && tty.foreground() {
				continue // the terminal has sent it to CMD as well
			}
			_, _ = w.Write([]byte{byte(n)}) // fails only when the inner process has ended
		case err := <-done:
			return exitCode(err)
		}
	}
}

// inner is the inner process, not yet started, with its end of the pipe.
func (o *Options) inner(pipe *os.File) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", o.Args...)
	cmd.Args[0] = "porthole"
	cmd.ExtraFiles = []*os.File{pipe}
	cmd.SysProcAttr = attributes(o.Root)
	return cmd
}

// passed are the signals that go to CMD; one that the caller ignores (nohup) stays so.
func passed() []os.Signal {
	var sigs []os.Signal
	for _, s := range []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2} {
		if !signal.Ignored(s) {
			sigs = append(sigs, s)
		}
	}
	return sigs
}

func attributes(root bool) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID}
	if caps.Has(caps.SysAdmin) {
		return a
	}
	uid, gid := os.Geteuid(), os.Getegid()
	a.Cloneflags |= unix.CLONE_NEWUSER
	inside := func(id int) int {
		if root {
			return 0
		}
		return id
	}
	a.UidMappings = []syscall.SysProcIDMap{{ContainerID: inside(uid), HostID: uid, Size: 1}}
	a.GidMappings = []syscall.SysProcIDMap{{ContainerID: inside(gid), HostID: gid, Size: 1}}
	if inside(uid) != 0 {
		a.AmbientCaps = innerCaps
	}
	return a
}

func startError(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	what := "make namespaces"
	if !caps.Has(caps.SysAdmin) {
		what = "make a user namespace"
	}
	return &Error{Op: what, Err: err}
}

// send writes the payload behind its length.
func send(w *os.File, payload []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(payload))), payload...))
	return err
}

func exitCode(err error) (int, error) {
	var ee *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case !errors.As(err, &ee):
		return 1, err
	}
	ws := ee.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return 128 + int(ws.Signal()), fmt.Errorf("the namespace's first process was ended by a signal: %v", ws.Signal())
	}
	return ws.ExitStatus(), nil
}

// terminal is the controlling terminal when this process had it at the start.
type terminal struct{ f *os.File }

func openTerminal() *terminal {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return &terminal{}
	}
	t := &terminal{f}
	if !t.foreground() {
		_ = f.Close()
		return &terminal{}
	}
	return t
}

// foreground reports whether our process group has the terminal now.
func (t *terminal) foreground() bool {
	if t.f == nil {
		return false
	}
	pgrp, err := unix.IoctlGetInt(int(t.f.Fd()), unix.TIOCGPGRP)
	return err == nil && pgrp == unix.Getpgrp()
}

// restore takes the terminal back from a shell inside that had it.
func (t *terminal) restore() {
	if t.f == nil {
		return
	}
	if !t.foreground() {
		signal.Ignore(unix.SIGTTOU) // a background process asks; see tcsetpgrp(3)
		_ = unix.IoctlSetPointerInt(int(t.f.Fd()), unix.TIOCSPGRP, unix.Getpgrp())
	}
	_ = t.f.Close()
}

// Try starts the inner process as Run does, without input and output, and returns
// what it said when it failed.
func Try(o Options) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = w.Close() }()
	cmd := o.inner(r)
	var said bytes.Buffer
	cmd.Stderr = &said
	err = cmd.Start()
	_ = r.Close()
	if err != nil {
		return startError(err)
	}
	_ = send(w, o.Payload) // an inner process that has ended says why below
	if err := cmd.Wait(); err != nil {
		if line, _, _ := strings.Cut(said.String(), "\n"); line != "" {
			return errors.New(strings.TrimPrefix(line, "porthole: "))
		}
		return err
	}
	return nil
}
