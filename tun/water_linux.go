package tun

import (
	"errors"
	"os"
	"syscall"

	"github.com/songgao/water"
	"golang.org/x/sys/unix"
)

// openWater makes water's device. water attaches to whatever has the name and
// keeps its descriptor when that fails, so the interface is made and removed once
// by our own hand first: what could fail fails there, with our words for it.
func openWater(o Options) (Device, error) {
	o.Queues = 1
	name, fd, err := attachPlain(o)
	if err != nil {
		return nil, err
	}
	o.Name = name
	if err := unix.Close(fd); err != nil {
		return nil, &Error{Op: o.op(), Cause: err.Error(), Err: err}
	}
	d, err := newWater(o)
	if err != nil {
		return nil, &Error{Op: o.op(), Cause: "water: " + err.Error(), Err: err}
	}
	return d, nil
}

// attachPlain makes the interface as water does: without a header before frames.
func attachPlain(o Options) (name string, fd int, err error) {
	if name = o.Name; name == "" {
		name = "ph%d"
	}
	if fd, err = openNode(o); err != nil {
		return name, -1, err
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | tunExcl)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		_ = unix.Close(fd)
		return name, -1, attachError(o, name, err)
	}
	return ifr.Name(), fd, nil
}

func closeOnExec(ifce *water.Interface) error {
	f, ok := ifce.ReadWriteCloser.(*os.File)
	if !ok {
		return errors.New("water's descriptor is out of reach")
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { unix.CloseOnExec(int(fd)) })
}

// waterErr gives the kernel's numbers their meaning.
func waterErr(err error) error {
	var errno syscall.Errno
	switch {
	case !errors.As(err, &errno): // the poller's: the descriptor has no interface
		return because(ErrGone, err)
	case errno == unix.EBADFD:
		return ErrGone
	case errno == unix.EIO:
		return ErrDown
	}
	return err
}
