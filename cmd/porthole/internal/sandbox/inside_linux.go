package sandbox

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// controlFD is the pipe from the outer process: exec.Cmd's first extra file.
const controlFD = 3

// limitPayload bounds what the inner process reads.
const limitPayload = 4 << 20

// Inside is the first process of the namespaces.
type Inside struct {
	Payload []byte
	ctx     context.Context
	stop    context.CancelFunc

	mu  sync.Mutex
	pid int // of CMD while it runs, else 0
}

// Enter makes this process the inner one: it reads the payload and begins to
// listen to the outer process.
func Enter() (*Inside, error) {
	if os.Getpid() != 1 {
		return nil, errors.New("inside: only `porthole exec` starts this")
	}
	unix.CloseOnExec(controlFD)
	pipe := os.NewFile(controlFD, "control")
	var size [4]byte
	if _, err := io.ReadFull(pipe, size[:]); err != nil {
		return nil, fmt.Errorf("inside: only `porthole exec` starts this: %w", err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > limitPayload {
		return nil, fmt.Errorf("inside: payload of %d bytes", n)
	}
	in := &Inside{Payload: make([]byte, n)}
	if _, err := io.ReadFull(pipe, in.Payload); err != nil {
		return nil, fmt.Errorf("inside: payload: %w", err)
	}
	in.ctx, in.stop = context.WithCancel(context.Background())
	go in.listen(pipe)
	own := make(chan os.Signal, 16)
	signal.Notify(own, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM)
	go in.own(own)
	return in, nil
}

// Context ends when a signal says so before CMD runs, or when the outer process is gone.
func (in *Inside) Context() context.Context { return in.ctx }

// listen passes the outer process's signals on. Its end is our end; should the
// host hang, too, so there is no waiting for it.
func (in *Inside) listen(pipe io.Reader) {
	var b [1]byte
	for {
		if _, err := pipe.Read(b[:]); err != nil {
			in.Kill()
			in.stop()
			return
		}
		in.signal(unix.Signal(b[0]))
	}
}

// own handles what this process gets itself: the terminal's signals, which CMD has
// got too, and whatever somebody sends to the inner process.
func (in *Inside) own(sigs <-chan os.Signal) {
	for s := range sigs {
		in.mu.Lock()
		running := in.pid != 0
		in.mu.Unlock()
		if !running || s == unix.SIGTERM {
			in.signal(s.(unix.Signal))
		}
	}
}

// signal gives s to CMD. Before CMD runs it ends the start.
func (in *Inside) signal(s unix.Signal) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.pid != 0 {
		_ = unix.Kill(in.pid, s)
	} else if s != unix.SIGUSR1 && s != unix.SIGUSR2 {
		in.stop()
	}
}

// Kill ends CMD at once: there is no host any more to talk to.
func (in *Inside) Kill() { in.signal(unix.SIGKILL) }

// Loopback brings lo up.
func (in *Inside) Loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return &Error{Op: "bring lo up", Err: err}
	}
	return nil
}

// Exec runs CMD, which is at path or, when that is "", wherever PATH has argv[0], and
// returns its exit code: 127 when there is no such command, 126
// when it cannot be run (both with an error), 128+n when signal n ended it. As pid
// 1 it also reaps every orphan of the namespace.
func (in *Inside) Exec(path string, argv, env []string) (code int, err error) {
	if path == "" {
		if path, err = exec.LookPath(argv[0]); err != nil {
			return commandError(argv[0], err)
		}
	}
	if err := in.ctx.Err(); err != nil {
		return 128 + int(unix.SIGINT), nil // ended before it began
	}
	pid, err := in.start(path, argv, env)
	if err != nil {
		return commandError(argv[0], err)
	}
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, 0, nil)
		if err == unix.EINTR || err == nil && (got != pid || !ws.Exited() && !ws.Signaled()) {
			continue
		}
		in.mu.Lock()
		in.pid = 0 // reaped: the number may be another's from here on
		in.mu.Unlock()
		switch {
		case err != nil:
			return 1, fmt.Errorf("wait for %s: %w", argv[0], err)
		case ws.Signaled():
			return 128 + int(ws.Signal()), nil
		}
		return ws.ExitStatus(), nil
	}
}

// start forks CMD from a thread that has given up the ambient capabilities which
// only the inner process needs; they belong to threads, and the thread ends here.
func (in *Inside) start(path string, argv, env []string) (pid int, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread is not used again
		attr := &os.ProcAttr{Env: env, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}}
		if ambient, _ := unix.PrctlRetInt(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_IS_SET, unix.CAP_SYS_ADMIN, 0, 0); ambient == 1 {
			if err = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_LOWER, unix.CAP_SYS_ADMIN, 0, 0); err != nil {
				return
			}
		}
		var p *os.Process
		if p, err = os.StartProcess(path, argv, attr); err == nil {
			pid, in.pid = p.Pid, p.Pid
			_ = p.Release() // the reaper waits for it
		}
	}()
	<-done
	return pid, err
}

func commandError(name string, err error) (int, error) {
	var pe *fs.PathError
	var ee *exec.Error
	switch {
	case errors.As(err, &pe):
		err = pe.Err
	case errors.As(err, &ee):
		err = ee.Err
	}
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENOEXEC) {
		return 126, fmt.Errorf("run %s: %w", name, err)
	}
	return 127, fmt.Errorf("run %s: %w", name, err)
}
