package dhcp

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/stretchr/testify/require"

	"porthole/services"
)

// A script drives one server: each line a message and, after =>, what comes of it:
//
//	discover mac=1 want=.9 => OFFER 10.77.0.9 to 255.255.255.255:68
//	+30s                      moves the clock
//	release mac=1 ci=.9 => released
//
// Without a reply the right side is the access line's result. Addresses that begin
// with a dot are of 10.77.0.0/24. Clients are mac=N (Ethernet, 02:00:00:00:00:N),
// id=HEX (option 61), hlen0 or zero (no link address). "lease=" after the reply's
// kind shows option 51.
type script struct {
	t   testing.TB
	s   *server
	now time.Time
	xid uint32
}

var testStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func testHost(tap bool) services.Host {
	h := services.Host{
		Name: "porthole", Zone: "porthole.test", MTU: 1500,
		Addr4: netip.MustParsePrefix("10.77.0.1/24"), Peer4: netip.MustParseAddr("10.77.0.2"),
	}
	if tap {
		h.HW = net.HardwareAddr{2, 0, 0, 0, 1, 1}
	}
	return h
}

func testEnv(h services.Host, cfg *Config) *services.Env {
	return &services.Env{
		Host: h, Config: cfg, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: time.Now,
		Ports: func() []services.PortInfo { return []services.PortInfo{{Port: services.UDP(53), Service: "dns"}} },
	}
}

func newScript(t testing.TB, h services.Host, edit func(*Config)) *script {
	t.Helper()
	cfg := defaults().(*Config)
	if edit != nil {
		edit(cfg)
	}
	require.NoError(t, cfg.Validate())
	s, err := newServer(testEnv(h, cfg), cfg)
	require.NoError(t, err)
	return &script{t: t, s: s, now: testStart}
}

func (sc *script) run(text string) {
	sc.t.Helper()
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if d, ok := strings.CutPrefix(line, "+"); ok {
			step, err := time.ParseDuration(d)
			require.NoError(sc.t, err)
			sc.now = sc.now.Add(step)
			continue
		}
		msg, want, ok := strings.Cut(line, "=>")
		require.True(sc.t, ok, line)
		q, from := sc.build(strings.TrimSpace(msg))
		a := sc.s.handle(q, from, sc.now)
		require.Equal(sc.t, strings.TrimSpace(want), sc.show(a, q, strings.Contains(want, "lease=")), line)
	}
}

func (sc *script) addr(s string) net.IP {
	if strings.HasPrefix(s, ".") {
		s = "10.77.0" + s
	}
	a, err := netip.ParseAddr(s)
	require.NoError(sc.t, err)
	return a.AsSlice()
}

// build makes the message of one line.
func (sc *script) build(line string) ([]byte, netip.AddrPort) {
	f := strings.Fields(line)
	sc.xid++
	xid := sc.xid
	m, err := dhcpv4.New()
	require.NoError(sc.t, err)
	kinds := map[string]dhcpv4.MessageType{
		"discover": dhcpv4.MessageTypeDiscover, "request": dhcpv4.MessageTypeRequest, "decline": dhcpv4.MessageTypeDecline,
		"release": dhcpv4.MessageTypeRelease, "inform": dhcpv4.MessageTypeInform, "offer": dhcpv4.MessageTypeOffer,
	}
	if f[0] != "bootp" {
		require.Contains(sc.t, kinds, f[0])
		m.UpdateOption(dhcpv4.OptMessageType(kinds[f[0]]))
	}
	from := netip.MustParseAddrPort("0.0.0.0:68")
	for _, w := range f[1:] {
		k, v, _ := strings.Cut(w, "=")
		switch k {
		case "mac":
			n, err := strconv.ParseUint(v, 10, 16)
			require.NoError(sc.t, err)
			m.ClientHWAddr = net.HardwareAddr{2, 0, 0, 0, byte(n >> 8), byte(n)}
		case "id":
			raw, err := hex.DecodeString(v)
			require.NoError(sc.t, err)
			m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientIdentifier, raw))
		case "hlen0":
			m.ClientHWAddr, m.HWType = nil, iana.HWType(254)
		case "zero":
		case "xid":
			n, err := strconv.ParseUint(v, 10, 32)
			require.NoError(sc.t, err)
			xid = uint32(n)
		case "want":
			m.UpdateOption(dhcpv4.OptRequestedIPAddress(sc.addr(v)))
		case "ci":
			m.ClientIPAddr = sc.addr(v)
		case "gi":
			m.GatewayIPAddr = sc.addr(v)
		case "from":
			a, _ := netip.AddrFromSlice(sc.addr(v))
			from = netip.AddrPortFrom(a, from.Port())
		case "sport":
			n, _ := strconv.ParseUint(v, 10, 16)
			from = netip.AddrPortFrom(from.Addr(), uint16(n))
		case "server":
			m.UpdateOption(dhcpv4.OptServerIdentifier(sc.addr(v)))
		case "lease":
			d, err := time.ParseDuration(v)
			require.NoError(sc.t, err)
			m.UpdateOption(dhcpv4.OptIPAddressLeaseTime(d))
		case "bcast":
			m.SetBroadcast()
		case "rapid":
			m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(rapidCommit), nil))
		case "opt": // opt=CODE:HEX
			c, raw, _ := strings.Cut(v, ":")
			n, err := strconv.ParseUint(c, 10, 8)
			require.NoError(sc.t, err)
			b, err := hex.DecodeString(raw)
			require.NoError(sc.t, err)
			m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(n), b))
		default:
			sc.t.Fatalf("unknown word %q in %q", w, line)
		}
	}
	binary.BigEndian.PutUint32(m.TransactionID[:], xid)
	return m.ToBytes(), from
}

// show is the right side of a line, and checks what every reply owes.
func (sc *script) show(a answer, q []byte, lease bool) string {
	if a.payload == nil {
		return a.result
	}
	m := checkReply(sc.t, a, q)
	out := m.MessageType().String()
	if lease {
		out += fmt.Sprintf(" lease=%v", m.IPAddressLeaseTime(0))
	}
	if !m.YourIPAddr.IsUnspecified() {
		out += " " + m.YourIPAddr.String()
	}
	out += " to " + a.to.String()
	if a.hw != nil {
		out += " at " + a.hw.String()
	}
	return out
}

// checkReply asserts what holds for every reply to q (RFC 2131, table 3).
func checkReply(t testing.TB, a answer, q []byte) *dhcpv4.DHCPv4 {
	t.Helper()
	require.GreaterOrEqual(t, len(a.payload), minMessage)
	m, err := dhcpv4.FromBytes(a.payload)
	require.NoError(t, err)
	require.Equal(t, dhcpv4.OpcodeBootReply, m.OpCode)
	require.Equal(t, q[1:3], a.payload[1:3], "htype, hlen")
	require.Equal(t, q[4:8], a.payload[4:8], "xid")
	require.Equal(t, make([]byte, 2), a.payload[8:10], "secs")
	hlen := int(q[2])
	require.Equal(t, q[28:28+hlen], a.payload[28:28+hlen], "chaddr")
	require.Equal(t, q[24:28], a.payload[24:28], "giaddr")
	req, err := parse(q, netip.AddrPort{}, 1500)
	require.NoError(t, err)
	require.Equal(t, req.clientID, m.Options.Get(dhcpv4.OptionClientIdentifier), "option 61 is echoed (RFC 6842)")
	require.Equal(t, req.get(dhcpv4.OptionRelayAgentInformation.Code()), m.Options.Get(dhcpv4.OptionRelayAgentInformation), "option 82 is echoed (RFC 3046)")
	require.True(t, m.Options.Has(dhcpv4.OptionServerIdentifier))
	lease := m.Options.Has(dhcpv4.OptionIPAddressLeaseTime)
	switch kind := m.MessageType(); {
	case kind == dhcpv4.MessageTypeNak:
		require.True(t, m.YourIPAddr.IsUnspecified())
		require.True(t, m.ClientIPAddr.IsUnspecified())
		require.False(t, lease || m.Options.Has(dhcpv4.OptionSubnetMask))
	case req.kind == dhcpv4.MessageTypeInform:
		require.True(t, m.YourIPAddr.IsUnspecified())
		require.False(t, lease || m.Options.Has(dhcpv4.OptionRenewTimeValue))
	default:
		require.True(t, lease)
		d := m.IPAddressLeaseTime(0)
		require.Equal(t, (d / 2).Truncate(time.Second), m.IPAddressRenewalTime(0))
		require.Equal(t, (d * 7 / 8).Truncate(time.Second), m.IPAddressRebindingTime(0))
		require.False(t, m.YourIPAddr.IsUnspecified())
	}
	return m
}
