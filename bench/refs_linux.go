package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"porthole/internal/netns"
)

// A reference is a server in C that does one work, at the far end of a veth pair of
// its own. It answers what the catalogue's service answers, of the same size.
type reference struct {
	name, pack, about string
	// start writes what the server reads into dir and gives its command line.
	start func(dir string) ([]string, error)
	ready func(ctx context.Context) error // in the client's namespace
}

var references = []*reference{
	{
		name: "nginx", pack: "nginx-light", about: "nginx, two workers, no log",
		start: startNginx, ready: dialReady("tcp", ":80"),
	},
	{
		name: "knotd", pack: "knot", about: "Knot DNS, two UDP workers",
		start: startKnot, ready: askReady(":53", query),
	},
	{
		name: "dnsmasq", pack: "dnsmasq-base", about: "dnsmasq as a DHCP server, no address probing",
		start: startDnsmasq,
		ready: func(context.Context) error { return dnsmasqReady() },
	},
}

func referenceNamed(name string) *reference {
	for _, r := range references {
		if r.name == name {
			return r
		}
	}
	return nil
}

func write(dir, name, text string) (string, error) {
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, []byte(text), 0o644)
}

func startNginx(dir string) ([]string, error) {
	conf, err := write(dir, "nginx.conf", fmt.Sprintf(`
daemon off; user root; worker_processes 2; pid %[1]s/pid; error_log stderr crit;
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 1000000000; tcp_nodelay on;
  client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f;
  uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  server { listen 80 backlog=4096; default_type application/octet-stream;
    location / { return 200 "%[2]s"; } }
}
`, dir, strings.Repeat("x", 128)))
	return []string{"nginx", "-e", "stderr", "-c", conf}, err
}

func startKnot(dir string) ([]string, error) {
	zoneText := "$TTL 60\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\n@ A 10.77.0.1\n"
	for _, n := range []string{"http", "dns", "ftp", "dhcp", "ns"} {
		zoneText += n + " A 10.77.0.1\n"
	}
	if _, err := write(dir, "zone", zoneText); err != nil {
		return nil, err
	}
	conf, err := write(dir, "knot.conf", fmt.Sprintf(`
server:
    rundir: %[1]s
    listen: %[2]s@53
    udp-workers: 2
    tcp-workers: 1
    background-workers: 1
database:
    storage: %[1]s
log:
  - target: stderr
    any: error
zone:
  - domain: %[3]s
    storage: %[1]s
    file: zone
    zonefile-sync: -1
    journal-content: none
`, dir, host, zone))
	return []string{"knotd", "-c", conf}, err
}

func startDnsmasq(dir string) ([]string, error) {
	return []string{
		"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file=" + filepath.Join(dir, "pid"),
		"--port=0", "--interface=v0", "--bind-interfaces", "--dhcp-range=10.77.0.3,10.77.0.254,255.255.255.0,1h",
		"--dhcp-leasefile=" + filepath.Join(dir, "leases"), "--no-ping", "--dhcp-authoritative", "--quiet-dhcp",
		"--log-facility=" + filepath.Join(dir, "log"),
	}, nil
}

func dialReady(network, port string) func(context.Context) error {
	return func(ctx context.Context) error {
		c, err := (&net.Dialer{}).DialContext(ctx, network, host+port)
		if err == nil {
			c.Close()
		}
		return err
	}
}

// askReady sends a datagram and wants any answer.
func askReady(port string, q []byte) func(context.Context) error {
	return func(ctx context.Context) error {
		c, err := (&net.Dialer{}).DialContext(ctx, "udp", host+port)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := c.Write(q); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 1500))
		return err
	}
}

func dnsmasqReady() error {
	s, err := dhcpClient(50 * time.Millisecond)
	if err == nil && s.Value == 0 {
		err = errors.New("no lease")
	}
	return err
}

// startReference starts a reference in namespaces of its own.
func (b *bench) startReference(ctx context.Context, r *reference) (*target, error) {
	t := &target{name: r.name}
	serverNS, err := b.veth(ctx, t, r.name)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "phbench-"+r.name)
	if err != nil {
		return nil, err
	}
	b.dirs = append(b.dirs, dir)
	argv, err := r.start(dir)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	t.cmd = exec.Command("ip", append([]string{"netns", "exec", serverNS}, argv...)...)
	var stderr strings.Builder
	t.cmd.Stderr = &stderr
	if err := t.cmd.Start(); err != nil {
		return nil, err
	}
	b.targets = append(b.targets, t)
	for {
		err := netns.Do(t.clientNS, func() error { return r.ready(ctx) })
		if err == nil {
			t.ready = time.Since(began)
			return t, nil
		}
		if ctx.Err() != nil || time.Since(began) > 10*time.Second {
			return nil, fmt.Errorf("%s does not answer: %w; it said %q", r.name, err, strings.TrimSpace(stderr.String()))
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ask reads the one line that a server answers to a question.
func (t *target) ask(question string) (string, error) {
	if _, err := fmt.Fprintln(t.in, question); err != nil {
		return "", err
	}
	line, err := t.out.ReadString('\n')
	return strings.TrimSpace(line), err
}
