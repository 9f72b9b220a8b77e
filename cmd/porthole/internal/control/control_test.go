package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/cmd/porthole/internal/config"
	"porthole/internal/leak"
	"porthole/services"
)

func TestMain(m *testing.M) { leak.Main(m) }

// fakeHost has one port, and one event every time it is asked.
type fakeHost struct {
	Host // what a test does not ask for
	mu   sync.Mutex
	link porthole.LinkSettings
	set  porthole.Settings
	open string
}

func port80() porthole.PortStatus {
	return porthole.PortStatus{
		Port: services.TCP(80), Service: "http", State: "answering", Took: 400 * time.Microsecond,
		Arrived: 3, Fates: map[string]uint64{"to-stack": 3},
	}
}

func (*fakeHost) Ports() []porthole.PortStatus { return []porthole.PortStatus{port80()} }

func (h *fakeHost) PortStatus(p services.Port) (porthole.PortStatus, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := port80()
	s.Settings = h.set
	return s, p == s.Port
}

func (*fakeHost) Health() porthole.Health {
	return porthole.Health{
		Name: "a", Device: "ph0", Ready: true, LedgerOK: true,
		Arrived: map[string]uint64{"device": 3}, Fates: map[string]uint64{"to-stack": 3},
	}
}

func (*fakeHost) Ledger() porthole.Ledger {
	return porthole.Ledger{Of: "host", Arrived: 3, Fates: map[string]uint64{"to-stack": 3}, Kinds: map[string]uint64{"device": 3}, LawOK: true, Device: &porthole.DeviceCounters{InPackets: 3}}
}

func (h *fakeHost) PortLedger(name string) (porthole.Ledger, bool) {
	l := h.Ledger()
	l.Of, l.Device = name, nil
	return l, name == "80/tcp"
}

func (*fakeHost) Events(cursor uint64) ([]porthole.Event, uint64, uint64) {
	missed := uint64(0)
	if cursor == 0 {
		missed = 7
	}
	return []porthole.Event{{Seq: cursor + 1 + missed, Type: "queue-filled", Port: "80/tcp", Fate: "queue-full", Count: 64}}, cursor + 1 + missed, missed
}

func (*fakeHost) Flows(*services.Port, int) []porthole.Flow { return nil }

func (*fakeHost) Flow(id porthole.FlowID) (porthole.Flow, bool) {
	return porthole.Flow{ID: id, Proto: "tcp"}, true
}

func (*fakeHost) FlowsSince(cursor uint64, _ int) ([]porthole.Flow, uint64, uint64) {
	return nil, cursor, 0
}

func (*fakeHost) Why(of string) (porthole.Why, error) {
	return porthole.Why{Port: of, Cause: "nothing", Text: "Nothing held it up."}, nil
}

func (*fakeHost) StartCapture(o porthole.CaptureOptions) (porthole.CaptureStatus, error) {
	if err := o.Check(); err != nil {
		return porthole.CaptureStatus{}, &porthole.Error{Kind: porthole.Invalid, Err: fmt.Errorf("capture: %w", err)}
	}
	return porthole.CaptureStatus{ID: "c1", Options: o, State: "recording"}, nil
}

func (*fakeHost) Captures() []porthole.CaptureStatus { return nil }

func (*fakeHost) CaptureStatus(id string) (porthole.CaptureStatus, error) {
	if id == "c9" {
		return porthole.CaptureStatus{}, &porthole.Error{Kind: porthole.NotFound, Err: errors.New("capture c9: no such capture")}
	}
	return porthole.CaptureStatus{ID: id, State: "ended", Reason: "stopped", Written: 3}, nil
}

func (h *fakeHost) StopCapture(id string) (porthole.CaptureStatus, error) { return h.CaptureStatus(id) }

func (h *fakeHost) StreamCapture(_ context.Context, id string, w io.Writer) error {
	if _, err := h.CaptureStatus(id); err != nil {
		return err
	}
	_, err := io.WriteString(w, "a file")
	return err
}

func (*fakeHost) Config() porthole.Config { return porthole.DefaultConfig() }

func (h *fakeHost) Set(p services.Port, s porthole.Settings) error {
	if err := s.Check(p); err != nil {
		return &porthole.Error{Kind: porthole.Invalid, Err: fmt.Errorf("set %v: %w", p, err)}
	}
	if p != services.TCP(80) {
		return &porthole.Error{Kind: porthole.NotFound, Err: fmt.Errorf("set %v: nobody has the port", p)}
	}
	h.mu.Lock()
	h.set = s
	h.mu.Unlock()
	return nil
}

func (h *fakeHost) Link() porthole.LinkStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	return porthole.LinkStatus{Settings: h.link, Changed: h.link.String(), In: &porthole.Impairment{Rules: "loss:1%"}}
}

func (h *fakeHost) SetLink(s porthole.LinkSettings) error {
	if _, _, err := s.Rules(); err != nil {
		return &porthole.Error{Kind: porthole.Invalid, Err: fmt.Errorf("set link: %w", err)}
	}
	h.mu.Lock()
	h.link = s
	h.mu.Unlock()
	return nil
}

func (h *fakeHost) ResetLink() error { return h.SetLink(porthole.LinkSettings{}) }

func (h *fakeHost) Reset(services.Port) error {
	h.mu.Lock()
	h.set = porthole.Settings{}
	h.mu.Unlock()
	return nil
}

func (h *fakeHost) Open(_ context.Context, p services.Port, name string) error {
	if p == services.TCP(80) && name == "echo" {
		return &porthole.Error{Kind: porthole.InUse, Err: errors.New("open 80/tcp: already in use by http")}
	}
	h.mu.Lock()
	h.open = p.String() + " " + name
	h.mu.Unlock()
	return nil
}

func (*fakeHost) Close(p services.Port) error {
	if p != services.TCP(80) {
		return &porthole.Error{Kind: porthole.NotFound, Err: errors.New("close: nobody has the port")}
	}
	return nil
}

func (h *fakeHost) api() *API {
	return &API{
		Host: h,
		Reload: func(_ context.Context, name string, text []byte) ([]string, error) {
			switch {
			case text == nil:
				return nil, nil
			case name == "bad.yaml":
				return nil, config.Problems{{File: name, Line: 1, Col: 2, Text: "wrong"}, {File: name, Line: 3, Col: 4, Text: "wrong, too"}}
			}
			return []string{name + ": " + string(text)}, nil
		},
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "porthole_ready 1\n") }),
		More:    []Route{{"GET", "/v1/more", func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, "more") }}},
	}
}

// serve runs a host's socket until the test ends, or until stop.
func serve(t *testing.T, dir, name string) (s *Server, stop func()) {
	t.Helper()
	s, err := Listen(dir, name)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, new(fakeHost).api()) }()
	stop = sync.OnceFunc(func() { cancel(); require.NoError(t, <-done) })
	t.Cleanup(stop)
	return s, stop
}

func shortDir(t *testing.T) string {
	t.Helper()
	t.Setenv(EnvSocket, "")
	dir, err := os.MkdirTemp("", "ph")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "p")
}

func TestClientAndServer(t *testing.T) {
	dir := shortDir(t)
	s, stop := serve(t, dir, "a")
	for path, mode := range map[string]os.FileMode{dir: 0o700 | os.ModeDir, s.Path(): 0o600 | os.ModeSocket} {
		fi, err := os.Lstat(path)
		require.NoError(t, err)
		require.Equal(t, mode, fi.Mode(), path)
	}
	c, err := Find(dir, "")
	require.NoError(t, err)
	require.Equal(t, "a", c.Name)
	ports, err := c.Ports(t.Context())
	require.NoError(t, err)
	require.Equal(t, new(fakeHost).Ports(), ports)
	health, err := c.Health(t.Context())
	require.NoError(t, err)
	require.Equal(t, new(fakeHost).Health(), health)
	err = c.call(t.Context(), "GET", "/v2", nil, &health)
	require.EqualError(t, err, "no such path; there are /v1/health, /v1/ports, /v1/ports/{number}/{proto}, /v1/ports/{number}/{proto}/settings, "+
		"/v1/ports/{number}/{proto}/open, /v1/ports/{number}/{proto}/close, /v1/link, /v1/link/settings, /v1/fates, /v1/events, /v1/flows, /v1/flows/{id}, /v1/why, /v1/captures, /v1/captures/{id}, /v1/captures/{id}/stream, /v1/config, /v1/reload, /metrics, /v1/more")

	stop()
	require.NoFileExists(t, s.Path())
	_, err = c.Ports(t.Context())
	require.EqualError(t, err, "host a: it has ended")
}

func TestAPI(t *testing.T) {
	dir := shortDir(t)
	s, _ := serve(t, dir, "a")
	for _, tt := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "/v1/ports", 200, `[{"port":"80/tcp","service":"http","state":"answering","took_ns":400000,`},
		{"HEAD", "/v1/health", 200, ``},
		{"GET", "/v1/health", 200, `{"name":"a",`},
		{"POST", "/v1/ports", 405, `{"error":"POST is not allowed on /v1/ports"}`},
		{"GET", "/v1/reload", 405, `{"error":"GET is not allowed on /v1/reload"}`},
		{"GET", "/", 404, `{"error":"no such path`},
		{"GET", "/v1/ports/80/tcp", 200, `{"port":"80/tcp",`},
		{"GET", "/v1/ports/81/tcp", 404, `{"error":"81/tcp: nobody has the port`},
		{"GET", "/v1/ports/99999/tcp", 400, `{"error":"port \"99999/tcp\": the number must be 1 to 65535"}`},
		{"GET", "/v1/ports/80/sctp", 400, `{"error":"port \"80/sctp\": want NUMBER/tcp or NUMBER/udp, such as 80/tcp"}`},
		{"PATCH", "/v1/ports/80/tcp", 415, `{"error":"want Content-Type: application/json"}`},
		{"GET", "/v1/fates?of=x", 404, `{"error":"x: no port`},
		{"GET", "/v1/events?cursor=-1", 400, `{"error":"cursor: \"-1\" is no whole number from 0"}`},
		{"GET", "/v1/events", 200, `{"events":[{"seq":8,`},
		{"GET", "/v1/more", 200, `"more"`},
	} {
		conn, err := net.Dial("unix", s.Path())
		require.NoError(t, err)
		_, err = fmt.Fprintf(conn, "%s %s HTTP/1.0\r\n\r\n", tt.method, tt.path)
		require.NoError(t, err)
		all, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		head, body, _ := strings.Cut(string(all), "\r\n\r\n")
		require.Contains(t, head, fmt.Sprintf(" %d %s\r\n", tt.status, http.StatusText(tt.status)))
		require.Contains(t, head, "Content-Type: application/json")
		require.True(t, strings.HasPrefix(body, tt.body), body)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	dir := shortDir(t)
	require.NoError(t, os.MkdirAll(dir, 0o755))
	path := filepath.Join(dir, "a.sock")
	ln, err := net.Listen("unix", path)
	require.NoError(t, err)
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, ln.Close()) // as a killed host leaves it
	require.FileExists(t, path)
	require.Empty(t, Running(dir))
	_, err = Find(dir, "")
	require.ErrorIs(t, err, ErrNone)
	serve(t, dir, "a")
	require.Equal(t, []string{"a"}, Running(dir))
}

func TestLiveSocketIsRefused(t *testing.T) {
	dir := shortDir(t)
	s, _ := serve(t, dir, "a")
	_, err := Listen(dir, "a")
	var busy *Busy
	require.True(t, errors.As(err, &busy))
	require.EqualError(t, err, fmt.Sprintf("control socket %s: held by the running host a (pid %d, device ph0); stop it or choose another --name", s.Path(), os.Getpid()))
	require.FileExists(t, s.Path())

	free, name, err := ListenFree(dir, "a")
	require.NoError(t, err)
	require.Equal(t, "a-2", name)
	require.NoError(t, free.Close())
}

// TestOneWins starts many hosts of one name on a stale socket at the same moment.
func TestOneWins(t *testing.T) {
	dir := shortDir(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var won []*Server
	for range 16 {
		wg.Go(func() {
			if s, err := Listen(dir, "a"); err == nil {
				mu.Lock()
				won = append(won, s)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	require.Len(t, won, 1)
	require.NoError(t, won[0].Close())
}

func TestFind(t *testing.T) {
	dir := shortDir(t)
	_, err := Find(dir, "")
	require.ErrorIs(t, err, ErrNone)
	a, _ := serve(t, dir, "a")
	_, stopB := serve(t, dir, "b")
	_, err = Find(dir, "")
	require.EqualError(t, err, "host: several run (a, b); choose one with --host NAME")
	_, err = Find(dir, "c")
	require.EqualError(t, err, "host c: not running; there are a, b")
	c, err := Find(dir, "b")
	require.NoError(t, err)
	require.Equal(t, "b", c.Name)
	t.Setenv(EnvSocket, a.Path())
	c, err = Find(dir, "")
	require.NoError(t, err)
	require.Equal(t, "a", c.Name)
	stopB()
	_, err = Find(dir, filepath.Join(dir, "b.sock"))
	require.EqualError(t, err, "host at "+filepath.Join(dir, "b.sock")+": nobody answers")
}

// A user who cannot see root's hosts is told that there may be one.
func TestNone(t *testing.T) {
	there, missing := t.TempDir(), filepath.Join(t.TempDir(), "no")
	require.Equal(t, ErrNone, none(0, there))
	require.Equal(t, ErrNone, none(1000, missing))
	err := none(1000, there)
	require.ErrorIs(t, err, ErrNone)
	require.ErrorContains(t, err, "root's may: ask it with sudo")
}

func TestRefusedDirectories(t *testing.T) {
	dir := shortDir(t)
	_, err := Listen(dir+strings.Repeat("x", 100), "a")
	require.ErrorContains(t, err, "the path is longer than 103 bytes")
	require.NoError(t, os.WriteFile(dir, nil, 0o600))
	_, err = Listen(dir, "a")
	require.ErrorContains(t, err, "control directory")

	other := shortDir(t)
	require.NoError(t, os.MkdirAll(filepath.Join(other, "a.sock"), 0o700))
	_, err = Listen(other, "a")
	require.ErrorContains(t, err, "something else is there; remove it")
}
