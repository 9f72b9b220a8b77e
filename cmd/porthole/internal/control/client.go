package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"porthole"
	"porthole/services"
)

// limitAnswer is the longest answer that a client reads: 131,070 ports with room.
const limitAnswer = 256 << 20

// ErrNone is the error when no host runs that this user can ask.
var ErrNone = errors.New("no host runs here; start one with `sudo porthole up` or `porthole exec -- CMD`")

// None is ErrNone, in the words for a user who cannot see whether a host of root's
// runs, when it looks as if one did.
func None() error { return none(os.Geteuid(), systemDir()) }

func none(uid int, system string) error {
	if _, err := os.Stat(system); uid == 0 || err != nil {
		return ErrNone
	}
	return othersError{}
}

type othersError struct{}

func (othersError) Error() string {
	return "no host of yours runs here; root's may: ask it with sudo, or start your own with `porthole exec -- CMD`"
}

func (othersError) Is(target error) bool { return target == ErrNone }

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
		switch err := dial(name); {
		case errors.Is(err, os.ErrPermission):
			return nil, fmt.Errorf("host at %s: it is another user's; ask it with sudo", name)
		case err != nil:
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
		return nil, None()
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

func alive(path string) bool { return dial(path) == nil }

// dial tries whether somebody answers. The kernel says so at once: there is no time in
// which a busy host could be taken for one that has gone.
func dial(path string) error {
	c, err := net.Dial("unix", path)
	if err == nil {
		_ = c.Close()
	}
	if errors.Is(err, syscall.EAGAIN) { // more wait for it already than the kernel holds
		return nil
	}
	return err
}

func newClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &Client{Name: hostName(path), path: path, http: http.Client{
		Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true},
	}}
}

// Path is the host's socket.
func (c *Client) Path() string { return c.path }

// PID is the process of the host, or 0 where the kernel does not show it.
func (c *Client) PID() int {
	conn, err := net.Dial("unix", c.path)
	if err != nil {
		return 0
	}
	defer func() { _ = conn.Close() }()
	return peerPID(conn)
}

// Error is a host's no: nothing has changed.
type Error struct {
	Status  int
	Failure Failure
}

func (e *Error) Error() string { return e.Failure.Error }

// Ports lists the host's bound ports.
func (c *Client) Ports(ctx context.Context) ([]porthole.PortStatus, error) {
	return ask[[]porthole.PortStatus](ctx, c, http.MethodGet, "/v1/ports", nil)
}

// Port is one of them.
func (c *Client) Port(ctx context.Context, p services.Port) (porthole.PortStatus, error) {
	return ask[porthole.PortStatus](ctx, c, http.MethodGet, portPath(p), nil)
}

// Health is the state of the host as a whole.
func (c *Client) Health(ctx context.Context) (porthole.Health, error) {
	return ask[porthole.Health](ctx, c, http.MethodGet, "/v1/health", nil)
}

// Set changes a port's settings and gives the port as it is then.
func (c *Client) Set(ctx context.Context, p services.Port, s porthole.Settings) (porthole.PortStatus, error) {
	return ask[porthole.PortStatus](ctx, c, http.MethodPatch, portPath(p), s)
}

// Link is the link under its rules.
func (c *Client) Link(ctx context.Context) (porthole.LinkStatus, error) {
	return ask[porthole.LinkStatus](ctx, c, http.MethodGet, "/v1/link", nil)
}

// SetLink changes the rules of the link.
func (c *Client) SetLink(ctx context.Context, s porthole.LinkSettings) (porthole.LinkStatus, error) {
	return ask[porthole.LinkStatus](ctx, c, http.MethodPatch, "/v1/link", LinkChange{s})
}

// ResetLink takes back what SetLink has changed.
func (c *Client) ResetLink(ctx context.Context) (porthole.LinkStatus, error) {
	return ask[porthole.LinkStatus](ctx, c, http.MethodDelete, "/v1/link/settings", nil)
}

// Reset takes back what Set changed.
func (c *Client) Reset(ctx context.Context, p services.Port) (porthole.PortStatus, error) {
	return ask[porthole.PortStatus](ctx, c, http.MethodDelete, portPath(p)+"/settings", nil)
}

// Open runs a service on a port.
func (c *Client) Open(ctx context.Context, p services.Port, service string) (porthole.PortStatus, error) {
	return ask[porthole.PortStatus](ctx, c, http.MethodPost, portPath(p)+"/open", Opening{service})
}

// Close takes a port from its service.
func (c *Client) Close(ctx context.Context, p services.Port) error {
	return c.call(ctx, http.MethodPost, portPath(p)+"/close", nil, nil)
}

// Fates is the ledger of the host (of "") or of one port or lane.
func (c *Client) Fates(ctx context.Context, of string) (porthole.Ledger, error) {
	path := "/v1/fates"
	if of != "" {
		path += "?" + url.Values{"of": {of}}.Encode()
	}
	return ask[porthole.Ledger](ctx, c, http.MethodGet, path, nil)
}

// Events is a page of the event log.
func (c *Client) Events(ctx context.Context, cursor uint64) (EventPage, error) {
	return ask[EventPage](ctx, c, http.MethodGet, "/v1/events?cursor="+strconv.FormatUint(cursor, 10), nil)
}

// Follow calls f with every page of events that comes, until ctx or the host ends
// or f gives an error.
func (c *Client) Follow(ctx context.Context, cursor uint64, f func(EventPage) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://porthole/v1/events?cursor="+strconv.FormatUint(cursor, 10), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("host %s: follow its events: %w", c.Name, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return errorOf(resp)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, limitLine)
	for kind := ""; lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), ": ")
		switch key {
		case "event":
			kind = value
			continue
		case "data":
		default:
			continue
		}
		var page EventPage
		if kind == "missed" {
			err = json.Unmarshal([]byte(value), &page)
		} else {
			page.Events = make([]porthole.Event, 1)
			err = json.Unmarshal([]byte(value), &page.Events[0])
			page.Next = page.Events[0].Seq
		}
		if err == nil {
			err = f(page)
		}
		if err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return c.ended()
}

func (c *Client) ended() error { return fmt.Errorf("host %s: it has ended", c.Name) }

// failed is the error of a request that got no answer, or not all of it.
func (c *Client) failed(path string, err error) error {
	if !alive(c.path) {
		return c.ended()
	}
	return fmt.Errorf("host %s: ask for %s: %w", c.Name, path, err)
}

// limitLine is the longest line of an event stream that a client reads.
const limitLine = 1 << 20

// Config is the configuration that the host runs by, as YAML.
func (c *Client) Config(ctx context.Context) (string, error) {
	return ask[string](ctx, c, http.MethodGet, "/v1/config", nil)
}

// Reload makes the host read its configuration again, or, when text is not nil,
// take this one, which its errors call name. It returns what changed.
func (c *Client) Reload(ctx context.Context, name string, text []byte) ([]string, error) {
	path := "/v1/reload"
	var in any
	if text != nil {
		path += "?" + url.Values{"name": {name}}.Encode()
		in = text
	}
	out, err := ask[Changes](ctx, c, http.MethodPost, path, in)
	return out.Changes, err
}

func portPath(p services.Port) string { return "/v1/ports/" + p.String() }

func ask[T any](ctx context.Context, c *Client, method, path string, in any) (out T, err error) {
	err = c.call(ctx, method, path, in, &out)
	return out, err
}

// call sends one request. in is encoded as JSON, but for []byte, which is YAML; out
// is decoded from JSON, but for *string, which takes the whole text.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, limitAnswerTime)
	defer cancel()
	fail := func(err error) error { return c.failed(path, err) }
	var body io.Reader
	kind := "application/json"
	switch v := in.(type) {
	case nil:
	case []byte:
		body, kind = bytes.NewReader(v), "application/yaml"
	default:
		b, err := json.Marshal(in)
		if err != nil {
			return fail(err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://porthole"+path, body)
	if err != nil {
		return fail(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", kind)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode/100 != 2 {
		return errorOf(resp)
	}
	from := io.LimitReader(resp.Body, limitAnswer)
	switch v := out.(type) {
	case nil:
	case *string:
		b, err := io.ReadAll(from)
		if err != nil {
			return fail(err)
		}
		*v = string(b)
	default:
		if err := json.NewDecoder(from).Decode(out); err != nil {
			return fail(err)
		}
	}
	return nil
}

func errorOf(resp *http.Response) error {
	e := &Error{Status: resp.StatusCode}
	if json.NewDecoder(io.LimitReader(resp.Body, limitAnswer)).Decode(&e.Failure) != nil || e.Failure.Error == "" {
		e.Failure.Error = resp.Status
	}
	return e
}

// holderOf says who answers on a live socket: the process, where the kernel shows
// it, and what its host tells of itself.
func holderOf(conn net.Conn, path string) string {
	var facts []string
	if pid := peerPID(conn); pid > 0 {
		facts = append(facts, fmt.Sprintf("pid %d", pid))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
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
