package doctor

import (
	"errors"
	"io/fs"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// healthy is a machine that lacks nothing; files are what Read finds.
func healthy(files map[string]string) *System {
	return &System{
		Read: func(p string) (string, error) {
			if v, ok := files[p]; ok {
				return v, nil
			}
			if p == "/proc/sys/net/ipv6/conf/default/disable_ipv6" {
				return "0", nil
			}
			return "", fs.ErrNotExist
		},
		Glob: func(pattern string) (found []string) {
			for p := range files {
				if p == pattern || pattern == "/etc/systemd/network/*.network" && p == "/etc/systemd/network/a.network" {
					found = append(found, p)
				}
			}
			return found
		},
		OpenTUN: func() error { return nil }, HasAdmin: true, Sandbox: func() error { return nil },
		Overlap:  func(netip.Prefix) (string, bool, error) { return "", false, nil },
		Look:     func(string) bool { return true },
		Control:  func() error { return nil },
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.77.0.1/24")},
	}
}

func TestHealthy(t *testing.T) {
	for _, f := range Examine(healthy(nil)) {
		require.Equal(t, OK, f.State, f)
		require.Empty(t, f.Mend, f)
	}
}

func TestExamine(t *testing.T) {
	refused := func(s *System) { s.Sandbox = func() error { return errors.New("refused") } }
	for _, tt := range []struct {
		name  string
		files map[string]string
		edit  func(*System)
		want  Finding
	}{
		{"no node", nil, func(s *System) { s.OpenTUN = func() error { return fs.ErrNotExist } },
			Finding{"device node", Missing, "file does not exist", "sudo modprobe tun || sudo sh -c 'mkdir -p /dev/net && mknod -m 666 /dev/net/tun c 10 200'"}},
		{"node forbidden", nil, func(s *System) { s.OpenTUN = func() error { return unix.EACCES } },
			Finding{"device node", Missing, "permission denied", "sudo chmod 666 /dev/net/tun"}},
		{"no module", nil, func(s *System) { s.OpenTUN = func() error { return unix.ENODEV } },
			Finding{"device node", Missing, "no such device", "sudo modprobe tun"}},
		{"no capability", nil, func(s *System) { s.HasAdmin = false },
			Finding{"CAP_NET_ADMIN", Note, "not here; `up` needs it, `exec` and `demo` do not", "sudo porthole up"}},
		{"apparmor", map[string]string{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"}, refused,
			Finding{"private network", Missing, "kernel.apparmor_restrict_unprivileged_userns is 1 (refused)", "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"}},
		{"user namespaces off", map[string]string{"/proc/sys/kernel/unprivileged_userns_clone": "0"}, refused,
			Finding{"private network", Missing, "kernel.unprivileged_userns_clone is 0 (refused)", "sudo sysctl -w kernel.unprivileged_userns_clone=1"}},
		{"none left", map[string]string{"/proc/sys/user/max_user_namespaces": "0"}, refused,
			Finding{"private network", Missing, "user.max_user_namespaces is 0 (refused)", "sudo sysctl -w user.max_user_namespaces=15000"}},
		{"node forbidden inside", nil, func(s *System) { refused(s); s.OpenTUN = func() error { return unix.EACCES } },
			Finding{"private network", Missing, "refused", "sudo chmod 666 /dev/net/tun"}},
		{"a container", nil, func(s *System) { refused(s); s.Root = true },
			Finding{"private network", Missing, "refused", "docker run --privileged (a container without it forbids namespaces)"}},
		{"no socket", nil, func(s *System) { s.Control = func() error { return errors.New("read-only") } },
			Finding{"control socket", Missing, "read-only", "export PORTHOLE_RUNTIME_DIR=$(mktemp -d)"}},
		{"strict", map[string]string{"/proc/sys/net/ipv4/conf/all/rp_filter": "1"}, nil,
			Finding{"rp_filter", Note, "strict; harmless unless policy routing (a VPN) leads the host's address elsewhere", "sudo sysctl -w net.ipv4.conf.all.rp_filter=2"}},
		{"networkd", map[string]string{"/run/systemd/netif": "", "/etc/systemd/network/a.network": "[Match]\nName=*\n"}, nil,
			Finding{"other managers", Note, "systemd-networkd takes every interface by /etc/systemd/network/a.network", `printf '[Match]\nName=ph*\n[Link]\nUnmanaged=yes\n' | sudo tee /etc/systemd/network/00-porthole.network && sudo networkctl reload`}},
		{"NetworkManager", map[string]string{"/run/NetworkManager": ""}, nil,
			Finding{"other managers", Note, "NetworkManager runs; it leaves a TUN device alone unless a profile names it", "sudo nmcli device set ph0 managed no"}},
		{"overlap", nil, func(s *System) {
			s.Overlap = func(netip.Prefix) (string, bool, error) { return "10.0.0.0/8 dev vpn0", true, nil }
		}, Finding{"range 10.77.0.0/24", Note, "overlaps the route 10.0.0.0/8 dev vpn0; `up` takes the next free range", "porthole up --dry-run"}},
		{"no IPv6", map[string]string{"/proc/sys/net/ipv6/conf/default/disable_ipv6": "1"}, nil,
			Finding{"IPv6", Note, "off; the link has IPv4 only", "sudo sysctl -w net.ipv6.conf.default.disable_ipv6=0"}},
		{"clients", nil, func(s *System) { s.Look = func(p string) bool { return p == "curl" || p == "ping" } },
			Finding{"clients", Note, "dig, lftp not installed; `demo` uses built-in clients instead", "sudo apt-get install -y bind9-dnsutils lftp"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := healthy(tt.files)
			if tt.edit != nil {
				tt.edit(s)
			}
			require.Contains(t, Examine(s), tt.want)
		})
	}
}
