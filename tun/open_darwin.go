package tun

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"

	"github.com/songgao/water"
	"golang.org/x/sys/unix"
)

// Open makes a utun device through water, gives this machine its addresses on it
// and brings it up. macOS names these devices itself: a name that is not utunN
// gives the next free one (Facts tells which). Only the kinds auto and water
// exist. On failure nothing is left behind. Errors are *Error.
func Open(o Options) (Device, error) {
	if !strings.HasPrefix(o.Name, "utun") {
		o.Name = ""
	}
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if o.Kind != KindAuto && o.Kind != KindWater {
		return nil, &Error{Op: o.op(), Cause: "macOS has no " + o.Kind + " device", Next: "use the water device", Err: ErrNoDevice}
	}
	d, err := newWater(o)
	if errors.Is(err, unix.EPERM) || err != nil && strings.Contains(err.Error(), unix.EPERM.Error()) {
		return nil, &Error{Op: o.op(), Cause: "making an interface needs root", Next: "use sudo", Err: because(ErrPermission, err)}
	}
	if err != nil {
		return nil, &Error{Op: o.op(), Cause: err.Error(), Err: err}
	}
	for _, args := range configuration(d.facts.Name, o) {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			_ = d.Close()
			return nil, &Error{Op: o.op(), Cause: fmt.Sprintf("%s: %s", strings.Join(args, " "), strings.TrimSpace(string(out))), Err: because(ErrAddress, err)}
		}
	}
	return d, nil
}

// configuration is the commands that set up the interface. utun is a
// point-to-point link, so the connected route has to be asked for; it ends with
// the interface.
func configuration(name string, o Options) [][]string {
	c := [][]string{{"/sbin/ifconfig", name, "mtu", strconv.Itoa(o.MTU), "up"}}
	route := func(family string, p netip.Prefix) []string {
		return []string{"/sbin/route", "-q", "-n", "add", family, p.Masked().String(), "-interface", name}
	}
	if p := o.Peer4; p.IsValid() {
		c = append(c, []string{"/sbin/ifconfig", name, "inet", p.String(), p.Addr().String(), "alias"}, route("-inet", p))
	}
	if p := o.Peer6; p.IsValid() {
		c = append(c, []string{"/sbin/ifconfig", name, "inet6", p.String(), "alias"})
	}
	return c
}

// closeOnExec looks for the descriptor, which water hides, by the name of its
// interface (UTUN_OPT_IFNAME).
func closeOnExec(ifce *water.Interface) error {
	const sysprotoControl, utunOptIfname, most = 2, 2, 4096
	for fd := 3; fd < most; fd++ {
		if name, err := unix.GetsockoptString(fd, sysprotoControl, utunOptIfname); err == nil && name == ifce.Name() {
			unix.CloseOnExec(fd)
			return nil
		}
	}
	return errors.New("find the descriptor of " + ifce.Name() + ": not there")
}

func waterErr(err error) error { return err }
