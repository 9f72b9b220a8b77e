package classic

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"porthole/internal/leak"
	"porthole/services"
	"porthole/services/servicestest"
)

func TestMain(m *testing.M) { leak.Main(m) }

const patience = servicestest.Patience

func dial(t *testing.T, r *servicestest.Rig, p services.Port) net.Conn {
	t.Helper()
	c, err := net.Dial(p.Proto, r.Addr[p].String())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return c
}

func TestEchoTCP(t *testing.T) {
	r := servicestest.Start(t, Echo, nil)
	c := dial(t, r, services.TCP(7))
	io.WriteString(c, "hello")
	got := make([]byte, 5)
	_, err := io.ReadFull(c, got)
	require.NoError(t, err)
	require.Equal(t, "hello", string(got))

	// Much more than any buffer, then FIN: everything comes back, then FIN.
	big := bytes.Repeat([]byte("0123456789abcde\n"), 1<<18)
	var g errgroup.Group
	g.Go(func() error {
		if _, err := c.Write(big); err != nil {
			return err
		}
		return c.(*net.TCPConn).CloseWrite()
	})
	back, err := io.ReadAll(c)
	require.NoError(t, err)
	require.NoError(t, g.Wait())
	require.True(t, bytes.Equal(big, back))
}

func TestEchoUDP(t *testing.T) {
	r := servicestest.Start(t, Echo, nil)
	c := dial(t, r, services.UDP(7))
	buf := make([]byte, 70000)
	for _, n := range []int{1, 0, 1472, 40000, 65507} {
		want := bytes.Repeat([]byte{'x'}, n)
		_, err := c.Write(want)
		require.NoError(t, err)
		m, err := c.Read(buf)
		require.NoError(t, err)
		require.Equal(t, n, m)
		require.True(t, bytes.Equal(want, buf[:m]))
	}
}

func TestEchoRefusesLoops(t *testing.T) {
	for port, want := range map[int]string{
		7: "refused", 9: "refused", 13: "refused", 17: "refused", 19: "refused", 37: "refused", 0: "refused",
		1: "echoed", 53: "echoed", 49152: "echoed", 65535: "echoed",
	} {
		answer, result := echoDatagram([]byte("x"), uint16(port))
		require.Equal(t, want, result, port)
		require.Equal(t, want == "echoed", answer != nil, port)
	}
}

func TestDiscard(t *testing.T) {
	var log servicestest.Log
	r := servicestest.Start(t, Discard, func(env *services.Env) {
		env.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	c := dial(t, r, services.TCP(9))
	_, err := c.Write(make([]byte, 1<<20))
	require.NoError(t, err)
	require.NoError(t, c.(*net.TCPConn).CloseWrite())
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Empty(t, got)

	u := dial(t, r, services.UDP(9))
	_, err = u.Write([]byte("abc"))
	require.NoError(t, err)
	logged := func(s string) func() bool {
		return func() bool {
			return strings.Contains(log.String(), s)
		}
	}
	require.Eventually(t, logged(`request=discard/tcp result=closed`), patience, time.Millisecond)
	require.Eventually(t, logged(`bytes=1048576`), patience, time.Millisecond)
	require.Eventually(t, logged(`request=discard/udp result=discarded`), patience, time.Millisecond)
	require.NoError(t, u.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	_, err = u.Read(make([]byte, 1))
	require.True(t, isTimeout(err), "answered")
}

func TestIdleEnds(t *testing.T) {
	for _, svc := range []services.Service{Echo, Discard} {
		t.Run(svc.Name, func(t *testing.T) {
			r := servicestest.Start(t, svc, func(env *services.Env) { env.Config.(*Config).IdleTimeout = 50 * time.Millisecond })
			c := dial(t, r, svc.Ports[0])
			_, err := io.ReadAll(c) // ends when the host closes
			require.NoError(t, err)
		})
	}
}

// A client that sends and never reads its echo is given up, and holds no more
// memory than the sockets' buffers and ours.
func TestEchoToNobodyEnds(t *testing.T) {
	r := servicestest.Start(t, Echo, func(env *services.Env) { env.Config.(*Config).IdleTimeout = 200 * time.Millisecond })
	c := dial(t, r, services.TCP(7))
	require.NoError(t, c.(*net.TCPConn).SetReadBuffer(4096))
	for {
		if _, err := c.Write(make([]byte, 1<<20)); err != nil {
			require.False(t, isTimeout(err), "still open")
			return
		}
	}
}

// At the limit a further connection waits, and is served when one ends.
func TestConnectionLimit(t *testing.T) {
	r := servicestest.Start(t, Echo, func(env *services.Env) { env.Config.(*Config).MaxConnections = 1 })
	say := func(c net.Conn) error {
		io.WriteString(c, "x")
		_, err := io.ReadFull(c, make([]byte, 1))
		return err
	}
	first := dial(t, r, services.TCP(7))
	require.NoError(t, say(first))
	second := dial(t, r, services.TCP(7))
	require.NoError(t, second.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	require.True(t, isTimeout(say(second)), "served beyond the limit")
	first.Close()
	require.NoError(t, second.SetReadDeadline(time.Now().Add(patience)))
	_, err := io.ReadFull(second, make([]byte, 1))
	require.NoError(t, err)
}

func TestManyAtOnce(t *testing.T) {
	r := servicestest.Start(t, Echo, nil)
	var g errgroup.Group
	for i := range 200 {
		g.Go(func() error {
			c, err := net.Dial("tcp", r.Addr[services.TCP(7)].String())
			if err != nil {
				return err
			}
			defer c.Close()
			want := fmt.Sprintf("client %d", i)
			io.WriteString(c, want)
			got := make([]byte, len(want))
			if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
				return fmt.Errorf("got %q, %v", got, err)
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
}

func TestStopInTheMiddle(t *testing.T) {
	for _, svc := range []services.Service{Echo, Discard} {
		r := servicestest.Start(t, svc, nil)
		c := dial(t, r, svc.Ports[0])
		io.WriteString(c, "x")
		require.NoError(t, r.Stop())
		c.SetReadDeadline(time.Now().Add(patience))
		_, err := io.Copy(io.Discard, c)
		require.False(t, isTimeout(err))
	}
}

// A socket that breaks ends the service with an error, and nothing is left.
func TestBrokenSocketEndsService(t *testing.T) {
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	cfg := Default()
	env := &services.Env{
		Config: &cfg, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		TCP: []net.Listener{ln}, UDP: []net.PacketConn{pc},
	}
	ended := make(chan error, 1)
	go func() { ended <- Echo.Serve(context.Background(), env) }()
	pc.Close()
	select {
	case err := <-ended:
		require.ErrorContains(t, err, "read: ")
	case <-time.After(patience):
		t.Fatal("still serving")
	}
	_, err = net.Dial("tcp4", ln.Addr().String())
	require.Error(t, err)
}

func TestWithoutPorts(t *testing.T) {
	cfg := Default()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, Echo.Serve(ctx, &services.Env{Config: &cfg}))
}

// slowNet is loopback, where who waits for a datagram waits as long as it takes.
type slowNet struct{ servicestest.Loopback }

func (n slowNet) Dial(ctx context.Context, network string, local uint16, to netip.AddrPort) (net.Conn, error) {
	c, err := n.Loopback.Dial(ctx, network, local, to)
	if err == nil && network == "udp" {
		c = slowConn{c}
	}
	return c, err
}

type slowConn struct{ net.Conn }

func (slowConn) SetReadDeadline(time.Time) error { return nil }

func TestProbes(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, svc := range []services.Service{Echo, Discard} {
		r := servicestest.Start(t, svc, nil)
		slow := *r.Env
		slow.Net = slowNet{} // a probe that is glad of silence shall not find it on a busy machine
		for _, p := range svc.Ports {
			at := services.Port{Proto: p.Proto, Number: r.Addr[p].Port()}
			require.NoError(t, svc.Probe(ctx, r.Env, at), at)
			other := Echo
			if svc.Name == "echo" {
				other = Discard
			}
			short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
			require.Error(t, other.Probe(short, &slow, at), "%s passes for %s", svc.Name, other.Name)
			cancel()
		}
		require.NoError(t, r.Stop())
		for _, p := range svc.Ports {
			at := services.Port{Proto: p.Proto, Number: r.Addr[p].Port()}
			short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
			require.Error(t, svc.Probe(short, &slow, at), at)
			cancel()
		}
	}
}

func TestConfigErrorsNameTheKey(t *testing.T) {
	for key, edit := range map[string]func(*Config){
		"max-connections": func(c *Config) { c.MaxConnections = 0 },
		"idle-timeout":    func(c *Config) { c.IdleTimeout = -1 },
	} {
		c := Default()
		require.NoError(t, c.Validate())
		edit(&c)
		var ce *services.ConfigError
		require.ErrorAs(t, c.Validate(), &ce)
		require.Equal(t, key, ce.Key)
	}
}

// TestAnswerWhereItIsRead: echo and discard answer on the host's reader as from their
// sockets, with a line for each datagram where somebody wants one.
func TestAnswerWhereItIsRead(t *testing.T) {
	for _, x := range []struct {
		svc  services.Service
		from string
		want any // the answer; nil: none
	}{
		{Echo, "10.77.0.2:5000", []byte("hello")},
		{Echo, "10.77.0.2:19", []byte(nil)},
		{Discard, "10.77.0.2:5000", []byte(nil)},
	} {
		for _, level := range []slog.Level{slog.LevelWarn, slog.LevelInfo} {
			var pc *servicestest.Answering
			var log servicestest.Log
			r := servicestest.Start(t, x.svc, func(e *services.Env) {
				e.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: level}))
				pc = servicestest.NewAnswering(e.UDP[0])
				e.UDP[0] = pc
			})
			from, got := netip.MustParseAddrPort(x.from), []byte(nil)
			f := pc.Func(t)
			done := f([]byte("hello"), from, func(b []byte, to netip.AddrPort) bool {
				require.Equal(t, from, to)
				got = append(got, b...)
				return true
			})
			require.True(t, done)
			require.Equal(t, x.want, got)
			if x.want != nil && len(got) > 0 {
				require.False(t, f([]byte("hello"), from, func([]byte, netip.AddrPort) bool { return false }), "no packet holds it")
			}
			require.NoError(t, r.Stop())
			line := "msg=access client=" + x.from + " request=" + x.svc.Name + "/udp"
			require.Equal(t, level == slog.LevelInfo, strings.Contains(log.String(), line), log.String())
			require.LessOrEqual(t, strings.Count(log.String(), "\n"), 1, "one line for what was answered")
		}
	}
}

// A goroutine whose connection has ended takes another; what is spare ends with the service.
func TestGoroutinesServeOneAfterAnother(t *testing.T) {
	ids := make(chan string)
	cfg := Default()
	s := newServer(handlers{"test", func(net.Conn, time.Duration) (int64, error) {
		b := make([]byte, 32)
		ids <- strings.Fields(string(b[:runtime.Stack(b, false)]))[1]
		return 0, nil
	}, nil}, &services.Env{Log: slog.New(slog.DiscardHandler), Now: time.Now}, &cfg)
	serve := func(n int) []string {
		var got []string
		for range n {
			_, c := net.Pipe()
			s.slots <- struct{}{}
			require.True(t, s.add(c))
		}
		for range n {
			got = append(got, <-ids)
		}
		return got
	}
	seen := map[string]bool{}
	for end := time.Now().Add(patience); ; {
		id := serve(1)[0]
		if seen[id] {
			break
		}
		seen[id] = true
		require.True(t, time.Now().Before(end), "no goroutine had two connections")
	}
	serve(2 * maxSpare)
	s.close()
	s.conns.Wait()
	require.LessOrEqual(t, s.spare.Load(), int32(maxSpare))
}
