package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// stage is where the files that cover others are made: a tmpfs on /proc, which is
// there on every system and gets the new namespace's own proc right after.
const stage = "/proc"

// hidden are the sockets through which libc would ask the machine's own resolver
// (nscd, unscd, systemd-resolved) instead of reading resolv.conf.
var hidden = []string{
	"/run/nscd/socket", "/var/run/nscd/socket",
	"/run/systemd/resolve/io.systemd.Resolve", "/run/systemd/resolve/io.systemd.Resolve.Monitor",
}

// Files gives the mount namespace its own /proc, resolv.conf and nsswitch.conf.
// Nothing of it is seen outside. What is useful but not needed comes back as warnings.
func (in *Inside) Files(r Resolver) (warnings []string, err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, &Error{Op: "make the mounts private", Err: err}
	}
	if err := unix.Mount("porthole", stage, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=1m"); err != nil {
		return nil, &Error{Op: "mount a tmpfs", Err: err}
	}
	warnings, err = cover(r)
	if uerr := unix.Unmount(stage, unix.MNT_DETACH); err == nil && uerr != nil {
		err = fmt.Errorf("unmount the staging directory: %w", uerr)
	}
	if err != nil {
		return warnings, err
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		// A container's masked /proc forbids a new one (EPERM): the old one serves, with the outer pids.
		warnings = append(warnings, fmt.Sprintf("mount /proc: %v; ps shows the pids of outside", err))
	}
	// ping without raw sockets: allowed to the caller's group (icmp(7)).
	gid := os.Getegid()
	_ = os.WriteFile("/proc/sys/net/ipv4/ping_group_range", fmt.Appendf(nil, "%d %d", gid, gid), 0)
	return warnings, nil
}

// cover lays the staged files over the machine's.
func cover(r Resolver) (warnings []string, err error) {
	put := func(name, text string) (string, error) {
		path := filepath.Join(stage, name)
		return path, os.WriteFile(path, []byte(text), 0o644)
	}
	resolv, err := put("resolv.conf", r.conf())
	if err != nil {
		return nil, err
	}
	if err := coverResolv(resolv, r); err != nil {
		warnings = append(warnings, fmt.Sprintf("names do not resolve: cover /etc/resolv.conf: %v; create that file", err))
	}
	if old, err := os.ReadFile("/etc/nsswitch.conf"); err == nil {
		path, err := put("nsswitch.conf", filesAndDNS(string(old)))
		if err == nil {
			err = bind(path, "/etc/nsswitch.conf")
		}
		if err != nil {
			warnings = append(warnings, fmt.Sprintf("names may not resolve: cover /etc/nsswitch.conf: %v", err))
		}
	}
	empty, err := put("empty", "")
	if err != nil {
		return warnings, err
	}
	for _, socket := range hidden {
		if fi, err := os.Stat(socket); err != nil || fi.Mode().Type() != os.ModeSocket {
			continue
		}
		if err := bind(empty, socket); err != nil {
			warnings = append(warnings, fmt.Sprintf("names may resolve outside: hide %s: %v", socket, err))
		}
	}
	return warnings, nil
}

// coverResolv binds the staged file over what /etc/resolv.conf leads to: covering
// the link itself would change the directory. Where it leads nowhere, /etc gets an
// overlay in memory that has one.
func coverResolv(staged string, r Resolver) error {
	target, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err == nil {
		return bind(staged, target)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	upper, work := filepath.Join(stage, "upper"), filepath.Join(stage, "work")
	for _, d := range []string{upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	opts := "lowerdir=/etc,upperdir=" + upper + ",workdir=" + work
	if err = unix.Mount("overlay", "/etc", "overlay", 0, opts+",userxattr"); err != nil {
		err = unix.Mount("overlay", "/etc", "overlay", 0, opts)
	}
	if err != nil {
		return err
	}
	_ = os.Remove("/etc/resolv.conf") // a link that leads nowhere
	return os.WriteFile("/etc/resolv.conf", []byte(r.conf()), 0o644)
}

func bind(from, to string) error { return unix.Mount(from, to, "", unix.MS_BIND, "") }

func (r Resolver) conf() string {
	var b strings.Builder
	b.WriteString("# of porthole's private network\n")
	for _, s := range r.Servers {
		fmt.Fprintf(&b, "nameserver %v\n", s)
	}
	if r.Search != "" {
		fmt.Fprintf(&b, "search %s\n", r.Search)
	}
	b.WriteString("options timeout:2 attempts:5\n")
	return b.String()
}

// filesAndDNS makes an nsswitch.conf ask /etc/hosts and then resolv.conf's servers,
// nothing else.
func filesAndDNS(old string) string {
	var b strings.Builder
	for line := range strings.Lines(old) {
		if db, _, _ := strings.Cut(line, ":"); strings.TrimSpace(db) != "hosts" {
			b.WriteString(strings.TrimRight(line, "\n") + "\n")
		}
	}
	b.WriteString("hosts: files dns\n")
	return b.String()
}
