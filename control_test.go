package porthole_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/portholetest"
	"porthole/services"
	web "porthole/services/http"
	"porthole/stack/stacktest"
	"porthole/tun"
)

func set(t testing.TB, h *porthole.Host, port, text string) {
	t.Helper()
	p, err := services.ParsePort(port)
	require.NoError(t, err)
	s, err := porthole.ParseSettings(text)
	require.NoError(t, err)
	require.NoError(t, h.Set(p, s))
}

func status(t testing.TB, h *porthole.Host, port string) porthole.PortStatus {
	t.Helper()
	p, err := services.ParsePort(port)
	require.NoError(t, err)
	s, ok := h.PortStatus(p)
	require.True(t, ok, "%s is not bound", port)
	return s
}

// patience is how long a test waits for what comes at once: a machine may be busy, and
// nobody waits that long but for what never comes.
const patience = time.Minute

// until waits for something that packets on their way will bring about. It yields
// to them.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		require.True(t, time.Now().Before(deadline), "timed out: %s", what)
		<-tick.C
	}
}

func dial(t testing.TB, r *rig, network string, port uint16) net.Conn {
	t.Helper()
	c, err := tryDial(r, network, port, patience)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(2*patience)))
	return c
}

func tryDial(r *rig, network string, port uint16, d time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return r.client.DialContext(ctx, network, netip.AddrPortFrom(stacktest.Host4.Addr(), port).String())
}

// TestQueueKeepsWhatItHolds: a service that is held, though it waits in a read, a
// queue of 64, 1,000 datagrams: 64 are kept, 936 refused, on both families.
func TestQueueKeepsWhatItHolds(t *testing.T) {
	for name, host := range families {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, tun.PipeOptions{}, nil)
			set(t, r.host, "7/udp", "accept=never queue=64 queue-bytes=1MiB")
			before := status(t, r.host, "7/udp")
			require.Equal(t, "held", before.State)
			c, err := r.client.DialContext(t.Context(), "udp", netip.AddrPortFrom(host, 7).String())
			require.NoError(t, err)
			defer c.Close()
			one := make([]byte, 100)
			for i := range 10 {
				for range 100 {
					_, err := c.Write(one)
					require.NoError(t, err)
				}
				until(t, "a batch", func() bool { return status(t, r.host, "7/udp").Arrived == before.Arrived+uint64(i+1)*100 })
			}
			s := status(t, r.host, "7/udp")
			require.Equal(t, 64, s.Queued)
			require.Equal(t, 64, s.HighWater)
			require.EqualValues(t, 936, s.Fates["queue-full"])
			l, ok := r.host.PortLedger("7/udp")
			require.True(t, ok)
			require.True(t, l.LawOK, l.Broken)
			require.Equal(t, s.Arrived, l.Arrived)

			// A smaller queue throws nothing away; a service let go takes all of it.
			set(t, r.host, "7/udp", "queue=1")
			require.Equal(t, 64, status(t, r.host, "7/udp").Queued)
			require.NoError(t, r.host.Reset(services.UDP(7)))
			until(t, "the queue to empty", func() bool { return status(t, r.host, "7/udp").Queued == 0 })
			s = status(t, r.host, "7/udp")
			require.Equal(t, before.Fates["to-service"]+64, s.Fates["to-service"])
			require.Equal(t, "answering", s.State)
			require.Equal(t, 1024, s.LimitPackets)
			require.Empty(t, s.Changed)
		})
	}
}

// TestAcceptQueueRefuses: accept-queue=1 holds two connections; the SYNs of more
// are dropped, and the port and the ledger say so.
func TestAcceptQueueRefuses(t *testing.T) {
	r := newRig(t, tun.PipeOptions{}, nil)
	set(t, r.host, "7/tcp", "accept=never accept-queue=1")
	dial(t, r, "tcp", 7)
	last := dial(t, r, "tcp", 7)
	until(t, "a full accept queue", func() bool { return status(t, r.host, "7/tcp").Accept == 2 })
	_, err := tryDial(r, "tcp", 7, 300*time.Millisecond)
	require.Error(t, err)
	until(t, "its SYN to be refused", func() bool { return status(t, r.host, "7/tcp").Fates["accept-queue-full"] > 0 })
	until(t, "the log to say that the accept queue has filled", func() bool {
		events, _, _ := r.host.Events(0)
		return slices.ContainsFunc(events, func(e porthole.Event) bool {
			return e.String() == "queue-filled 7/tcp accept-queue-full (2 connections)"
		})
	})
	s := status(t, r.host, "7/tcp")
	require.Equal(t, 2, s.Accept)
	require.Equal(t, 2, s.AcceptHigh)
	require.Equal(t, 1, s.AcceptLimit)
	require.Equal(t, "accept-queue=1 accept=never", s.Changed)
	until(t, "the port and the host to say the same", func() bool { // a SYN may come again in between
		l := r.host.Ledger()
		require.True(t, l.LawOK, l.Broken)
		return l.Fates["accept-queue-full"] == status(t, r.host, "7/tcp").Fates["accept-queue-full"]
	})

	set(t, r.host, "7/tcp", "accept=normal")
	_, err = last.Write([]byte("served at last"))
	require.NoError(t, err)
	_, err = io.ReadFull(last, make([]byte, 14))
	require.NoError(t, err)
}

func TestSetRefuses(t *testing.T) {
	r := newRig(t, tun.PipeOptions{}, nil)
	before := status(t, r.host, "53/udp")
	for _, tt := range []struct {
		port services.Port
		in   string
		kind porthole.Kind
		want string
	}{
		{services.TCP(81), "queue=64", porthole.NotFound, "set 81/tcp: nobody has the port; `porthole ports` lists those that are bound"},
		{services.UDP(53), "queue=64 syn-queue=1", porthole.Invalid, "set 53/udp: syn-queue: is for TCP ports; 53/udp is none"},
	} {
		s, err := porthole.ParseSettings(tt.in)
		require.NoError(t, err)
		err = r.host.Set(tt.port, s)
		require.EqualError(t, err, tt.want)
		var e *porthole.Error
		require.True(t, errors.As(err, &e))
		require.Equal(t, tt.kind, e.Kind)
	}
	require.Error(t, r.host.Reset(services.TCP(81)))
	require.Equal(t, before.Settings, status(t, r.host, "53/udp").Settings)
	require.Empty(t, status(t, r.host, "53/udp").Changed)
}

// TestSettingsLayers: the configuration over the defaults, Set over both; a backlog
// takes the place of the queues that a lower layer named.
func TestSettingsLayers(t *testing.T) {
	r := newRig(t, tun.PipeOptions{}, func(c *porthole.Config) {
		s, err := porthole.ParseSettings("queue=100 syn-queue=3 receive-buffer=64KiB service-delay=1ms")
		require.NoError(t, err)
		c.Ports = map[services.Port]porthole.Settings{services.TCP(7): s}
	})
	all := func() string { return status(t, r.host, "7/tcp").Settings.String() }
	require.Equal(t, "queue=100 queue-bytes=4MiB policy=tail-drop syn-queue=3 accept-queue=4096 syn-cookies=auto abort-on-overflow=false receive-buffer=64KiB service-delay=1ms accept=normal impair=none impair-out=none", all())
	set(t, r.host, "7/tcp", "backlog=9 abort-on-overflow=true syn-cookies=never")
	require.Equal(t, "queue=100 queue-bytes=4MiB policy=tail-drop syn-queue=9 accept-queue=9 syn-cookies=never abort-on-overflow=true receive-buffer=64KiB service-delay=1ms accept=normal impair=none impair-out=none", all())
	set(t, r.host, "7/tcp", "accept-queue=2 service-delay=0")
	s := status(t, r.host, "7/tcp")
	require.Equal(t, "backlog=9 accept-queue=2 syn-cookies=never abort-on-overflow=true service-delay=0", s.Changed)
	require.Equal(t, []int{100, 9, 2}, []int{s.LimitPackets, s.SynLimit, s.AcceptLimit})
	require.NoError(t, r.host.Reset(services.TCP(7)))
	require.Equal(t, "queue=100 queue-bytes=4MiB policy=tail-drop syn-queue=3 accept-queue=4096 syn-cookies=auto abort-on-overflow=false receive-buffer=64KiB service-delay=1ms accept=normal impair=none impair-out=none", all())
	dial(t, r, "tcp", 7)

	var said []string
	events, next, missed := r.host.Events(0)
	for _, e := range events {
		if e.Type == "settings-set" {
			said = append(said, e.String())
		}
	}
	require.Zero(t, missed)
	require.Equal(t, events[len(events)-1].Seq, next)
	require.Equal(t, []string{
		"settings-set 7/tcp backlog=9 syn-cookies=never abort-on-overflow=true",
		"settings-set 7/tcp accept-queue=2 service-delay=0", "settings-set 7/tcp reset",
	}, said)
}

// TestSetTogether changes one port from many goroutines while packets come.
func TestSetTogether(t *testing.T) {
	r := newRig(t, tun.PipeOptions{}, nil)
	c := dial(t, r, "udp", 9)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				s, _ := porthole.ParseSettings(fmt.Sprintf("queue=%d", 1+i*50+j))
				if j%10 == 0 {
					_ = r.host.Reset(services.UDP(9))
				} else if err := r.host.Set(services.UDP(9), s); err != nil {
					t.Error(err)
				}
				_, _ = c.Write([]byte("x"))
				_ = r.host.Ports()
			}
		})
	}
	wg.Wait()
	s := status(t, r.host, "9/udp")
	require.Equal(t, *s.Settings.Queue, s.LimitPackets)
	l, _ := r.host.PortLedger("9/udp")
	require.True(t, l.LawOK, l.Broken)
}

func get(t testing.TB, r *rig, port int) (string, error) {
	t.Helper()
	resp, err := r.http.Get(fmt.Sprintf("http://10.77.0.1:%d/blob/5", port))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// readPage reads one HTTP answer and leaves the connection open.
func readPage(t testing.TB, from *bufio.Reader) {
	t.Helper()
	resp, err := http.ReadResponse(from, nil)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.Equal(t, 200, resp.StatusCode)
}

// TestOpenAndClose: a second http on 8080, and away with it.
func TestOpenAndClose(t *testing.T) {
	r := newRig(t, tun.PipeOptions{}, nil)
	_, err := get(t, r, 8080)
	require.ErrorContains(t, err, "refused")
	require.NoError(t, r.host.Open(t.Context(), services.TCP(8080), "http"))
	s := status(t, r.host, "8080/tcp")
	require.Equal(t, []any{"http", "answering", true}, []any{s.Service, s.State, s.Declared})
	a, err := get(t, r, 80)
	require.NoError(t, err)
	b, err := get(t, r, 8080)
	require.NoError(t, err)
	require.Equal(t, a, b)

	for _, tt := range []struct {
		port    services.Port
		service string
		kind    porthole.Kind
		want    string
	}{
		{services.TCP(8080), "echo", porthole.InUse, "open 8080/tcp: already in use by http"},
		{services.TCP(8081), "htpp", porthole.NotFound, `open 8081/tcp: no service "htpp"; there are http, dns, ftp, dhcp, echo, discard`},
		{services.UDP(8081), "http", porthole.Invalid, "open 8081/udp: http has no udp port"},
		{services.Port{Proto: "tcp"}, "http", porthole.Invalid, "open 0/tcp: a port's number is 1 to 65535"},
	} {
		err := r.host.Open(t.Context(), tt.port, tt.service)
		require.EqualError(t, err, tt.want)
		require.Equal(t, tt.kind, err.(*porthole.Error).Kind)
	}

	// A connection that is waiting when the port closes gets RST; an accepted one lives on.
	accepted := dial(t, r, "tcp", 8080)
	_, err = io.WriteString(accepted, "GET /blob/5 HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	answer := bufio.NewReader(accepted)
	readPage(t, answer)
	r.http.CloseIdleConnections()
	set(t, r.host, "8080/tcp", "accept=never")
	waiting := dial(t, r, "tcp", 8080)
	until(t, "one waiting", func() bool { return status(t, r.host, "8080/tcp").Accept == 1 })
	require.NoError(t, r.host.Close(services.TCP(8080)))
	_, err = waiting.Read(make([]byte, 1))
	require.ErrorContains(t, err, "reset")
	_, err = tryDial(r, "tcp", 8080, patience)
	require.ErrorContains(t, err, "refused")
	_, err = io.WriteString(accepted, "GET /blob/7 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	require.NoError(t, err)
	rest, err := io.ReadAll(answer)
	require.NoError(t, err)
	require.Contains(t, string(rest), "Content-Length: 7")
	require.EqualError(t, r.host.Close(services.TCP(8080)), "close 8080/tcp: nobody listens there; it is left to connections until they end")
	require.NoError(t, accepted.Close())
	until(t, "the port to be free", func() bool { _, ok := r.host.PortStatus(services.TCP(8080)); return !ok })

	err = r.host.Close(services.TCP(8080))
	require.EqualError(t, err, "close 8080/tcp: nobody has the port; `porthole ports` lists those that are bound")
	require.NoError(t, r.host.Open(t.Context(), services.TCP(8080), "http"))
	require.Empty(t, status(t, r.host, "8080/tcp").Changed)
}

// TestCloseOnePortOfMany: the service goes on with the others, and the port can be
// opened again.
func TestCloseOnePortOfMany(t *testing.T) {
	r := newRig(t, tun.PipeOptions{}, nil)
	require.NoError(t, r.host.Close(services.UDP(53)))
	require.Equal(t, "answering", status(t, r.host, "53/tcp").State)
	require.NoError(t, r.host.Open(t.Context(), services.UDP(53), "dns"))
	require.Equal(t, "answering", status(t, r.host, "53/udp").State)
	require.NoError(t, r.host.Close(services.TCP(53)))
	require.NoError(t, r.host.Close(services.UDP(53)))
	for _, p := range r.host.Ports() {
		require.NotEqual(t, "failed", p.State, "%+v", p)
		require.False(t, p.Declared && p.Service == "dns", "%+v", p)
	}
	err := r.host.Open(t.Context(), services.UDP(9), "echo")
	require.EqualError(t, err, "open 9/udp: already in use by discard")
}

func changed(t testing.TB, r *rig, edit func(*porthole.Config)) porthole.Config {
	t.Helper()
	cfg := porthole.DefaultConfig()
	edit(&cfg)
	return cfg
}

// TestReloadKeepsConnections: services restart, start and stop; who was connected
// stays so.
func TestReloadKeepsConnections(t *testing.T) {
	r := newRig(t, tun.PipeOptions{}, func(c *porthole.Config) { c.Services["discard"].Enabled = false })
	talk := dial(t, r, "tcp", 7)
	answer := newLines(talk)
	echo := func() { answer.send(t, "200 still here", "200 still here") }
	echo()
	browser := dial(t, r, "tcp", 80)
	_, err := io.WriteString(browser, "GET /blob/5 HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	page := bufio.NewReader(browser)
	readPage(t, page)
	set(t, r.host, "7/udp", "queue=77")

	cfg := changed(t, r, func(c *porthole.Config) {
		c.Services["echo"].Enabled = false
		c.Services["http"].Options.(*web.Config).MaxConnections = 7
		c.Services["http"].Ports = append(c.Services["http"].Ports, services.TCP(8080))
		s, err := porthole.ParseSettings("queue=64")
		require.NoError(t, err)
		c.Ports = map[services.Port]porthole.Settings{services.UDP(53): s}
	})
	changes, err := r.host.Reload(t.Context(), cfg)
	require.NoError(t, err)
	require.Equal(t, []string{
		"http: restarted with its new configuration", "echo: stopped", "discard: started", "53/udp: queue=64",
	}, changes)
	echo()
	_, err = tryDial(r, "tcp", 7, patience)
	require.ErrorContains(t, err, "refused")
	for _, port := range []string{"80/tcp", "8080/tcp", "9/tcp", "53/udp"} {
		require.Equal(t, "answering", status(t, r.host, port).State, port)
	}
	require.Equal(t, 64, status(t, r.host, "53/udp").LimitPackets)
	_, err = get(t, r, 8080)
	require.NoError(t, err)
	_, err = io.WriteString(browser, "GET /blob/7 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	require.NoError(t, err)
	rest, err := io.ReadAll(page)
	require.NoError(t, err)
	require.Contains(t, string(rest), "Content-Length: 7")

	// Nothing to do is nothing done; what was set stays on top.
	changes, err = r.host.Reload(t.Context(), cfg)
	require.NoError(t, err)
	require.Empty(t, changes)
	changes, err = r.host.Reload(t.Context(), changed(t, r, func(*porthole.Config) {}))
	require.NoError(t, err)
	require.Equal(t, []string{"http: restarted with its new configuration", "echo: started", "53/udp: default settings"}, changes)
	require.Equal(t, 77, status(t, r.host, "7/udp").LimitPackets)
	require.Equal(t, 1024, status(t, r.host, "53/udp").LimitPackets)
	until(t, "8080 to close", func() bool { _, err := tryDial(r, "tcp", 8080, time.Second); return err != nil })
	echo()
}

// TestReloadRefusesWhole: every reason is named, and nothing has changed.
func TestReloadRefusesWhole(t *testing.T) {
	r := newRig(t, tun.PipeOptions{}, nil)
	require.NoError(t, r.host.Open(t.Context(), services.TCP(8080), "echo"))
	before := r.host.Config()
	for _, tt := range []struct {
		name string
		edit func(*porthole.Config)
		want string
	}{
		{"link", func(c *porthole.Config) { c.Link.MTU, c.Zone, c.Services["echo"].Enabled = 9000, "other.test", false },
			"zone: cannot change while the host runs (it is porthole.test); stop the host and start it with the new one\n" +
				"link.mtu: cannot change while the host runs (it is 1500); stop the host and start it with the new one"},
		{"address", func(c *porthole.Config) { c.Link.Address = netip.MustParsePrefix("10.78.0.1/24") },
			"link.address: cannot change while the host runs (it is 10.77.0.1/24); stop the host and start it with the new one"},
		{"invalid", func(c *porthole.Config) {
			c.Ports = map[services.Port]porthole.Settings{services.UDP(53): {Accept: "x"}}
		},
			`ports.53/udp: accept: "x" is none of normal, never`},
		{"somebody's port", func(c *porthole.Config) {
			c.Services["http"].Ports = []services.Port{services.TCP(80), services.TCP(8080)}
		},
			"services.http.ports[1]: 8080/tcp is in use by echo"},
		{"a service that fails", func(c *porthole.Config) {
			c.Services["echo"].Enabled = false
			c.Services["dns"].Options = "not its own"
		}, "reload: dns: configure dns: got string; the host is as it was"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := r.host.Reload(t.Context(), changed(t, r, tt.edit))
			require.Error(t, err)
			require.True(t, strings.Contains(err.Error(), tt.want), err.Error())
			require.Equal(t, before, r.host.Config())
			for _, p := range r.host.Ports() {
				require.False(t, p.Declared && p.State != "answering", "%+v", p)
			}
		})
	}
}

// TestControlsOfAStoppedHost: they say so, before Run and after it.
func TestControlsOfAStoppedHost(t *testing.T) {
	a, b := tun.Pipe(tun.PipeOptions{}, tun.PipeOptions{})
	defer b.Close()
	h, err := porthole.New(porthole.DefaultConfig(), a, nil)
	require.NoError(t, err)
	check := func() {
		require.EqualError(t, h.Open(t.Context(), services.TCP(8080), "http"), "open 8080/tcp: the host does not run")
		require.EqualError(t, h.Close(services.TCP(80)), "close 80/tcp: the host does not run")
		_, err := h.Reload(t.Context(), porthole.DefaultConfig())
		require.EqualError(t, err, "reload porthole: the host does not run")
		require.Error(t, h.Set(services.TCP(8080), porthole.Settings{}))
	}
	check()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	<-h.Ready()
	cancel()
	require.NoError(t, <-done)
	check()
}

// TestStopWithRetiredServices: connections of services whose ports were taken end
// with the host.
func TestStopWithRetiredServices(t *testing.T) {
	r := newRig(t, tun.PipeOptions{}, nil)
	for range 20 {
		c := dial(t, r, "tcp", 7)
		newLines(c).send(t, "200 x", "200 x")
		require.NoError(t, r.host.Close(services.TCP(7)))
		require.NoError(t, r.host.Open(t.Context(), services.TCP(7), "echo"))
	}
}

func TestLedgerNames(t *testing.T) {
	r := newRig(t, tun.PipeOptions{}, nil)
	for name, want := range map[string]bool{
		"80/tcp": true, "53/udp": true, "closed": true, "link": true, "icmp": true, "host-lane": true,
		"81/tcp": false, "x": false, "host": false, "0/tcp": false,
	} {
		l, ok := r.host.PortLedger(name)
		require.Equal(t, want, ok, name)
		require.True(t, l.LawOK || !ok, "%s: %s", name, l.Broken)
	}
	require.Nil(t, r.host.Ledger().Device, "a pipe has no kernel counters")
}

// TestPortByName: a port of a host by its name, as the documentation has it.
func TestPortByName(t *testing.T) {
	h := portholetest.New(t)
	s, err := h.Port("80/tcp").Stats()
	require.NoError(t, err)
	require.Equal(t, "http", s.Service)
	queue := 64
	require.NoError(t, h.Port("80/tcp").Set(porthole.Settings{Queue: &queue}))
	s, err = h.Port("80/tcp").Stats()
	require.NoError(t, err)
	require.Equal(t, 64, s.LimitPackets)
	for name, kind := range map[string]porthole.Kind{"81/tcp": porthole.NotFound, "99999/tcp": porthole.Invalid, "http": porthole.Invalid} {
		_, err := h.Port(name).Stats()
		var e *porthole.Error
		require.ErrorAs(t, err, &e, name)
		require.Equal(t, kind, e.Kind, name)
	}
}
