package dhcp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/stretchr/testify/require"

	"porthole/services"
	"porthole/services/servicestest"
)

// wire is a UDP port in memory: what a test writes to in is read by the service,
// and what the service sends, by either way, comes out.
type wire struct {
	in     chan packet
	out    chan packet
	closed chan struct{}
	once   sync.Once
	noLink bool // SendLink is not supported
	fail   atomic.Pointer[error]
}

type packet struct {
	b  []byte
	to netip.AddrPort // or from
	hw net.HardwareAddr
}

func newWire() *wire {
	return &wire{in: make(chan packet), out: make(chan packet, 1024), closed: make(chan struct{})}
}

func (w *wire) ReadFrom(b []byte) (int, net.Addr, error) {
	if err := w.fail.Load(); err != nil {
		return 0, nil, *err
	}
	select {
	case p := <-w.in:
		return copy(b, p.b), net.UDPAddrFromAddrPort(p.to), nil
	case <-w.closed:
		return 0, nil, net.ErrClosed
	}
}

func (w *wire) WriteTo(b []byte, to net.Addr) (int, error) {
	w.out <- packet{b: bytes.Clone(b), to: to.(*net.UDPAddr).AddrPort()}
	return len(b), nil
}

func (w *wire) SendLink(hw net.HardwareAddr, from, to netip.AddrPort, b []byte) error {
	if w.noLink {
		return errors.ErrUnsupported
	}
	if from != netip.MustParseAddrPort("10.77.0.1:67") {
		return fmt.Errorf("from %v", from)
	}
	w.out <- packet{b: bytes.Clone(b), to: to, hw: hw}
	return nil
}

func (w *wire) Close() error                     { w.once.Do(func() { close(w.closed) }); return nil }
func (w *wire) LocalAddr() net.Addr              { return &net.UDPAddr{IP: net.IPv4zero, Port: 67} }
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

func (w *wire) Listen(uint16) (net.Listener, error)         { return nil, errors.ErrUnsupported }
func (w *wire) ListenPacket(uint16) (net.PacketConn, error) { return nil, errors.ErrUnsupported }
func (w *wire) Dial(context.Context, string, uint16, netip.AddrPort) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

// live is a running service on a wire, with the script's builder at the other end.
type live struct {
	*script
	w    *wire
	env  *services.Env
	log  *servicestest.Log
	stop func() error
}

func startLive(t *testing.T, edit func(*services.Env)) *live {
	t.Helper()
	l := &live{script: &script{t: t}, w: newWire(), log: &servicestest.Log{}}
	l.env = testEnv(testHost(true), defaults().(*Config))
	l.env.Log = slog.New(slog.NewTextHandler(l.log, nil))
	l.env.UDP, l.env.Net = []net.PacketConn{l.w}, l.w
	if edit != nil {
		edit(l.env)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Service.Serve(ctx, l.env) }()
	l.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { require.NoError(t, l.stop()) })
	return l
}

// ask sends one message and waits for the reply.
func (l *live) ask(line string) (*dhcpv4.DHCPv4, packet) {
	l.t.Helper()
	q, from := l.build(line)
	l.w.in <- packet{b: q, to: from}
	select {
	case p := <-l.w.out:
		m, err := dhcpv4.FromBytes(p.b)
		require.NoError(l.t, err)
		return m, p
	case <-time.After(patience):
		l.t.Fatalf("no reply to %q", line)
		return nil, packet{}
	}
}

func TestServeSendsByLink(t *testing.T) {
	l := startLive(t, nil)
	m, p := l.ask("discover mac=1")
	require.Equal(t, dhcpv4.MessageTypeOffer, m.MessageType())
	require.Equal(t, "02:00:00:00:00:01", p.hw.String())
	require.Equal(t, "10.77.0.3:68", p.to.String())
	m, p = l.ask("request mac=1 want=.3 server=.1 bcast")
	require.Equal(t, dhcpv4.MessageTypeAck, m.MessageType())
	require.Nil(t, p.hw)
	require.Equal(t, all, p.to.String())
	require.NoError(t, l.stop())
	log := l.log.String()
	require.Contains(t, log, "request=DHCPDISCOVER result=DHCPOFFER")
	require.Contains(t, log, `id=02:00:00:00:00:01 address=10.77.0.3`)
	require.Contains(t, log, "request=DHCPREQUEST result=DHCPACK")
}

// Where the device refuses a link address, the reply still arrives, to everybody.
func TestServeFallsBackToBroadcast(t *testing.T) {
	l := startLive(t, func(e *services.Env) { e.Net.(*wire).noLink = true })
	_, p := l.ask("discover mac=1")
	require.Equal(t, all, p.to.String())
}

func TestServeLogsWhatItDrops(t *testing.T) {
	l := startLive(t, nil)
	l.w.in <- packet{b: []byte("not dhcp"), to: netip.MustParseAddrPort("10.77.0.2:68")}
	l.ask("discover mac=1") // the port goes on
	require.Contains(t, l.log.String(), "client=10.77.0.2:68 request=malformed")
}

func TestServeEndsOnADeadPort(t *testing.T) {
	w := newWire()
	dead := errors.New("device is gone")
	w.fail.Store(&dead)
	env := testEnv(testHost(false), defaults().(*Config))
	env.UDP, env.Net = []net.PacketConn{w, newWire()}, w
	require.ErrorContains(t, Service.Serve(t.Context(), env), "device is gone")
}

func TestServeStartErrors(t *testing.T) {
	env := testEnv(testHost(false), defaults().(*Config))
	env.UDP = []net.PacketConn{newWire()}
	env.Config.(*Config).LeaseTime = 0
	var ce *services.ConfigError
	require.ErrorAs(t, Service.Serve(t.Context(), env), &ce)
	select {
	case <-env.UDP[0].(*wire).closed:
	default:
		t.Fatal("the port stays open")
	}

	env.Config = defaults()
	env.DataDir = t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(env.DataDir, "leases.db"), []byte("no leases"), 0o600))
	require.ErrorContains(t, Service.Serve(t.Context(), env), "damaged")
}

func TestServeWithoutIPv4(t *testing.T) {
	env := testEnv(services.Host{}, defaults().(*Config))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, Service.Serve(ctx, env))
	require.Error(t, Service.Probe(ctx, env, services.UDP(67)))
}

// Leases, releases and quarantines outlive the process; offers do not.
func TestServeRestart(t *testing.T) {
	for _, interval := range []time.Duration{0, time.Hour} {
		t.Run(fmt.Sprint(interval), func(t *testing.T) {
			dir := t.TempDir()
			var now atomic.Pointer[time.Time]
			now.Store(&testStart)
			on := func(e *services.Env) {
				e.DataDir, e.Now = dir, func() time.Time { return *now.Load() }
				e.Config.(*Config).SyncInterval = interval
				e.Config.(*Config).MinLeaseTime = time.Second
			}
			l := startLive(t, on)
			l.ask("request mac=1 want=.50 server=.1")
			l.ask("request mac=2 want=.51 server=.1")
			l.ask("request mac=3 want=.52 server=.1 lease=10s")
			l.ask("request mac=4 want=.53 server=.1")
			l.ask("discover mac=5 want=.54")
			for _, line := range []string{"release mac=2 ci=.51 server=.1", "decline mac=4 want=.53 server=.1"} {
				q, from := l.build(line)
				l.w.in <- packet{b: q, to: from}
			}
			require.NoError(t, l.stop())

			later := testStart.Add(30 * time.Second)
			now.Store(&later)
			l = startLive(t, on)
			m, _ := l.ask("request mac=1 want=.50") // INIT-REBOOT: known
			require.Equal(t, dhcpv4.MessageTypeAck, m.MessageType())
			for line, want := range map[string]string{
				"discover mac=6 want=.50": "10.77.0.3",  // leased
				"discover mac=7 want=.51": "10.77.0.51", // released
				"discover mac=8 want=.52": "10.77.0.52", // ended
				"discover mac=9 want=.54": "10.77.0.54", // only offered
			} {
				m, _ := l.ask(line)
				require.Equal(t, want, m.YourIPAddr.String(), line)
			}
			m, _ = l.ask("discover mac=10 want=.53") // quarantined
			require.NotEqual(t, "10.77.0.53", m.YourIPAddr.String())
		})
	}
}

// Clients who wait together share one commit, in the order of their messages.
func TestGroupCommit(t *testing.T) {
	env := testEnv(testHost(true), defaults().(*Config))
	w := newWire()
	env.Net = w
	s, err := newServer(env, env.Config.(*Config))
	require.NoError(t, err)
	r := &run{server: s, env: env, jobs: make(chan job, pendingLimit)}
	dir := t.TempDir()
	r.store, err = openStore(dir, 0, testStart, r.restore)
	require.NoError(t, err)
	sc := &script{t: t, s: s, now: testStart}
	for i := range 100 {
		q, from := sc.build(fmt.Sprintf("request mac=%d want=.%d server=.1", i+1, i+50))
		r.jobs <- job{answer: s.handle(q, from, testStart), conn: w, from: net.UDPAddrFromAddrPort(from), start: testStart}
	}
	q, from := sc.build("release mac=1 ci=.50 server=.1")
	r.jobs <- job{answer: s.handle(q, from, testStart), conn: w, from: net.UDPAddrFromAddrPort(from), start: testStart}
	close(r.jobs)
	before := lastTx(t, r.store)
	r.commits()
	require.Equal(t, before+1, lastTx(t, r.store))
	require.Len(t, w.out, 100)
	require.NoError(t, r.store.close())
	n := 0
	st, err := openStore(dir, 0, testStart, func(b binding) bool { n++; return true })
	require.NoError(t, err)
	require.NoError(t, st.close())
	require.Equal(t, 99, n)
}

func lastTx(t *testing.T, st *store) int {
	tx, err := st.db.Begin(false)
	require.NoError(t, err)
	defer tx.Rollback()
	return tx.ID()
}

// A lease that cannot be stored is not granted.
func TestCommitFails(t *testing.T) {
	env := testEnv(testHost(true), defaults().(*Config))
	log := &servicestest.Log{}
	env.Log = slog.New(slog.NewTextHandler(log, nil))
	w := newWire()
	env.Net = w
	s, err := newServer(env, env.Config.(*Config))
	require.NoError(t, err)
	r := &run{server: s, env: env, jobs: make(chan job, 1)}
	r.store, err = openStore(t.TempDir(), 0, testStart, nil)
	require.NoError(t, err)
	require.NoError(t, r.store.close())
	sc := &script{t: t, s: s, now: testStart}
	q, from := sc.build("request mac=1 want=.50 server=.1")
	r.jobs <- job{answer: s.handle(q, from, testStart), conn: w, from: net.UDPAddrFromAddrPort(from), start: testStart}
	close(r.jobs)
	r.commits()
	require.Empty(t, w.out)
	require.Contains(t, log.String(), "no lease granted")
	require.Contains(t, log.String(), `result="not stored"`)
}

// mapped is loopback with the service's port where the rig put it, and with a free
// port instead of 68.
type mapped struct {
	servicestest.Loopback
	to *netip.AddrPort
}

func (m mapped) Dial(ctx context.Context, network string, _ uint16, _ netip.AddrPort) (net.Conn, error) {
	return m.Loopback.Dial(ctx, network, 0, *m.to)
}

func TestProbe(t *testing.T) {
	to := new(netip.AddrPort)
	r := servicestest.Start(t, Service, func(e *services.Env) { e.Net = mapped{to: to} })
	*to = r.Addr[services.UDP(67)]
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, Service.Probe(ctx, r.Env, services.UDP(67)))

	require.NoError(t, r.Stop())
	silent, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	*to = silent.LocalAddr().(*net.UDPAddr).AddrPort()
	ctx, cancel = context.WithCancel(t.Context())
	go func() { // the question arrives, and instead of an answer the probe's time ends
		silent.ReadFrom(make([]byte, 1500))
		cancel()
	}()
	require.ErrorIs(t, Service.Probe(ctx, r.Env, services.UDP(67)), context.Canceled)
}

// Many clients at once over loopback sockets, each lease stored: every one gets the
// address it has.
func TestServeParallel(t *testing.T) {
	r := servicestest.Start(t, Service, func(e *services.Env) { e.DataDir = t.TempDir() })
	to := r.Addr[services.UDP(67)]
	var wg sync.WaitGroup
	for c := range 8 {
		wg.Go(func() {
			for i := range 20 {
				// A client that sends from the address it asks for is answered there.
				ip := net.IPv4(127, 0, byte(c+1), byte(i+1))
				conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: ip}, net.UDPAddrFromAddrPort(to))
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				m, _ := dhcpv4.New(dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, byte(c), byte(i)}),
					dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithClientIP(ip),
					dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(ip)),
					dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(127, 0, 0, 1))))
				buf := make([]byte, 1500)
				if _, err := conn.Write(m.ToBytes()); err != nil {
					t.Error(err)
					return
				}
				n, err := conn.Read(buf)
				if err != nil {
					t.Error(err)
					return
				}
				re, err := dhcpv4.FromBytes(buf[:n])
				if err != nil || re.MessageType() != dhcpv4.MessageTypeAck || re.TransactionID != m.TransactionID || !re.YourIPAddr.Equal(ip) {
					t.Errorf("%v: answer %v: %v", ip, re, err)
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, r.Stop())
	n := 0
	st, err := openStore(r.Env.DataDir, 0, time.Now(), func(binding) bool { n++; return true })
	require.NoError(t, err)
	require.NoError(t, st.close())
	require.Equal(t, 160, n)
}

func FuzzServe(f *testing.F) {
	sc := &script{t: f}
	for _, line := range strings.Split(strings.TrimSpace(`
		discover mac=1
		discover mac=1 lease=7167s
		discover mac=1 rapid bcast want=.9 lease=2h opt=55:0103060c0f1a1c77 opt=57:05c0
		discover hlen0 id=ff00000001000101
		discover zero
		request mac=1 want=.3 server=.1
		request mac=1 want=.3
		request mac=1 ci=.3 from=.3
		request mac=1 gi=.9 want=192.168.1.1 opt=82:0b040a4d000905040a500000
		decline mac=1 want=.3 server=.1
		release mac=1 ci=.3 server=.1
		inform mac=1 ci=.2 opt=118:0a4d0000
		discover mac=1 opt=52:03
		offer mac=1
		bootp mac=1`), "\n") {
		q, _ := sc.build(strings.TrimSpace(line))
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, q []byte) {
		sc := newScript(t, testHost(true), func(c *Config) {
			c.RapidCommit = true
			c.Static = []Static{{ClientID: "\xff\x00", Address: netip.MustParseAddr("10.77.0.9")}}
			c.Subnets = []Subnet{{Prefix: netip.MustParsePrefix("10.80.0.0/24")}}
		})
		from := netip.MustParseAddrPort("10.77.0.3:68")
		in := bytes.Clone(q)
		for range 2 {
			a := sc.s.handle(q, from, sc.now)
			require.Equal(t, in, q, "the request is the reader's")
			require.NotEmpty(t, a.request)
			require.NotEmpty(t, a.result)
			if a.payload == nil {
				continue
			}
			checkReply(t, a, q)
			require.True(t, a.to.IsValid() && a.to.Addr().Is4() && a.to.Port() != 0)
			require.LessOrEqual(t, len(a.payload), max(1472, len(q)+300))
			for _, n := range sc.s.subnets {
				require.LessOrEqual(t, len(n.pool.byAddr), 2)
			}
		}
	})
}

func BenchmarkExchange(b *testing.B) {
	sc := newScript(b, testHost(true), nil)
	d, from := sc.build("discover mac=1 opt=55:0103060f1c")
	r, _ := sc.build("request mac=1 want=.3 server=.1 opt=55:0103060f1c")
	b.ReportAllocs()
	for b.Loop() {
		if sc.s.handle(d, from, sc.now).payload == nil || sc.s.handle(r, from, sc.now).payload == nil {
			b.Fatal("no reply")
		}
	}
}

// BenchmarkServe is whole exchanges (four messages) through a running service, 64
// clients at once, the access log written to nowhere.
func BenchmarkServe(b *testing.B) {
	for _, bb := range []struct {
		name string
		edit func(*services.Env)
	}{
		{"memory", func(*services.Env) {}},
		{"synced", func(e *services.Env) { e.DataDir = b.TempDir() }},
		{"interval", func(e *services.Env) {
			e.DataDir = b.TempDir()
			e.Config.(*Config).SyncInterval = time.Second
		}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			w := newWire()
			env := testEnv(testHost(true), defaults().(*Config))
			env.Host.Addr4 = netip.MustParsePrefix("10.77.0.1/16")
			env.UDP, env.Net = []net.PacketConn{w}, w
			bb.edit(env)
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- Service.Serve(ctx, env) }()
			const clients = 64
			sc := &script{t: b}
			var discover, request [clients][]byte
			from := netip.MustParseAddrPort("0.0.0.0:68")
			for i := range clients {
				discover[i], _ = sc.build(fmt.Sprintf("discover mac=%d xid=%d", i+1, i))
				request[i], _ = sc.build(fmt.Sprintf("request mac=%d xid=%d want=10.77.0.%d server=.1", i+1, i, i+3))
			}
			for i := range clients { // everybody has a lease, so the addresses are known
				w.in <- packet{b: request[i], to: from}
				<-w.out
			}
			b.ResetTimer()
			go func() {
				for i := range min(clients, b.N) {
					w.in <- packet{b: discover[i], to: from}
				}
			}()
			for started, n := min(clients, b.N), 0; n < b.N; {
				p := <-w.out
				i := int(p.b[7])
				switch kind := p.b[optionsAt+2]; {
				case kind == byte(dhcpv4.MessageTypeOffer):
					w.in <- packet{b: request[i], to: from}
				default:
					n++
					if started < b.N {
						started++
						w.in <- packet{b: discover[i], to: from}
					}
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "exchanges/s")
			cancel()
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		})
	}
}
