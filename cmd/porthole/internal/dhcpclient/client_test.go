package dhcpclient

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/stretchr/testify/require"

	"porthole/internal/leak"
	"porthole/services"
	"porthole/services/dhcp"
)

func TestMain(m *testing.M) { leak.Main(m) }

// cable joins a client's Link to a server's port in memory. Everything that
// passes is kept; drop loses a message either way.
type cable struct {
	hw       []byte
	toServer chan datagramTo
	toClient chan []byte
	cut      chan struct{} // the client's end
	end      chan struct{} // the server's end
	once     [2]sync.Once

	mu    sync.Mutex
	drop  func(m *dhcpv4.DHCPv4) bool
	sent  []*dhcpv4.DHCPv4 // by the client
	at    []time.Time
	to    []netip.AddrPort
	owned map[netip.Addr]bool
}

type datagramTo struct {
	b    []byte
	from netip.AddrPort
}

func newCable(hw ...byte) *cable {
	return &cable{
		hw: hw, toServer: make(chan datagramTo, 4096), toClient: make(chan []byte, 4096),
		cut: make(chan struct{}), end: make(chan struct{}), owned: map[netip.Addr]bool{},
	}
}

func (c *cable) HW() (byte, []byte) { return 1, c.hw }
func (c *cable) Own(a netip.Addr)   { c.mu.Lock(); c.owned[a] = true; c.mu.Unlock() }
func (c *cable) Disown(a netip.Addr) {
	c.mu.Lock()
	delete(c.owned, a)
	c.mu.Unlock()
}

func (c *cable) Send(b []byte, from netip.Addr, to netip.AddrPort) error {
	m, err := dhcpv4.FromBytes(b)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.sent, c.at, c.to = append(c.sent, m), append(c.at, time.Now()), append(c.to, to)
	lose := c.drop != nil && c.drop(m)
	c.mu.Unlock()
	if !lose {
		c.toServer <- datagramTo{bytes.Clone(b), netip.AddrPortFrom(from, 68)}
	}
	return nil
}

func (c *cable) Receive(b []byte) (int, error) {
	select {
	case p := <-c.toClient:
		return copy(b, p), nil
	case <-c.cut:
		return 0, os.ErrClosed
	}
}

func (c *cable) Close() error { c.once[0].Do(func() { close(c.cut) }); return nil }

// reply is the way back, at whatever address.
func (c *cable) reply(b []byte) {
	m, err := dhcpv4.FromBytes(b)
	c.mu.Lock()
	lose := err == nil && c.drop != nil && c.drop(m)
	c.mu.Unlock()
	if !lose {
		c.toClient <- bytes.Clone(b)
	}
}

// port is the server's end as its socket and its Net.
type port struct {
	*cable
	services.Net
}

func (p port) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case d := <-p.toServer:
		return copy(b, d.b), net.UDPAddrFromAddrPort(d.from), nil
	case <-p.end:
		return 0, nil, net.ErrClosed
	}
}

func (p port) WriteTo(b []byte, _ net.Addr) (int, error) { p.reply(b); return len(b), nil }
func (p port) SendLink(_ net.HardwareAddr, _, _ netip.AddrPort, b []byte) error {
	p.reply(b)
	return nil
}
func (p port) Close() error                     { p.once[1].Do(func() { close(p.end) }); return nil }
func (p port) LocalAddr() net.Addr              { return &net.UDPAddr{Port: 67} }
func (p port) SetDeadline(time.Time) error      { return nil }
func (p port) SetReadDeadline(time.Time) error  { return nil }
func (p port) SetWriteDeadline(time.Time) error { return nil }

// withServer runs f in a bubble with its own clock, beside a real server.
func withServer(t *testing.T, edit func(*dhcp.Config), f func(t *testing.T, c *cable)) {
	synctest.Test(t, func(t *testing.T) {
		c := newCable(2, 0, 0, 0, 0, 1)
		cfg := dhcp.Service.Config().(*dhcp.Config)
		if edit != nil {
			edit(cfg)
		}
		env := &services.Env{
			Host: services.Host{Zone: "porthole.test", MTU: 1500, Addr4: netip.MustParsePrefix("10.77.0.1/24"),
				Peer4: netip.MustParseAddr("10.77.0.2"), HW: net.HardwareAddr{2, 0, 0, 0, 1, 1}},
			Config: cfg, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: time.Now,
			UDP: []net.PacketConn{port{cable: c}}, Net: port{cable: c},
			Ports: func() []services.PortInfo { return []services.PortInfo{{Port: services.UDP(53)}} },
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- dhcp.Service.Serve(ctx, env) }()
		defer func() {
			cancel()
			require.NoError(t, <-done)
		}()
		f(t, c)
	})
}

// events runs the client with JSON on and gives what it printed.
func events(t *testing.T, ctx context.Context, c *cable, o Options) ([]Lease, error) {
	t.Helper()
	o.Link, o.JSON, o.Interface, o.Rand = c, true, "test0", rand.New(rand.NewPCG(1, 2))
	var out bytes.Buffer
	err := Run(ctx, o, &out)
	var list []Lease
	for dec := json.NewDecoder(&out); dec.More(); {
		var l Lease
		require.NoError(t, dec.Decode(&l))
		list = append(list, l)
	}
	return list, err
}

func kinds(c *cable) string {
	var s []string
	for _, m := range c.sent {
		s = append(s, m.MessageType().String())
	}
	return strings.Join(s, " ")
}

func TestLease(t *testing.T) {
	withServer(t, nil, func(t *testing.T, c *cable) {
		got, err := events(t, t.Context(), c, Options{Hostname: "me", Request: netip.MustParseAddr("10.77.0.99")})
		require.NoError(t, err)
		require.Len(t, got, 1)
		l := got[0]
		require.Equal(t, "10.77.0.99/24", l.Address.String())
		require.Equal(t, "10.77.0.1", l.Server.String())
		require.Equal(t, "10.77.0.1", join(l.Router))
		require.Equal(t, "10.77.0.1", join(l.DNS))
		require.Equal(t, "porthole.test", l.Domain)
		require.Equal(t, 1500, l.MTU)
		require.Equal(t, []int64{3600, 1800, 3150}, []int64{l.LeaseS, l.T1S, l.T2S})
		require.Equal(t, "DISCOVER REQUEST", kinds(c))
		require.Equal(t, c.sent[0].TransactionID, c.sent[1].TransactionID)
		require.Equal(t, c.sent[0].NumSeconds, c.sent[1].NumSeconds)
		require.Equal(t, "10.77.0.1", c.sent[1].ServerIdentifier().String())
		require.Equal(t, "me", c.sent[0].HostName())
		require.Equal(t, byte(255), c.sent[0].Options[61][0])
		require.Empty(t, c.owned, "the address is answered for only while the client runs")
	})
}

func TestThen(t *testing.T) {
	withServer(t, nil, func(t *testing.T, c *cable) {
		got, err := events(t, t.Context(), c, Options{LeaseTime: 2 * time.Hour, Then: []string{"renew", "rebind", "inform", "release"}})
		require.NoError(t, err)
		require.Equal(t, "DISCOVER REQUEST REQUEST REQUEST INFORM RELEASE", kinds(c))
		require.Len(t, got, 5)
		for i, want := range []string{"lease", "renew", "rebind", "inform", "release"} {
			require.Equal(t, want, got[i].Event)
			require.Equal(t, "10.77.0.3/24", got[i].Address.String())
		}
		require.EqualValues(t, 7200, got[2].LeaseS)
		require.Zero(t, got[3].LeaseS)
		require.Equal(t, "10.77.0.1:67", c.to[2].String())
		require.Equal(t, "255.255.255.255:67", c.to[3].String())
		for _, m := range c.sent[2:4] { // renewing and rebinding name no server and no address but ciaddr
			require.Equal(t, "10.77.0.3", m.ClientIPAddr.String())
			require.Nil(t, m.ServerIdentifier())
			require.Nil(t, m.RequestedIPAddress())
		}
		rel := c.sent[5]
		require.Equal(t, "10.77.0.1", rel.ServerIdentifier().String())
		require.False(t, rel.Options.Has(dhcpv4.OptionParameterRequestList) || rel.Options.Has(dhcpv4.OptionIPAddressLeaseTime))
	})
}

func TestDeclineThenAnother(t *testing.T) {
	withServer(t, nil, func(t *testing.T, c *cable) {
		_, err := events(t, t.Context(), c, Options{Then: []string{"decline", "renew"}})
		require.ErrorContains(t, err, "renew: there is no lease any more")
	})
}

func TestRapidCommitAndReboot(t *testing.T) {
	withServer(t, func(c *dhcp.Config) { c.RapidCommit = true }, func(t *testing.T, c *cable) {
		_, err := events(t, t.Context(), c, Options{RapidCommit: true})
		require.NoError(t, err)
		require.Equal(t, "DISCOVER", kinds(c))
		again := &cable{hw: c.hw, toServer: c.toServer, toClient: c.toClient, cut: make(chan struct{}), end: c.end, owned: map[netip.Addr]bool{}}
		got, err := events(t, t.Context(), again, Options{Reboot: netip.MustParseAddr("10.77.0.3")})
		require.NoError(t, err)
		require.Equal(t, "REQUEST", kinds(again))
		require.Equal(t, "10.77.0.3/24", got[0].Address.String())
	})
	withServer(t, nil, func(t *testing.T, c *cable) { // refused, then the usual way
		got, err := events(t, t.Context(), c, Options{Reboot: netip.MustParseAddr("192.168.9.9")})
		require.NoError(t, err)
		require.Equal(t, "REQUEST DISCOVER REQUEST", kinds(c))
		require.Equal(t, "10.77.0.3/24", got[0].Address.String())
	})
}

// Lost messages are sent again after 4, 8, 16 seconds, each one more or less.
func TestRetransmission(t *testing.T) {
	withServer(t, nil, func(t *testing.T, c *cable) {
		n := 0
		c.drop = func(m *dhcpv4.DHCPv4) bool { n++; return n <= 4 }
		start := time.Now()
		got, err := events(t, t.Context(), c, Options{Timeout: 2 * time.Minute})
		require.NoError(t, err)
		require.Equal(t, "DISCOVER DISCOVER DISCOVER DISCOVER DISCOVER REQUEST", kinds(c))
		prev := start
		for i, want := range []time.Duration{0, 4, 8, 16, 32} {
			gap := c.at[i].Sub(prev)
			require.InDelta(t, float64(want), gap.Seconds(), 1, "%d", i)
			prev = c.at[i]
		}
		require.Equal(t, uint16(c.at[4].Sub(start)/time.Second), c.sent[4].NumSeconds)
		require.EqualValues(t, c.at[5].Sub(start), got[0].TookNS, "from the first message on")
	})
}

func TestLostAck(t *testing.T) {
	withServer(t, nil, func(t *testing.T, c *cable) {
		n := 0
		c.drop = func(m *dhcpv4.DHCPv4) bool {
			if m.MessageType() == dhcpv4.MessageTypeAck {
				n++
			}
			return m.MessageType() == dhcpv4.MessageTypeAck && n <= 2
		}
		got, err := events(t, t.Context(), c, Options{})
		require.NoError(t, err)
		require.Equal(t, "DISCOVER REQUEST REQUEST REQUEST", kinds(c))
		require.Equal(t, "10.77.0.3/24", got[0].Address.String())
	})
}

func TestSilentServer(t *testing.T) {
	withServer(t, nil, func(t *testing.T, c *cable) {
		c.drop = func(*dhcpv4.DHCPv4) bool { return true }
		start := time.Now()
		_, err := events(t, t.Context(), c, Options{Timeout: 20 * time.Second})
		require.ErrorIs(t, err, ErrNoAnswer)
		require.Equal(t, 20*time.Second, time.Since(start))
	})
}

func TestCancel(t *testing.T) {
	withServer(t, nil, func(t *testing.T, c *cable) {
		c.drop = func(*dhcpv4.DHCPv4) bool { return true }
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := events(t, ctx, c, Options{})
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// A client that stays renews at T1 and, when its server is silent, rebinds at T2.
func TestStay(t *testing.T) {
	withServer(t, nil, func(t *testing.T, c *cable) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Minute)
		defer cancel()
		start := time.Now()
		c.drop = func(m *dhcpv4.DHCPv4) bool { // unicasts of the second half hour on are lost
			return time.Since(start) > 40*time.Minute && len(c.to) > 0 && m.OpCode == dhcpv4.OpcodeBootRequest && c.to[len(c.to)-1] != everybody
		}
		got, err := events(t, ctx, c, Options{Stay: true, Then: []string{"release"}})
		require.NoError(t, err)
		var list []string
		for _, l := range got {
			list = append(list, l.Event)
		}
		require.Equal(t, []string{"lease", "renew", "rebind", "release"}, list)
		require.Equal(t, 30*time.Minute, c.at[2].Sub(start), "T1")
		require.Equal(t, 60*time.Minute, c.at[3].Sub(start), "T1 again")
		asked := 0
		for i := range c.sent {
			if d := c.at[i].Sub(start); d >= 60*time.Minute && d < 82*time.Minute && c.to[i] != everybody {
				asked++
			}
		}
		require.InDelta(t, 5, asked, 2, "renewals wait half of what is left, a minute at least")
		require.Equal(t, dhcpv4.MessageTypeRelease, c.sent[len(c.sent)-1].MessageType())
	})
}

// A lease that ends in silence is lost, and the client starts over.
func TestStayLoses(t *testing.T) {
	withServer(t, nil, func(t *testing.T, c *cable) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
		defer cancel()
		start := time.Now()
		c.drop = func(m *dhcpv4.DHCPv4) bool {
			d := time.Since(start)
			return d > 10*time.Minute && d < 65*time.Minute
		}
		got, err := events(t, ctx, c, Options{Stay: true})
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(got), 3)
		require.Equal(t, "lost", got[1].Event)
		require.Equal(t, "lease", got[len(got)-2].Event)
		require.Equal(t, "renew", got[len(got)-1].Event)
	})
}

func TestMany(t *testing.T) {
	withServer(t, nil, func(t *testing.T, c *cable) {
		got, err := events(t, t.Context(), c, Options{Count: 200, Parallel: 32, Then: []string{"renew"}})
		require.NoError(t, err)
		seen := map[netip.Prefix]int{}
		for _, l := range got {
			if l.Event == "lease" {
				seen[l.Address]++
			}
		}
		require.Len(t, seen, 200)
		require.Equal(t, "summary", got[len(got)-1].Event)
	})
	withServer(t, nil, func(t *testing.T, c *cable) { // 252 addresses: the rest fails, and is counted
		got, err := events(t, t.Context(), c, Options{Count: 255, Parallel: 255, Timeout: 10 * time.Second})
		require.ErrorContains(t, err, "3 of 255 failed")
		require.ErrorIs(t, err, ErrNoAnswer)
		require.Len(t, got, 253)
	})
}

func TestText(t *testing.T) {
	withServer(t, nil, func(t *testing.T, c *cable) {
		var out bytes.Buffer
		require.NoError(t, Run(t.Context(), Options{Interface: "test0", Link: c, ClientID: []byte{0, 'x'}, Then: []string{"release"}}, &out))
		require.Equal(t, `lease      10.77.0.3/24
server     10.77.0.1
router     10.77.0.1
dns        10.77.0.1
domain     porthole.test
mtu        1500
time       1h0m0s, renew after 30m0s, rebind after 52m30s
client-id  0078
release    10.77.0.3/24
server     10.77.0.1
client-id  0078
`, out.String())
	})
}

// Replies that are another's, or not whole, are passed over.
func TestForeignReplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCable(2, 0, 0, 0, 0, 1)
		go func() {
			d := <-c.toServer
			q, _ := dhcpv4.FromBytes(d.b)
			send := func(kind dhcpv4.MessageType, edit func(*dhcpv4.DHCPv4)) {
				m, _ := dhcpv4.NewReplyFromRequest(q, dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(net.IP{10, 77, 0, 9}),
					dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IP{10, 77, 0, 1})), dhcpv4.WithLeaseTime(60))
				edit(m)
				c.reply(m.ToBytes())
				synctest.Wait()
			}
			offer := dhcpv4.MessageTypeOffer
			send(offer, func(m *dhcpv4.DHCPv4) { m.TransactionID[0]++ })
			send(offer, func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = net.HardwareAddr{2, 0, 0, 0, 0, 9} })
			send(offer, func(m *dhcpv4.DHCPv4) { m.Options[61] = []byte{1, 2} })
			send(offer, func(m *dhcpv4.DHCPv4) { delete(m.Options, 54) })
			send(offer, func(m *dhcpv4.DHCPv4) { m.YourIPAddr = net.IPv4zero })
			send(offer, func(m *dhcpv4.DHCPv4) { m.OpCode = dhcpv4.OpcodeBootRequest })
			send(dhcpv4.MessageTypeAck, func(*dhcpv4.DHCPv4) {}) // rapid commit was not asked for
			c.toClient <- []byte("noise")
			send(offer, func(*dhcpv4.DHCPv4) {})
			<-c.toServer
			send(dhcpv4.MessageTypeAck, func(*dhcpv4.DHCPv4) {})
		}()
		got, err := events(t, t.Context(), c, Options{})
		require.NoError(t, err)
		require.Equal(t, "10.77.0.9/32", got[0].Address.String(), "no mask given")
		require.EqualValues(t, 30, got[0].T1S)
		require.Equal(t, "DISCOVER REQUEST", kinds(c))
	})
}

func TestLinkDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCable()
		time.AfterFunc(time.Second, func() { c.Close() })
		_, err := events(t, t.Context(), c, Options{})
		require.ErrorIs(t, err, os.ErrClosed)
	})
}

func TestOptions(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   Options
		want string
	}{
		{"no interface", Options{}, "which interface"},
		{"count", Options{Interface: "x", Count: -1}, "count -1"},
		{"parallel", Options{Interface: "x", Parallel: MaxParallel + 1}, "parallel 4097"},
		{"timeout", Options{Interface: "x", Timeout: -1}, "timeout"},
		{"action", Options{Interface: "x", Then: []string{"dance"}}, `no action "dance"; there are renew, rebind, inform, decline, release`},
		{"client id", Options{Interface: "x", ClientID: []byte{1}}, "client identifier of 1 bytes"},
		{"IPv6", Options{Interface: "x", Request: netip.MustParseAddr("fd77::1")}, "fd77::1 is no IPv4 address"},
		{"host name", Options{Interface: "x", Hostname: strings.Repeat("a", 256)}, "host name"},
		{"many and apply", Options{Interface: "x", Count: 2, Apply: true}, "for one client"},
		{"no such interface", Options{Interface: "no-such-if0"}, "no-such-if0"},
	} {
		t.Run(tt.name, func(t *testing.T) { require.ErrorContains(t, Run(t.Context(), tt.in, io.Discard), tt.want) })
	}
}

func TestClientIDs(t *testing.T) {
	hw := []byte{2, 0, 0, 0, 0, 1}
	a := clientID("ph0", hw)
	require.Equal(t, a, clientID("ph0", hw))
	require.NotEqual(t, a, clientID("ph1", hw))
	require.Len(t, a, 1+4+2+2+6)
	require.Len(t, clientID("ph0", nil), 1+4+2+16)
	require.NotEqual(t, numbered(a, 1), numbered(a, 2))
	require.Equal(t, a, numbered(a, 0))
	require.NotEqual(t, numbered([]byte{0, 1}, 1), numbered([]byte{0, 1}, 2))
}

func TestDatagram(t *testing.T) {
	in := []byte("odd length")[:9]
	b := datagram(in, netip.MustParseAddr("0.0.0.0"), everybody)
	_, ok := payload(b, false)
	require.False(t, ok, "to the server's port: not for a client")
	b = datagram(in, netip.MustParseAddr("10.77.0.1"), netip.MustParseAddrPort("10.77.0.3:68"))
	got, ok := payload(append(b, 0, 0, 0), false) // Ethernet padding
	require.True(t, ok)
	require.Equal(t, in, got)
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 0x20
		if _, ok := payload(bad, false); ok {
			t.Errorf("a changed byte %d goes through", i)
		}
	}
	b[len(b)-1] ^= 1
	_, ok = payload(b, true)
	require.True(t, ok, "the sender's kernel vouches")
}

func FuzzPayload(f *testing.F) {
	f.Add(datagram([]byte("x"), netip.MustParseAddr("10.77.0.1"), netip.MustParseAddrPort("10.77.0.3:68")), true)
	f.Fuzz(func(t *testing.T, b []byte, vouched bool) {
		if p, ok := payload(b, vouched); ok && len(p) > len(b)-ipHead-udpHead {
			t.Fatal("longer than the packet")
		}
	})
}
