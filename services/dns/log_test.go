package dns

import (
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"porthole/services"
	"porthole/services/servicestest"
)

func TestAccessLines(t *testing.T) {
	var out servicestest.Log
	rig := servicestest.Start(t, Service, func(e *services.Env) {
		e.Log = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	udp, err := net.Dial("udp4", rig.Addr[services.UDP(53)].String())
	require.NoError(t, err)
	defer udp.Close()
	udp.SetDeadline(time.Now().Add(patience))
	_, err = udp.Write([]byte{1})
	require.NoError(t, err)
	_, err = exchange(udp, new(mdns.Msg).SetQuestion("Nope.porthole.test.", mdns.TypeA), false)
	require.NoError(t, err)
	_, err = exchange(udp, new(mdns.Msg).SetQuestion("big.porthole.test.", mdns.TypeTXT), false)
	require.NoError(t, err)
	_, err = exchange(dialTCP(t, rig), &mdns.Msg{MsgHdr: mdns.MsgHdr{Id: 1, Opcode: mdns.OpcodeStatus}}, true)
	require.NoError(t, err)
	require.NoError(t, rig.Stop())
	for _, want := range []string{
		`level=DEBUG msg="dropped what is no query" client=127.0.0.1:`,
		`msg=access client=127.0.0.1:`,
		`request="Nope.porthole.test. A" result=NXDOMAIN took=`,
		`request="big.porthole.test. TXT" result=NOERROR`,
		`transport=udp bytes=35 truncated=true`,
		`request="opcode 2" result=NOTIMP`,
		`transport=tcp bytes=12 truncated=false`,
	} {
		assert.Contains(t, out.String(), want)
	}
}

// TestPortTable: names follow the services of the port table, with a new serial.
func TestPortTable(t *testing.T) {
	var mu sync.Mutex
	ports := []services.PortInfo{{Port: services.TCP(80), Service: "http"}}
	env := &services.Env{Host: testHost, Config: defaultConfig(), Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Ports: func() []services.PortInfo { mu.Lock(); defer mu.Unlock(); return ports }}
	s, err := newServer(env)
	require.NoError(t, err)
	r := &responder{opts: s.opts}
	ask := func(name string, typ uint16) *mdns.Msg {
		in, err := new(mdns.Msg).SetQuestion(name, typ).Pack()
		require.NoError(t, err)
		m := new(mdns.Msg)
		require.NoError(t, m.Unpack(r.respond(s.zones.Load(), in, true)))
		return m
	}
	serial := func() uint32 { return ask("porthole.test.", mdns.TypeSOA).Answer[0].(*mdns.SOA).Serial }
	require.Equal(t, uint32(1700000000), serial())
	s.refresh()
	require.Equal(t, uint32(1700000000), serial(), "nothing changed")

	ports = append(ports, services.PortInfo{Port: services.TCP(21), Service: "ftp"}, services.PortInfo{Port: services.TCP(40000), Service: "ftp"},
		services.PortInfo{Port: services.TCP(9), Service: "NS"}, services.PortInfo{Port: services.TCP(10), Service: "big"},
		services.PortInfo{Port: services.TCP(11), Service: "no label"}, services.PortInfo{Port: services.UDP(50000), Service: "high"})
	s.refresh()
	require.Equal(t, uint32(1700000001), serial())
	require.Len(t, ask("ftp.porthole.test.", mdns.TypeA).Answer, 1)
	require.Len(t, ask("_ftp._tcp.porthole.test.", mdns.TypeSRV).Answer, 1, "a passive port is no service")
	require.Len(t, ask("_high._udp.porthole.test.", mdns.TypeSRV).Answer, 1, "unless it is the only one")
	require.Len(t, ask("ns.porthole.test.", mdns.TypeA).Answer, 1)
	require.Len(t, ask("big.porthole.test.", mdns.TypeA).Answer, 0, "the test area keeps its names")

	ports = ports[:1]
	s.refresh()
	require.Equal(t, mdns.RcodeNameError, ask("ftp.porthole.test.", mdns.TypeA).Rcode)
}

// TestFault: a panic while answering costs that answer, over TCP its connection.
func TestFault(t *testing.T) {
	var out servicestest.Log
	rig := start(t, nil)
	s, err := newServer(rig.Env)
	require.NoError(t, err)
	s.env = &services.Env{Log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelError})), Now: time.Now}
	good := s.zones.Load()

	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() { assert.NoError(t, s.serveUDP(t.Context(), pc)) })
	wg.Go(func() { assert.NoError(t, s.serveTCP(t.Context(), ln)) })

	q := new(mdns.Msg).SetQuestion("porthole.test.", mdns.TypeSOA)
	for _, a := range []net.Addr{pc.LocalAddr(), ln.Addr()} {
		c, err := net.Dial(a.Network(), a.String())
		require.NoError(t, err)
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		tcp := a.Network() == "tcp"
		if !tcp {
			s.zones.Store(nil) // a pointer that no server holds
			b, err := q.Pack()
			require.NoError(t, err)
			_, err = c.Write(b)
			require.NoError(t, err)
			require.Eventually(t, func() bool { return out.Has("transport=udp") }, patience, time.Millisecond)
			s.zones.Store(good)
			_, err = exchange(c, q, tcp)
			require.NoError(t, err)
			continue
		}
		s.zones.Store(nil)
		_, err = exchange(c, q, tcp)
		require.Error(t, err)
		s.zones.Store(good)
		again, err := net.Dial(a.Network(), a.String())
		require.NoError(t, err)
		defer again.Close()
		again.SetDeadline(time.Now().Add(patience))
		_, err = exchange(again, q, tcp)
		require.NoError(t, err)
	}
	pc.Close()
	ln.Close()
	s.closeConns()
	wg.Wait()
	require.True(t, out.Has("transport=tcp"))
}
