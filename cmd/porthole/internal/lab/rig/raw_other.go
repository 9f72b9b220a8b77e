//go:build !linux

package rig

import (
	"context"
	"net/netip"
	"syscall"
	"time"
)

type rawSYN struct {
	from     uint32
	fromPort uint16
	to       netip.AddrPort
	seq      uint32
}

func rawSYNs(context.Context, float64, time.Duration, func(int) rawSYN) error { return errSystem }

type connInfo struct {
	windowScale bool
	sent        int
	retransmits int
	window      int
	rtt         time.Duration
}

func tcpInfo(syscall.Conn) (connInfo, error) { return connInfo{}, errSystem }

func congestionControl(syscall.RawConn, string) error { return errSystem }
