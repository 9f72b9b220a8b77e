package sandbox

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestMain is also the program under test: outer and inner process.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 2 && (os.Args[1] == "outer" || os.Args[1] == "outer-root"):
		payload, _ := json.Marshal(os.Args[2:])
		code, err := Run(Options{Args: []string{"inside"}, Payload: payload, Root: os.Args[1] == "outer-root"})
		exit(code, err)
	case len(os.Args) == 2 && os.Args[1] == "inside":
		exit(inner())
	}
	code := m.Run()
	if bin, err := program(); err == nil {
		_ = os.RemoveAll(filepath.Dir(bin))
	}
	os.Exit(code)
}

func exit(code int, err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func inner() (int, error) {
	in, err := Enter()
	if err != nil {
		return 1, err
	}
	if err := in.Loopback(); err != nil {
		return 1, err
	}
	warnings, err := in.Files(Resolver{Servers: []netip.Addr{netip.MustParseAddr("10.77.0.1")}, Search: "porthole.test"})
	if err != nil {
		return 1, err
	}
	for _, w := range warnings {
		fmt.Fprintln(os.Stderr, w)
	}
	var argv []string
	if err := json.Unmarshal(in.Payload, &argv); err != nil {
		return 1, err
	}
	return in.Exec("", argv, os.Environ())
}

// needNamespaces skips where they cannot be made, unless the run may not skip.
func needNamespaces(t *testing.T) {
	t.Helper()
	payload, _ := json.Marshal([]string{"true"})
	if err := Try(Options{Args: []string{"inside"}, Payload: payload}); err != nil {
		if os.Getenv("PORTHOLE_E2E") == "require" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// caller runs the outer process as root (of whoever runs the test) or as a user
// who has nothing.
type caller struct {
	name string
	uid  int // -1: as this process
}

func callers() []caller {
	cs := []caller{{"self", -1}}
	if os.Geteuid() == 0 {
		cs = append(cs, caller{"user", 54321})
	}
	return cs
}

// program is a copy of the test that any user may run.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "phsandbox")
	if err != nil {
		return "", err
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "porthole")
	return bin, errors.Join(os.Chmod(dir, 0o755), os.WriteFile(bin, self, 0o755))
})

func (c caller) command(t *testing.T, mode string, argv ...string) *exec.Cmd {
	t.Helper()
	bin, err := program()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), bin, append([]string{mode}, argv...)...)
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	if c.uid >= 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(c.uid), Gid: uint32(c.uid)}}
	}
	return cmd
}

func TestExitCode(t *testing.T) {
	needNamespaces(t)
	for _, c := range callers() {
		for _, tt := range []struct {
			name string
			argv []string
			want int
		}{
			{"good", []string{"true"}, 0},
			{"its own", []string{"sh", "-c", "exit 7"}, 7},
			{"signal", []string{"sh", "-c", "kill -TERM $$"}, 143},
			{"killed", []string{"sh", "-c", "kill -KILL $$"}, 137},
			{"not there", []string{"porthole-no-such-command"}, 127},
			{"not executable", []string{"/etc/passwd"}, 126},
			{"orphans are not waited for", []string{"sh", "-c", "(sleep 1000 &) ; exit 5"}, 5},
		} {
			t.Run(c.name+"/"+tt.name, func(t *testing.T) {
				cmd := c.command(t, "outer", tt.argv...)
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				_ = cmd.Run()
				require.Equal(t, tt.want, cmd.ProcessState.ExitCode(), stderr.String())
				if tt.want == 126 || tt.want == 127 {
					require.Contains(t, stderr.String(), "run "+tt.argv[0]+": ")
				}
			})
		}
	}
}

func TestInside(t *testing.T) {
	needNamespaces(t)
	before, _ := os.ReadFile("/etc/resolv.conf")
	for _, c := range callers() {
		t.Run(c.name, func(t *testing.T) {
			cmd := c.command(t, "outer", "sh", "-c", `
				echo uid $(id -u)
				echo links $(grep -c : /proc/net/dev)
				echo one $(tr "\\0" " " </proc/1/cmdline)
				echo caps $(grep CapAmb /proc/self/status)
				echo resolv $(cat /etc/resolv.conf)
				echo hosts $(grep ^hosts /etc/nsswitch.conf)
				echo ping $(cat /proc/sys/net/ipv4/ping_group_range)`)
			out, err := cmd.Output()
			require.NoError(t, err)
			uid, ambient := os.Geteuid(), "CapAmb: 0000000000000000"
			if c.uid >= 0 {
				uid, ambient = c.uid, "CapAmb: 0000000000003400"
			}
			got := string(out)
			require.Contains(t, got, fmt.Sprintf("uid %d\n", uid))
			require.Contains(t, got, "links 1\n") // lo
			require.Contains(t, got, "one porthole inside\n")
			require.Contains(t, got, ambient)
			require.Contains(t, got, "resolv # of porthole's private network nameserver 10.77.0.1 search porthole.test options timeout:2 attempts:5\n")
			require.Contains(t, got, "hosts hosts: files dns\n")
			require.Contains(t, got, fmt.Sprintf("ping %d %d\n", uid, uid))
		})
	}
	after, _ := os.ReadFile("/etc/resolv.conf")
	require.Equal(t, string(before), string(after))
	mounts, _ := os.ReadFile("/proc/self/mounts")
	require.NotContains(t, string(mounts), "porthole /")
}

func TestRootInside(t *testing.T) {
	needNamespaces(t)
	for _, c := range callers() {
		out, err := c.command(t, "outer-root", "id", "-u").Output()
		require.NoError(t, err)
		require.Equal(t, "0\n", string(out))
	}
}

// ready starts cmd and waits for the line "ready".
func ready(t *testing.T, cmd *exec.Cmd) *bufio.Reader {
	t.Helper()
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	r := bufio.NewReader(out)
	line, err := r.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready", strings.TrimSpace(line))
	return r
}

func TestSignals(t *testing.T) {
	needNamespaces(t)
	for _, c := range callers() {
		for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGQUIT} {
			t.Run(c.name+"/"+unix.SignalName(sig), func(t *testing.T) {
				name := strings.TrimPrefix(unix.SignalName(sig), "SIG")
				heard := make(chan os.Signal, 1)
				signal.Notify(heard, sig) // under nohup the shell could not trap HUP
				defer signal.Stop(heard)
				cmd := c.command(t, "outer", "sh", "-c", "trap 'echo got; exit 9' "+name+"; echo ready; sleep 1000 & wait")
				cmd.SysProcAttr = withSession(cmd.SysProcAttr) // no terminal, whoever runs the test
				r := ready(t, cmd)
				require.NoError(t, cmd.Process.Signal(sig))
				line, _ := r.ReadString('\n')
				require.Equal(t, "got\n", line)
				_ = cmd.Wait()
				require.Equal(t, 9, cmd.ProcessState.ExitCode())
			})
		}
	}
}

func withSession(a *syscall.SysProcAttr) *syscall.SysProcAttr {
	if a == nil {
		a = &syscall.SysProcAttr{}
	}
	a.Setsid = true
	return a
}

// TestOuterKilled: with the outer process everything inside ends, and its output.
func TestOuterKilled(t *testing.T) {
	needNamespaces(t)
	for _, c := range callers() {
		cmd := c.command(t, "outer", "sh", "-c", "trap '' TERM HUP INT; echo ready; sleep 1000")
		r := ready(t, cmd)
		require.NoError(t, cmd.Process.Kill())
		_, err := io.Copy(io.Discard, r) // the end comes when nobody holds the pipe any more
		require.NoError(t, err)
		_ = cmd.Wait()
	}
}

// TestTerminal types Ctrl-C at CMD, and lets a shell with job control take the
// terminal; in the end it is the caller's again.
func TestTerminal(t *testing.T) {
	needNamespaces(t)
	for _, c := range callers() {
		t.Run(c.name, func(t *testing.T) {
			master, slave := openPTY(t)
			cmd := c.command(t, "outer", "sh", "-c", "trap 'echo int; exit 3' INT; echo ready; sleep 1000 & wait")
			cmd.SysProcAttr = withSession(cmd.SysProcAttr)
			cmd.SysProcAttr.Setctty, cmd.SysProcAttr.Ctty = true, 0
			cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
			require.NoError(t, cmd.Start())
			r := bufio.NewReader(master)
			line, err := r.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "ready\r\n", line)
			_, err = master.Write([]byte{3})
			require.NoError(t, err)
			line, err = r.ReadString('\n')
			require.NoError(t, err)
			require.Contains(t, line, "int\r\n")
			_ = cmd.Wait()
			require.Equal(t, 3, cmd.ProcessState.ExitCode())
		})
	}
}

// TestTerminalComesBack: CMD moves itself to a group of its own and takes the
// terminal, as a shell does; the program behind `porthole exec` still reads it.
func TestTerminalComesBack(t *testing.T) {
	needNamespaces(t)
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip(err)
	}
	master, slave := openPTY(t)
	outer := callers()[0].command(t, "outer")
	script := outer.Path + ` outer bash --norc -ic 'set -m; sleep 0.01; echo inside' && read line && echo "read $line"`
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	require.NoError(t, cmd.Start())
	require.NoError(t, slave.Close())
	_, err := master.WriteString("hello\n")
	require.NoError(t, err)
	out, _ := io.ReadAll(master) // ends with EIO when the last holder of the terminal ends
	require.NoError(t, cmd.Wait(), string(out))
	require.Contains(t, string(out), "inside")
	require.Contains(t, string(out), "read hello")
}

func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = slave.Close() })
	return master, slave
}

func TestFilesAndDNS(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"replaced", "passwd: files\nhosts: files resolve [!UNAVAIL=return] dns\nnetworks: files\n", "passwd: files\nnetworks: files\nhosts: files dns\n"},
		{"missing", "passwd: files", "passwd: files\nhosts: files dns\n"},
		{"spaces", "  hosts : dns\n", "hosts: files dns\n"},
		{"empty", "", "hosts: files dns\n"},
	} {
		t.Run(tt.name, func(t *testing.T) { require.Equal(t, tt.want, filesAndDNS(tt.in)) })
	}
}

func TestEnterByHand(t *testing.T) {
	_, err := Enter()
	require.EqualError(t, err, "inside: only `porthole exec` starts this")
}
