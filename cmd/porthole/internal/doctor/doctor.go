// Package doctor looks at a machine and says what porthole lacks there, and for
// each thing the one command that mends it. It changes nothing.
package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// States of a Finding.
const (
	OK      = "ok"
	Note    = "note"    // works, or can be done without
	Missing = "missing" // porthole cannot do its job
)

// Finding is one thing that was looked at.
type Finding struct {
	Check  string `json:"check"`
	State  string `json:"state"`
	Detail string `json:"detail"`
	Mend   string `json:"mend,omitempty"` // the command
}

// System is the machine as the checks ask it; tests have others.
type System struct {
	Read     func(path string) (string, error) // a small file, trimmed
	Glob     func(pattern string) []string
	OpenTUN  func() error // opens the device node and closes it
	HasAdmin bool         // CAP_NET_ADMIN here
	Root     bool         // may make namespaces without a user namespace
	Sandbox  func() error // makes the namespaces and a device in them, and ends them
	Overlap  func(netip.Prefix) (string, bool, error)
	Look     func(program string) bool
	Control  func() error // makes sure that control sockets can be made
	Prefixes []netip.Prefix
}

// Examine runs every check, in the order in which things are needed.
func Examine(s *System) []Finding {
	fs := []Finding{s.node(), s.capability(), s.namespaces(), s.control()}
	fs = append(fs, s.reversePath(), s.manager())
	for _, p := range s.Prefixes {
		fs = append(fs, s.overlap(p))
	}
	return append(fs, s.ipv6(), s.clients())
}

func (s *System) node() Finding {
	f := Finding{Check: "device node", State: OK, Detail: "/dev/net/tun opens"}
	err := s.OpenTUN()
	switch {
	case err == nil:
		return f
	case errors.Is(err, fs.ErrNotExist):
		f.Mend = "sudo modprobe tun || sudo sh -c 'mkdir -p /dev/net && mknod -m 666 /dev/net/tun c 10 200'"
	case errors.Is(err, fs.ErrPermission):
		f.Mend = "sudo chmod 666 /dev/net/tun"
	case errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO):
		f.Mend = "sudo modprobe tun"
	default:
		f.Mend = "sudo modprobe tun"
	}
	f.State, f.Detail = Missing, err.Error()
	return f
}

func (s *System) capability() Finding {
	f := Finding{Check: "CAP_NET_ADMIN", State: OK, Detail: "here; `up` works"}
	if !s.HasAdmin {
		f.State, f.Detail, f.Mend = Note, "not here; `up` needs it, `exec` and `demo` do not", "sudo porthole up"
	}
	return f
}

// namespaces tries what `exec` does. When that fails it looks for the switch that
// forbids it.
func (s *System) namespaces() Finding {
	f := Finding{Check: "private network", State: OK, Detail: "`exec` works with a user namespace"}
	if s.Root {
		f.Detail = "`exec` works, as root without a user namespace"
	}
	err := s.Sandbox()
	if err == nil {
		return f
	}
	f.State, f.Detail = Missing, err.Error()
	for _, c := range []struct{ key, bad, mend string }{
		{"kernel.unprivileged_userns_clone", "0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"},
		{"user.max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=15000"},
		{"user.max_net_namespaces", "0", "sudo sysctl -w user.max_net_namespaces=15000"},
		{"kernel.apparmor_restrict_unprivileged_userns", "1", "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
	} {
		if v, err := s.sysctl(c.key); err == nil && v == c.bad && !s.Root {
			f.Detail, f.Mend = fmt.Sprintf("%s is %s (%s)", c.key, v, f.Detail), c.mend
			return f
		}
	}
	if node := s.node(); node.State != OK {
		f.Mend = node.Mend
		return f
	}
	f.Mend = "sudo porthole exec -- CMD"
	if s.Root {
		f.Mend = "docker run --privileged (a container without it forbids namespaces)"
	}
	return f
}

func (s *System) control() Finding {
	f := Finding{Check: "control socket", State: OK, Detail: "its directory can be written"}
	if err := s.Control(); err != nil {
		f.State, f.Detail, f.Mend = Missing, err.Error(), "export PORTHOLE_RUNTIME_DIR=$(mktemp -d)"
	}
	return f
}

// reversePath: strict filtering (RFC 3704) drops the host's packets when policy
// routing, as of a VPN, leads its address elsewhere. The link's own route does not.
func (s *System) reversePath() Finding {
	f := Finding{Check: "rp_filter", State: OK, Detail: "not strict"}
	if v, err := s.sysctl("net.ipv4.conf.all.rp_filter"); err == nil && v == "1" {
		f.State, f.Detail = Note, "strict; harmless unless policy routing (a VPN) leads the host's address elsewhere"
		f.Mend = "sudo sysctl -w net.ipv4.conf.all.rp_filter=2"
	}
	return f
}

// manager: one that takes every new interface may put its own addresses on ours.
func (s *System) manager() Finding {
	f := Finding{Check: "other managers", State: OK, Detail: "none takes new interfaces"}
	for _, file := range s.Glob("/etc/systemd/network/*.network") {
		text, err := s.Read(file)
		if err != nil || !matchesAll(text) || len(s.Glob("/run/systemd/netif")) == 0 {
			continue
		}
		f.State, f.Detail = Note, "systemd-networkd takes every interface by "+file
		f.Mend = `printf '[Match]\nName=ph*\n[Link]\nUnmanaged=yes\n' | sudo tee /etc/systemd/network/00-porthole.network && sudo networkctl reload`
		return f
	}
	if len(s.Glob("/run/NetworkManager")) > 0 {
		for _, file := range s.Glob("/etc/NetworkManager/conf.d/*.conf") {
			if text, err := s.Read(file); err == nil && strings.Contains(text, "interface-name:ph") {
				return f
			}
		}
		f.State, f.Detail = Note, "NetworkManager runs; it leaves a TUN device alone unless a profile names it"
		f.Mend = "sudo nmcli device set ph0 managed no"
	}
	return f
}

func matchesAll(network string) bool {
	for line := range strings.Lines(network) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		if strings.TrimSpace(k) == "Name" && (strings.TrimSpace(v) == "*" || strings.TrimSpace(v) == "ph*") {
			return !strings.Contains(network, "Unmanaged=yes")
		}
	}
	return false
}

func (s *System) overlap(p netip.Prefix) Finding {
	f := Finding{Check: "range " + p.Masked().String(), State: OK, Detail: "free"}
	route, found, err := s.Overlap(p)
	switch {
	case err != nil:
		f.State, f.Detail = Note, err.Error()
	case found:
		f.State, f.Detail = Note, "overlaps the route "+route+"; `up` takes the next free range"
		f.Mend = "porthole up --dry-run"
	}
	return f
}

func (s *System) ipv6() Finding {
	f := Finding{Check: "IPv6", State: OK, Detail: "on"}
	if v, err := s.sysctl("net.ipv6.conf.default.disable_ipv6"); err != nil || v == "1" {
		f.State, f.Detail, f.Mend = Note, "off; the link has IPv4 only", "sudo sysctl -w net.ipv6.conf.default.disable_ipv6=0"
	}
	return f
}

func (s *System) clients() Finding {
	f := Finding{Check: "clients", State: OK, Detail: "curl, dig, lftp and ping are installed"}
	var names, packages []string
	for _, c := range []struct{ program, pkg string }{
		{"curl", "curl"}, {"dig", "bind9-dnsutils"}, {"lftp", "lftp"}, {"ping", "iputils-ping"},
	} {
		if !s.Look(c.program) {
			names, packages = append(names, c.program), append(packages, c.pkg)
		}
	}
	if len(names) > 0 {
		f.State, f.Detail = Note, strings.Join(names, ", ")+" not installed; `demo` uses built-in clients instead"
		f.Mend = "sudo apt-get install -y " + strings.Join(packages, " ")
	}
	return f
}

func (s *System) sysctl(key string) (string, error) {
	return s.Read(filepath.Join("/proc/sys", strings.ReplaceAll(key, ".", "/")))
}
