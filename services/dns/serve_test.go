package dns

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"porthole/services"
	"porthole/services/servicestest"
)

// start serves on loopback with edit made to the configuration.
func start(t testing.TB, edit func(*Config)) *servicestest.Rig {
	return servicestest.Start(t, Service, func(e *services.Env) {
		if edit != nil {
			edit(e.Config.(*Config))
		}
	})
}

const patience = servicestest.Patience

func dialTCP(t *testing.T, rig *servicestest.Rig) net.Conn {
	t.Helper()
	c, err := rig.Env.Net.Dial(t.Context(), "tcp", 0, rig.Addr[services.TCP(53)])
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return c
}

// framed is a query with its length before it.
func framed(t testing.TB, id uint16, name string, typ uint16) []byte {
	t.Helper()
	q := new(mdns.Msg).SetQuestion(name, typ)
	q.Id = id
	b, err := q.Pack()
	require.NoError(t, err)
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

func readFramed(t testing.TB, r io.Reader) *mdns.Msg {
	t.Helper()
	var head [2]byte
	_, err := io.ReadFull(r, head[:])
	require.NoError(t, err)
	b := make([]byte, binary.BigEndian.Uint16(head[:]))
	_, err = io.ReadFull(r, b)
	require.NoError(t, err)
	m := new(mdns.Msg)
	require.NoError(t, m.Unpack(b))
	return m
}

func TestProbe(t *testing.T) {
	for name, edit := range map[string]func(*Config){
		"built-in": nil,
		"no zones": func(c *Config) { c.Builtin = false },
		"zone file": func(c *Config) {
			c.Builtin = false
			c.Zones = []ZoneFile{{"example.org", zoneFile(t, "ok.zone", "$TTL 60\n@ SOA ns h 1 2 3 4 5\n@ NS ns\nns A 192.0.2.1\n")}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			rig := start(t, edit)
			for _, p := range Service.Ports {
				env := *rig.Env
				ap := rig.Addr[p]
				env.Host.Addr4 = netipPrefix(ap.Addr().String() + "/8")
				require.NoError(t, probe(t.Context(), &env, services.Port{Proto: p.Proto, Number: ap.Port()}))
			}
		})
	}
	t.Run("nobody answers", func(t *testing.T) {
		pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
		require.NoError(t, err)
		defer pc.Close()
		rig := start(t, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		require.Error(t, probe(ctx, rig.Env, services.UDP(uint16(pc.LocalAddr().(*net.UDPAddr).Port))))
	})
}

// TestPipelined: many queries in one segment, the last of them cut in two.
func TestPipelined(t *testing.T) {
	c := dialTCP(t, start(t, nil))
	var all []byte
	for i := range 300 {
		all = append(all, framed(t, uint16(i), "www.porthole.test.", mdns.TypeA)...)
	}
	last := framed(t, 300, "huge.porthole.test.", mdns.TypeTXT)
	_, err := c.Write(append(all, last[:9]...))
	require.NoError(t, err)
	for i := range 300 {
		m := readFramed(t, c)
		require.Equal(t, uint16(i), m.Id)
		require.Len(t, m.Answer, 1)
	}
	_, err = c.Write(last[9:])
	require.NoError(t, err)
	require.Len(t, readFramed(t, c).Answer, 16)

	// Half closed: what was asked before the FIN is answered after it.
	_, err = c.Write(framed(t, 7, "porthole.test.", mdns.TypeSOA))
	require.NoError(t, err)
	require.NoError(t, c.(*net.TCPConn).CloseWrite())
	require.Equal(t, uint16(7), readFramed(t, c).Id)
	_, err = c.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
}

// TestTCPEnds: each way in which a connection comes to an end on our side, when, and
// the messages that do not end it. In memory, with a clock of its own: no machine is
// too slow for it.
func TestTCPEnds(t *testing.T) {
	const idle, message = 10 * time.Second, 3 * time.Second
	config := func(c *Config) { c.TCPIdle, c.TCPMessage = idle, message }
	q := framed(t, 1, "porthole.test.", mdns.TypeSOA)
	for _, tt := range []struct {
		name    string
		config  func(*Config)
		send    []byte
		replies int
		after   time.Duration
	}{
		{"idle from the start", config, nil, 0, idle},
		{"idle after a query", config, q, 1, idle},
		{"half a length", config, q[:1], 0, message},
		{"length alone", config, q[:2], 0, message},
		{"half a message", config, q[:9], 0, message},
		{"half a message after a whole one", config, append(bytes.Clone(q), q[:9]...), 1, message},
		{"empty message", config, append(bytes.Clone(q), 0, 0), 1, 0},
		{"less than a header", config, append(bytes.Clone(q), 0, 3, 1, 2, 3), 1, 0},
		{"a reply is skipped", config, append(append(binary.BigEndian.AppendUint16(nil, 12), unhex(t, "1234 8000 0000 0000 0000 0000")...), q...), 1, idle},
		{"garbage is answered", config, append([]byte{0, 13}, unhex(t, "1234 0000 0001 0000 0000 0000 ff")...), 1, idle},
		{"too many queries", func(c *Config) { c.TCPQueries = 2 }, bytes.Repeat(q, 3), 2, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := dialTCP(t, servicestest.StartOn(t, servicestest.NewMemory(), Service, func(e *services.Env) { tt.config(e.Config.(*Config)) }))
				began := time.Now()
				_, err := c.Write(tt.send)
				require.NoError(t, err)
				for range tt.replies {
					readFramed(t, c)
				}
				n, err := c.Read(make([]byte, 1))
				require.Zero(t, n)
				require.ErrorIs(t, err, io.EOF)
				require.Equal(t, tt.after, time.Since(began))
			})
		})
	}
}

// TestDeafClient: a client that asks and never reads is cut off, and nobody else
// notices.
func TestDeafClient(t *testing.T) {
	rig := start(t, func(c *Config) { c.TCPMessage = 200 * time.Millisecond })
	c := dialTCP(t, rig)
	require.NoError(t, c.(*net.TCPConn).SetReadBuffer(4096))
	q := bytes.Repeat(framed(t, 1, "huge.porthole.test.", mdns.TypeTXT), 1000)
	for range 1000 {
		if _, err := c.Write(q); err != nil {
			break
		}
	}
	_, err := c.Write(q)
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "still open")

	other := dialTCP(t, rig)
	_, err = other.Write(framed(t, 2, "porthole.test.", mdns.TypeSOA))
	require.NoError(t, err)
	require.Equal(t, uint16(2), readFramed(t, other).Id)
}

// TestTooManyConnections: one more than the limit ends the one idle longest.
func TestTooManyConnections(t *testing.T) {
	rig := start(t, func(c *Config) { c.TCPConnections = 3 })
	ask := func(c net.Conn, id uint16) {
		_, err := c.Write(framed(t, id, "porthole.test.", mdns.TypeSOA))
		require.NoError(t, err)
		require.Equal(t, id, readFramed(t, c).Id)
	}
	var cs []net.Conn
	for i := range 3 {
		c := dialTCP(t, rig)
		ask(c, uint16(i))
		cs = append(cs, c)
	}
	ask(cs[0], 10) // now the second is the idlest
	fourth := dialTCP(t, rig)
	ask(fourth, 11)
	_, err := cs[1].Read(make([]byte, 1))
	require.Error(t, err)
	ask(cs[0], 12)
	ask(cs[2], 13)
}

// TestQueryEndsIdleness: a client that always has a query waiting is not idle, nor is one
// whose answer takes its time.
func TestQueryEndsIdleness(t *testing.T) {
	now := time.Unix(1000, 0)
	cfg := defaultConfig()
	s := &server{env: &services.Env{Now: func() time.Time { return now }}, cfg: cfg}
	c := &conn{last: now}
	in := bufio.NewReader(bytes.NewReader(append(framed(t, 1, "porthole.test.", mdns.TypeSOA), framed(t, 2, "porthole.test.", mdns.TypeSOA)...)))
	_, err := in.Peek(1) // both are here
	require.NoError(t, err)
	for range 2 {
		now = now.Add(time.Minute)
		_, err = s.readMessage(c, in, bufio.NewWriter(io.Discard), nil)
		require.NoError(t, err)
		require.Equal(t, now, c.last)
	}
}

// TestStopUnderTraffic: Serve returns while clients ask; nothing is left behind.
func TestStopUnderTraffic(t *testing.T) {
	rig := start(t, nil)
	var wg sync.WaitGroup
	var cs []net.Conn
	answered := make(chan struct{}, 1024)
	for _, p := range []services.Port{services.UDP(53), services.TCP(53), services.UDP(53), services.TCP(53)} {
		c, err := net.Dial(p.Proto, rig.Addr[p].String())
		require.NoError(t, err)
		cs = append(cs, c)
		wg.Go(func() {
			for {
				if _, err := exchange(c, new(mdns.Msg).SetQuestion("many.porthole.test.", mdns.TypeA), p.Proto == "tcp"); err != nil {
					return
				}
				select {
				case answered <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 100 {
		<-answered
	}
	require.NoError(t, rig.Stop())
	for _, c := range cs { // who asked over UDP would wait for ever
		c.Close()
	}
	wg.Wait()
}

// plain hides what *net.UDPConn offers beyond a net.PacketConn.
type plain struct{ net.PacketConn }

// TestUDP: over a socket of either shape, and what gets no answer gets none.
func TestUDP(t *testing.T) {
	for name, wrap := range map[string]func(net.PacketConn) net.PacketConn{
		"kernel":    func(pc net.PacketConn) net.PacketConn { return pc },
		"any other": func(pc net.PacketConn) net.PacketConn { return plain{pc} },
	} {
		t.Run(name, func(t *testing.T) {
			rig := servicestest.Start(t, Service, func(e *services.Env) { e.UDP[0] = wrap(e.UDP[0]) })
			c, err := net.Dial("udp4", rig.Addr[services.UDP(53)].String())
			require.NoError(t, err)
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			for _, silent := range []string{``, `12`, `1234 8000 0001 0000 0000 0000`} {
				_, err = c.Write(unhex(t, silent))
				require.NoError(t, err)
			}
			// The first reply is to the first query: the datagrams before it had none.
			m, err := exchange(c, new(mdns.Msg).SetQuestion("porthole.test.", mdns.TypeSOA), false)
			require.NoError(t, err)
			require.Len(t, m.Answer, 1)
			// A query longer than the room for one is broken.
			_, err = c.Write(append(unhex(t, `4321 0000 0001 0000 0000 0000`+qSOA), make([]byte, 8000)...))
			require.NoError(t, err)
			b := make([]byte, 100)
			n, err := c.Read(b)
			require.NoError(t, err)
			require.Equal(t, unhex(t, `4321 8001 0001 0000 0000 0000`+qSOA), b[:n])
		})
	}
}

// oneShot is a socket that remembers where it was told to write.
type oneShot struct{ to []netip.AddrPort }

func (c *oneShot) ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error) {
	return 0, netip.AddrPort{}, net.ErrClosed
}

func (c *oneShot) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	c.to = append(c.to, to)
	return len(b), nil
}

// TestPortZero: nothing is sent to port 0, which is nobody's.
func TestPortZero(t *testing.T) {
	s, err := newServer(start(t, nil).Env)
	require.NoError(t, err)
	q, err := new(mdns.Msg).SetQuestion("porthole.test.", mdns.TypeSOA).Pack()
	require.NoError(t, err)
	var c oneShot
	for _, from := range []string{"192.0.2.1:0", "[2001:db8::1]:0", "192.0.2.1:1"} {
		s.answerUDP(t.Context(), &c, &responder{opts: s.opts}, q, netip.MustParseAddrPort(from))
	}
	require.Equal(t, []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:1")}, c.to)
	require.Equal(t, uint64(2), s.dropped.Load())
}
