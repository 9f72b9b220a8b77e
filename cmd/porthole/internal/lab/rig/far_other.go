//go:build !linux

package rig

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
)

var errSystem = errors.New("a rig needs Linux")

// far needs Linux.
type far struct{ server, client netip.Addr }

func openFar(int) (*far, error)                               { return nil, errSystem }
func (*far) close() error                                     { return nil }
func (*far) listen(uint16, int) (net.Listener, error)         { return nil, errSystem }
func (*far) listenPacket(uint16, int) (net.PacketConn, error) { return nil, errSystem }

// Drops needs Linux.
func Drops(syscall.Conn) (uint64, error) { return 0, errSystem }

// ReceiveCharge needs Linux.
func ReceiveCharge(syscall.Conn) (int, error) { return 0, errSystem }

// ReceiveBuffer needs Linux.
func ReceiveBuffer(syscall.Conn) (int, error) { return 0, errSystem }

// Sysctl needs Linux.
func Sysctl(string, string) error { return errSystem }

// FarSysctl needs Linux.
func (*Rig) FarSysctl(string, string) error { return errSystem }
