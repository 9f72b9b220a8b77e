package porthole_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/services/dhcp"
	"porthole/tun"
)

// The stock DHCP clients run with scripts of the test's own: the ones that come
// with them rewrite the machine's resolv.conf.

const udhcpcScript = `#!/bin/sh
case "$1" in
bound|renew)
	ip addr replace "$ip/$mask" dev "$interface"
	echo "$1 $ip $subnet router=$router dns=$dns domain=$domain lease=$lease mtu=$mtu" >>"$OUT" ;;
deconfig)
	ip -4 addr flush dev "$interface"
	echo deconfig >>"$OUT" ;;
esac
`

const dhclientScript = `#!/bin/sh
case "$reason" in
BOUND|RENEW|REBIND|REBOOT)
	ip addr replace "$new_ip_address/$new_subnet_mask" dev "$interface"
	echo "$reason $new_ip_address $new_subnet_mask router=$new_routers dns=$new_domain_name_servers domain=$new_domain_name lease=$new_dhcp_lease_time mtu=$new_interface_mtu" >>"$OUT" ;;
RELEASE|EXPIRE|FAIL|STOP)
	ip -4 addr flush dev "$interface"
	echo "$reason" >>"$OUT" ;;
esac
exit 0
`

func script(t *testing.T, text string) (path, out string) {
	dir := t.TempDir()
	path = filepath.Join(dir, "script")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o755))
	return path, filepath.Join(dir, "out")
}

func TestKernelUdhcpc(t *testing.T) {
	t.Parallel()
	need(t, "udhcpc", "curl", "unshare")
	for _, kind := range []string{tun.KindTAP, tun.KindOffload} {
		t.Run(kind, func(t *testing.T) {
			r := newKernelRig(t, kernelOptions{kind: kind, noPeer: true})
			path, out := script(t, udhcpcScript)
			// -q: quit when bound; -R: release on exit. The second run must get
			// the same address again.
			for range 2 {
				r.run("env", "OUT="+out, "udhcpc", "-i", r.dev, "-f", "-n", "-q", "-t", "20", "-T", "3", "-O", "mtu", "-s", path)
				r.run("curl", "-sS", "--fail", "-o", "/dev/null", "http://10.77.0.1/")
				r.run("ip", "-4", "addr", "flush", "dev", r.dev)
			}
			b, err := os.ReadFile(out)
			require.NoError(t, err)
			line := `bound (10\.77\.0\.\d+) 255\.255\.255\.0 router=10\.77\.0\.1 dns=10\.77\.0\.1 domain=porthole\.test lease=3600 mtu=1500`
			require.Regexp(t, line+`\n(?s:.*)`+line, string(b))
			r.law()
		})
	}
}

func TestKernelDhclient(t *testing.T) {
	t.Parallel()
	need(t, "dhclient", "curl")
	r := newKernelRig(t, kernelOptions{kind: tun.KindTAP, noPeer: true})
	path, out := script(t, dhclientScript)
	dir := t.TempDir()
	args := []string{"OUT=" + out, "dhclient", "-4", "-v", "-sf", path, "-cf", "/dev/null",
		"-e", "OUT=" + out, "-lf", filepath.Join(dir, "leases"), "-pf", filepath.Join(dir, "pid")}
	r.run("env", append(args, "-1", r.dev)...)
	r.run("curl", "-sS", "--fail", "-o", "/dev/null", "http://10.77.0.1/")
	r.run("env", append(args, "-r", r.dev)...) // release
	b, err := os.ReadFile(out)
	require.NoError(t, err)
	require.Regexp(t, `BOUND 10\.77\.0\.\d+ 255\.255\.255\.0 router=10\.77\.0\.1 dns=10\.77\.0\.1 domain=porthole\.test lease=3600`, string(b))
	require.Contains(t, string(b), "RELEASE")
	r.law()
}

// TestKernelDhclientRenews has a lease of six seconds, so that the client renews.
func TestKernelDhclientRenews(t *testing.T) {
	t.Parallel()
	need(t, "dhclient")
	r := newKernelRig(t, kernelOptions{kind: tun.KindTAP, noPeer: true, config: shortLease})
	path, out := script(t, dhclientScript)
	dir := t.TempDir()
	// The client runs in the foreground until its script has seen one renewal.
	waiting := strings.TrimSuffix(dhclientScript, "exit 0\n") +
		`case "$reason" in RENEW) kill -TERM $(cat "` + dir + `/pid");; esac
`
	require.NoError(t, os.WriteFile(path, []byte(waiting), 0o755))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", r.ns, "dhclient", "-4", "-d", "-sf", path, "-cf", "/dev/null",
		"-e", "OUT="+out, "-lf", filepath.Join(dir, "leases"), "-pf", filepath.Join(dir, "pid"), r.dev)
	cmd.WaitDelay = time.Second
	log, _ := cmd.CombinedOutput() // ends by the script's signal
	b, err := os.ReadFile(out)
	require.NoError(t, err, "%s", log)
	// On a busy machine it may come to renew too late at first.
	require.Regexp(t, `(?s)BOUND (\S+) .*\nRENEW `, string(b), "%s", log)
	r.law()
}

func shortLease(c *porthole.Config) {
	o := c.Services["dhcp"].Options.(*dhcp.Config)
	o.MinLeaseTime, o.LeaseTime = 6*time.Second, 6*time.Second
}

// TestKernelClientDHCP is our own client, which works where stock ones do not: on TUN.
func TestKernelClientDHCP(t *testing.T) {
	t.Parallel()
	need(t)
	bin := filepath.Join(t.TempDir(), "porthole")
	out, err := exec.Command("go", "build", "-o", bin, "./cmd/porthole").CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, kind := range devices {
		t.Run(kind, func(t *testing.T) {
			r := newKernelRig(t, kernelOptions{kind: kind, noPeer: true})
			lease := r.run(bin, "client", "dhcp", "--interface", r.dev)
			require.Regexp(t, `10\.77\.0\.\d+`, lease)
			r.law()
		})
	}
}
