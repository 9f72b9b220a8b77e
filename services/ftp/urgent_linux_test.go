package ftp

import (
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// A Synch sent as urgent data loses an octet in the kernel; ABOR still arrives.
func TestAbortUrgent(t *testing.T) {
	r := start(t, nil)
	c := r.anonymous()
	stalled(c)
	raw, err := c.conn.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	var sent error
	require.NoError(t, raw.Write(func(fd uintptr) bool {
		sent = syscall.Sendto(int(fd), []byte("\xff\xf4\xff\xf2"), syscall.MSG_OOB, nil)
		return true
	}))
	require.NoError(t, sent)
	c.send("ABOR")
	c.want("426")
	c.want("226")
}
