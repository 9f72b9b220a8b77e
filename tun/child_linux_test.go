package tun

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// child is the test binary run as another process: it holds a device of the kind
// what, says so, and waits to be ended.
func child(what string) {
	d, err := Open(Options{Name: "ph0", Kind: what, Queues: 1, Peer4: machine4})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("holding")
	for {
		frames, tail := batch(1)
		if _, err := d.Read(0, frames, tail); err != nil {
			os.Exit(1)
		}
	}
}

// holder starts a child in the test's namespace. It ends with the test at the latest.
func holder(t testing.TB, kind string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+kind)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "holding\n", line)
	return cmd
}
