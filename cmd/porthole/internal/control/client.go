package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"porthole"
)

// limitAnswer is the longest answer that a client reads: 131,070 ports with room.
const limitAnswer = 256 << 20

// ErrNone is the error when no host runs that this user can ask.
var ErrNone = errors.New("no host runs here; start one with `sudo porthole up` or `porthole exec -- CMD`")

// Client asks one running host.
type Client struct {
	Name string // of the host
	path string
	http http.Client
}

// Find connects to the host called name; a name with a slash is a socket's path.
// Without a name it is the host that the command runs under (EnvSocket), or else
// the only one that runs.
func Find(dir, name string) (*Client, error) {
	if name == "" {
		name = os.Getenv(EnvSocket)
	}
	if strings.Contains(name, "/") {
		if !alive(name) {
			return nil, fmt.Errorf("host at %s: nobody answers", name)
		}
		return newClient(name), nil
	}
	live := Running(dir)
	switch {
	case name != "" && slices.Contains(live, name):
		return newClient(filepath.Join(dir, name+".sock")), nil
	case name != "" && len(live) > 0:
		return nil, fmt.Errorf("host %s: not running; there are %s", name, strings.Join(live, ", "))
	case len(live) == 0:
		return nil, ErrNone
	case len(live) > 1:
		return nil, fmt.Errorf("host: several run (%s); choose one with --host NAME", strings.Join(live, ", "))
	}
	return newClient(filepath.Join(dir, live[0]+".sock")), nil
}

// Running lists the hosts in dir that answer, by name.
func Running(dir string) []string {
	paths, _ := filepath.Glob(filepath.Join(dir, "*.sock"))
	var live []string
	for _, p := range paths {
		if alive(p) {
			live = append(live, hostName(p))
		}
	}
	return live
}

func alive(path string) bool {
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

func newClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &Client{Name: hostName(path), path: path, http: http.Client{
		Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true},
		Timeout:   10 * time.Second,
	}}
}

// Ports lists the host's bound ports.
func (c *Client) Ports(ctx context.Context) (ps []porthole.PortStatus, err error) {
	return ps, c.get(ctx, "/v1/ports", &ps)
}

// Health is the state of the host as a whole.
func (c *Client) Health(ctx context.Context) (h porthole.Health, err error) {
	return h, c.get(ctx, "/v1/health", &h)
}

func (c *Client) get(ctx context.Context, path string, into any) error {
	fail := func(err error) error { return fmt.Errorf("host %s: ask for %s: %w", c.Name, path, err) }
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://porthole"+path, nil)
	if err != nil {
		return fail(err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body := json.NewDecoder(io.LimitReader(resp.Body, limitAnswer))
	if resp.StatusCode != http.StatusOK {
		var f failure
		if body.Decode(&f) != nil || f.Error == "" {
			f.Error = resp.Status
		}
		return fail(errors.New(f.Error))
	}
	if err := body.Decode(into); err != nil {
		return fail(err)
	}
	return nil
}

// holderOf says who answers on a live socket: the process, where the kernel shows
// it, and what its host tells of itself.
func holderOf(conn net.Conn, path string) string {
	var facts []string
	if pid := peerPID(conn); pid > 0 {
		facts = append(facts, fmt.Sprintf("pid %d", pid))
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second/2)
	defer cancel()
	if h, err := newClient(path).Health(ctx); err == nil {
		facts = append(facts, "device "+h.Device)
	}
	who := "the running host " + hostName(path)
	if len(facts) > 0 {
		who += " (" + strings.Join(facts, ", ") + ")"
	}
	return who
}
