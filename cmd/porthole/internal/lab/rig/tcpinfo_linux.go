package rig

import (
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// connInfo is what an experiment needs of TCP_INFO.
type connInfo struct {
	windowScale bool
	sent        int           // segments, of the whole connection
	retransmits int           // of those
	window      int           // that the peer offers, in bytes
	rtt         time.Duration // the smallest
}

// tcpInfo asks the kernel about a client's connection.
func tcpInfo(c syscall.Conn) (i connInfo, err error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return i, err
	}
	var info *unix.TCPInfo
	var ierr error
	err = rc.Control(func(fd uintptr) { info, ierr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err == nil {
		err = ierr
	}
	if err != nil {
		return i, fmt.Errorf("ask for TCP_INFO: %w", err)
	}
	const wscale = 4 // TCPI_OPT_WSCALE
	return connInfo{
		windowScale: info.Options&wscale != 0, retransmits: int(info.Total_retrans),
		sent: int(info.Segs_out), window: int(info.Snd_wnd), rtt: time.Duration(info.Min_rtt) * time.Microsecond,
	}, nil
}

// congestionControl chooses a new socket's.
func congestionControl(c syscall.RawConn, name string) (err error) {
	cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, name) })
	if err != nil {
		return fmt.Errorf("congestion control %s: %w", name, err)
	}
	return cerr
}
