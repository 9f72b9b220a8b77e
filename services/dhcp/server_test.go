package dhcp

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/stretchr/testify/require"
)

const all = "255.255.255.255:68"

func ranges(list ...string) func(*Config) {
	return func(c *Config) {
		c.Pool = nil
		for _, s := range list {
			var r Range
			if err := r.UnmarshalText([]byte(s)); err != nil {
				panic(err)
			}
			c.Pool = append(c.Pool, r)
		}
	}
}

func both(fs ...func(*Config)) func(*Config) {
	return func(c *Config) {
		for _, f := range fs {
			f(c)
		}
	}
}

func TestScripts(t *testing.T) {
	tests := []struct {
		name string
		tap  bool
		edit func(*Config)
		in   string
	}{
		{"four messages", false, nil, `
			discover mac=1 => OFFER lease=1h0m0s 10.77.0.3 to 255.255.255.255:68
			request mac=1 want=.3 server=.1 => ACK lease=1h0m0s 10.77.0.3 to 255.255.255.255:68
			discover mac=2 => OFFER 10.77.0.4 to 255.255.255.255:68
			discover mac=1 => OFFER 10.77.0.3 to 255.255.255.255:68`},
		{"a repeated question gets the same answer", false, nil, `
			discover mac=1 xid=7 => OFFER 10.77.0.3 to 255.255.255.255:68
			discover mac=1 xid=7 => OFFER 10.77.0.3 to 255.255.255.255:68
			request mac=1 xid=7 want=.3 server=.1 => ACK 10.77.0.3 to 255.255.255.255:68
			request mac=1 xid=7 want=.3 server=.1 => ACK 10.77.0.3 to 255.255.255.255:68`},
		{"where replies go on Ethernet", true, nil, `
			discover mac=1 => OFFER 10.77.0.3 to 10.77.0.3:68 at 02:00:00:00:00:01
			discover mac=1 bcast => OFFER 10.77.0.3 to 255.255.255.255:68
			request mac=1 want=.3 server=.1 => ACK 10.77.0.3 to 10.77.0.3:68 at 02:00:00:00:00:01
			request mac=1 ci=.3 from=.3 => ACK 10.77.0.3 to 10.77.0.3:68
			request mac=1 ci=.3 from=.3 bcast => ACK 10.77.0.3 to 10.77.0.3:68   # ciaddr decides before the flag
			request mac=1 want=.9 => NAK to 255.255.255.255:68
			discover id=0102 zero => OFFER 10.77.0.4 to 255.255.255.255:68
			discover id=0103 hlen0 => OFFER 10.77.0.5 to 255.255.255.255:68`},
		{"the source port of the client's own address is believed", false, nil, `
			inform mac=1 ci=.2 from=.2 sport=5000 => ACK to 10.77.0.2:5000
			inform mac=1 ci=.2 from=.9 sport=5000 => ACK to 10.77.0.2:68`},
		{"the peer and the host are not given out", false, ranges("10.77.0.1-10.77.0.4"), `
			discover mac=1 => OFFER 10.77.0.3 to 255.255.255.255:68
			discover mac=2 want=.2 => OFFER 10.77.0.4 to 255.255.255.255:68
			discover mac=3 want=.1 => no free address`},
		{"a requested address is honoured when free", false, nil, `
			discover mac=1 want=.77 => OFFER 10.77.0.77 to 255.255.255.255:68
			discover mac=2 want=.77 => OFFER 10.77.0.3 to 255.255.255.255:68
			discover mac=3 want=10.78.0.1 => OFFER 10.77.0.4 to 255.255.255.255:68
			discover mac=4 want=.255 => OFFER 10.77.0.5 to 255.255.255.255:68
			discover mac=5 want=.0 => OFFER 10.77.0.6 to 255.255.255.255:68`},
		{"an offer is held for its time", false, ranges("10.77.0.10"), `
			discover mac=1 => OFFER 10.77.0.10 to 255.255.255.255:68
			discover mac=2 => no free address
			+29s
			discover mac=2 => no free address
			+1s
			discover mac=2 => OFFER 10.77.0.10 to 255.255.255.255:68
			request mac=1 want=.10 server=.1 => NAK to 255.255.255.255:68
			request mac=2 want=.10 server=.1 => ACK 10.77.0.10 to 255.255.255.255:68`},
		{"a client that chose another server frees the offer", false, ranges("10.77.0.10"), `
			discover mac=1 => OFFER 10.77.0.10 to 255.255.255.255:68
			request mac=1 want=10.9.9.9 server=.9 => client chose server 10.77.0.9
			discover mac=2 => OFFER 10.77.0.10 to 255.255.255.255:68`},
		{"but not a lease", false, ranges("10.77.0.10"), `
			request mac=1 want=.10 server=.1 => ACK 10.77.0.10 to 255.255.255.255:68
			discover mac=1 => OFFER 10.77.0.10 to 255.255.255.255:68
			request mac=1 want=10.9.9.9 server=.9 => client chose server 10.77.0.9
			discover mac=2 => no free address`},
		{"selecting another address than the offered one", false, nil, `
			discover mac=1 => OFFER 10.77.0.3 to 255.255.255.255:68
			request mac=1 want=.4 server=.1 => NAK to 255.255.255.255:68
			request mac=1 want=.3 server=.1 => ACK 10.77.0.3 to 255.255.255.255:68`},
		{"selecting after the offer ended, still free", false, nil, `
			discover mac=1 => OFFER 10.77.0.3 to 255.255.255.255:68
			+1m
			request mac=1 want=.3 server=.1 => ACK 10.77.0.3 to 255.255.255.255:68`},
		{"selecting what cannot be had", false, nil, `
			request mac=1 want=.1 server=.1 => NAK to 255.255.255.255:68
			request mac=1 want=.2 server=.1 => NAK to 255.255.255.255:68
			request mac=1 want=10.78.0.3 server=.1 => NAK to 255.255.255.255:68
			request mac=1 server=.1 => names no address`},
		{"init-reboot", false, nil, `
			request mac=1 want=.3 server=.1 => ACK 10.77.0.3 to 255.255.255.255:68
			request mac=1 want=.3 => ACK 10.77.0.3 to 255.255.255.255:68
			request mac=1 want=.4 => NAK to 255.255.255.255:68
			request mac=1 want=192.168.1.5 => NAK to 255.255.255.255:68
			request mac=2 want=.3 => unknown client
			request mac=2 want=.4 => unknown client
			request mac=2 want=192.168.1.5 => NAK to 255.255.255.255:68
			request mac=2 => names no address`},
		{"init-reboot, not authoritative", false, func(c *Config) { c.Authoritative = false }, `
			request mac=1 want=.3 server=.1 => ACK 10.77.0.3 to 255.255.255.255:68
			request mac=1 want=192.168.1.5 => NAK to 255.255.255.255:68
			request mac=2 want=192.168.1.5 => unknown client`},
		{"renewing and rebinding", false, nil, `
			request mac=1 want=.3 server=.1 => ACK 10.77.0.3 to 255.255.255.255:68
			+50m
			request mac=1 ci=.3 from=.3 => ACK lease=1h0m0s 10.77.0.3 to 10.77.0.3:68
			+50m
			request mac=1 ci=.3 from=.3 => ACK 10.77.0.3 to 10.77.0.3:68
			request mac=1 ci=.4 from=.4 => NAK to 255.255.255.255:68
			request mac=2 ci=.4 from=.4 => unknown client
			request mac=2 ci=.3 from=.3 => NAK to 255.255.255.255:68   # another's lease
			request mac=1 ci=192.168.1.5 from=192.168.1.5 => NAK to 255.255.255.255:68`},
		{"a lease ends", false, ranges("10.77.0.10"), `
			request mac=1 want=.10 server=.1 => ACK 10.77.0.10 to 255.255.255.255:68
			+59m59s
			discover mac=2 => no free address
			+1s
			discover mac=2 => OFFER 10.77.0.10 to 255.255.255.255:68
			request mac=1 ci=.10 from=.10 => unknown client`},
		{"an ended lease starts again when nobody took it", false, nil, `
			request mac=1 want=.10 server=.1 => ACK 10.77.0.10 to 255.255.255.255:68
			+2h
			request mac=1 ci=.10 from=.10 => ACK 10.77.0.10 to 10.77.0.10:68
			+2h
			discover mac=1 => OFFER 10.77.0.10 to 255.255.255.255:68`},
		{"an offer of a running lease does not shorten it", false, ranges("10.77.0.10"), `
			request mac=1 want=.10 server=.1 => ACK 10.77.0.10 to 255.255.255.255:68
			discover mac=1 => OFFER 10.77.0.10 to 255.255.255.255:68
			+40m
			discover mac=2 => no free address`},
		{"new clients get fresh addresses, then the one free for longest", false, ranges("10.77.0.10-10.77.0.12"), `
			request mac=1 want=.11 server=.1 => ACK 10.77.0.11 to 255.255.255.255:68
			request mac=2 want=.12 server=.1 => ACK 10.77.0.12 to 255.255.255.255:68
			+1m
			release mac=2 ci=.12 server=.1 => released
			+1m
			release mac=1 ci=.11 server=.1 => released
			discover mac=3 => OFFER 10.77.0.10 to 255.255.255.255:68
			discover mac=4 => OFFER 10.77.0.12 to 255.255.255.255:68
			discover mac=1 => OFFER 10.77.0.11 to 255.255.255.255:68
			discover mac=2 => no free address`},
		{"release", false, ranges("10.77.0.10"), `
			request mac=1 want=.10 server=.1 => ACK 10.77.0.10 to 255.255.255.255:68
			release mac=2 ci=.10 server=.1 => not this client's address
			release mac=1 ci=.10 server=.9 => meant for server 10.77.0.9
			release mac=1 ci=.11 server=.1 => not this client's address
			discover mac=2 => no free address
			release mac=1 ci=.10 server=.1 => released
			release mac=1 ci=.10 server=.1 => not this client's address
			discover mac=2 => OFFER 10.77.0.10 to 255.255.255.255:68`},
		{"decline", false, ranges("10.77.0.10-10.77.0.13"), `
			request mac=1 want=.10 server=.1 => ACK 10.77.0.10 to 255.255.255.255:68
			decline mac=2 want=.10 server=.1 => not this client's address
			decline mac=1 want=.10 server=.9 => meant for server 10.77.0.9
			decline mac=1 server=.1 => not this client's address
			decline mac=1 want=.10 server=.1 => quarantined
			discover mac=1 want=.10 => OFFER 10.77.0.11 to 255.255.255.255:68
			+9m59s
			discover mac=3 want=.10 => OFFER 10.77.0.12 to 255.255.255.255:68
			+1s
			discover mac=4 want=.10 => OFFER 10.77.0.10 to 255.255.255.255:68`},
		{"declining everything does not use the pool up", false, ranges("10.77.0.10-10.77.0.13"), `
			request mac=1 want=.10 server=.1 => ACK 10.77.0.10 to 255.255.255.255:68
			decline mac=1 want=.10 server=.1 => quarantined
			request mac=1 want=.11 server=.1 => ACK 10.77.0.11 to 255.255.255.255:68
			decline mac=1 want=.11 server=.1 => quarantined
			discover mac=9 want=.10 => OFFER 10.77.0.12 to 255.255.255.255:68   # both bounds hold
			request mac=1 want=.13 server=.1 => ACK 10.77.0.13 to 255.255.255.255:68
			decline mac=1 want=.13 server=.1 => quarantined
			discover mac=8 want=.10 => OFFER 10.77.0.10 to 255.255.255.255:68   # the oldest came back
			discover mac=7 => no free address`},
		{"inform", false, nil, `
			inform mac=1 ci=.2 from=.2 => ACK to 10.77.0.2:68
			inform mac=1 ci=.1 from=.1 => ACK to 10.77.0.1:68
			inform mac=1 from=.50 => ACK to 10.77.0.50:68
			inform mac=1 => not an address of this link
			inform mac=1 ci=.255 from=.9 => not an address of this link
			inform mac=1 ci=192.168.1.5 from=192.168.1.5 => not an address of this link
			discover mac=2 want=.50 => OFFER 10.77.0.50 to 255.255.255.255:68`},
		{"lease times within bounds", false, nil, `
			discover mac=1 lease=2h => OFFER lease=2h0m0s 10.77.0.3 to 255.255.255.255:68
			request mac=1 want=.3 server=.1 => ACK lease=2h0m0s 10.77.0.3 to 255.255.255.255:68
			request mac=1 ci=.3 from=.3 => ACK lease=1h0m0s 10.77.0.3 to 10.77.0.3:68
			request mac=1 ci=.3 from=.3 lease=1s => ACK lease=1m0s 10.77.0.3 to 10.77.0.3:68
			request mac=1 ci=.3 from=.3 lease=0s => ACK lease=1m0s 10.77.0.3 to 10.77.0.3:68
			request mac=1 ci=.3 from=.3 opt=51:ffffffff => ACK lease=24h0m0s 10.77.0.3 to 10.77.0.3:68
			discover mac=2 opt=51:ff => option 51 of 1 bytes`},
		{"a client identifier names the client, whatever its MAC", true, nil, `
			discover mac=1 id=aa01 => OFFER 10.77.0.3 to 10.77.0.3:68 at 02:00:00:00:00:01
			discover mac=2 id=aa01 => OFFER 10.77.0.3 to 10.77.0.3:68 at 02:00:00:00:00:02
			discover mac=1 id=aa02 => OFFER 10.77.0.4 to 10.77.0.4:68 at 02:00:00:00:00:01
			discover mac=1 => OFFER 10.77.0.5 to 10.77.0.5:68 at 02:00:00:00:00:01`},
		{"clients without any identity", false, nil, `
			discover zero xid=1 => OFFER 10.77.0.3 to 255.255.255.255:68
			discover zero xid=2 => OFFER 10.77.0.4 to 255.255.255.255:68
			discover hlen0 xid=1 => OFFER 10.77.0.3 to 255.255.255.255:68
			request zero xid=1 want=.3 server=.1 => ACK 10.77.0.3 to 255.255.255.255:68
			request zero xid=9 ci=.3 from=.3 => ACK 10.77.0.3 to 10.77.0.3:68
			request zero xid=9 want=.3 => ACK 10.77.0.3 to 255.255.255.255:68
			request mac=1 xid=9 ci=.3 from=.3 => NAK to 255.255.255.255:68
			release zero xid=10 ci=.3 server=.1 => released
			request mac=1 want=.50 server=.1 => ACK 10.77.0.50 to 255.255.255.255:68
			request zero xid=11 want=.50 => unknown client
			release zero xid=11 ci=.50 server=.1 => not this client's address`},
		{"reservations", false, both(ranges("10.77.0.10-10.77.0.11"), func(c *Config) {
			c.Static = []Static{
				{MAC: MAC("\x02\x00\x00\x00\x00\x01"), Address: netip.MustParseAddr("10.77.0.10"), Hostname: "printer"},
				{ClientID: "\xaa\x01", Address: netip.MustParseAddr("10.77.0.200")},
			}
		}), `
			discover mac=2 => OFFER 10.77.0.11 to 255.255.255.255:68
			discover mac=3 want=.10 => no free address
			request mac=3 want=.10 server=.1 => NAK to 255.255.255.255:68
			request mac=1 want=.10 => ACK 10.77.0.10 to 255.255.255.255:68    # known from the configuration
			request mac=1 id=0505 ci=.10 from=.10 => ACK 10.77.0.10 to 10.77.0.10:68
			request mac=1 want=.11 => NAK to 255.255.255.255:68
			discover mac=9 id=aa01 want=.11 => OFFER 10.77.0.200 to 255.255.255.255:68
			request mac=9 id=aa01 want=.200 server=.1 => ACK 10.77.0.200 to 255.255.255.255:68
			release mac=9 id=aa01 ci=.200 server=.1 => released
			request mac=4 want=.200 server=.1 => NAK to 255.255.255.255:68`},
		{"a declined reservation is served from the pool meanwhile", false, both(ranges("10.77.0.20-10.77.0.21"), func(c *Config) {
			c.Static = []Static{{MAC: MAC("\x02\x00\x00\x00\x00\x01"), Address: netip.MustParseAddr("10.77.0.10")}}
		}), `
			request mac=1 want=.10 server=.1 => ACK 10.77.0.10 to 255.255.255.255:68
			decline mac=1 want=.10 server=.1 => quarantined
			discover mac=1 => OFFER 10.77.0.20 to 255.255.255.255:68
			request mac=1 want=.20 server=.1 => ACK 10.77.0.20 to 255.255.255.255:68
			+10m
			request mac=1 ci=.20 from=.20 => NAK to 255.255.255.255:68
			discover mac=1 => OFFER 10.77.0.10 to 255.255.255.255:68
			discover mac=2 => OFFER 10.77.0.21 to 255.255.255.255:68
			discover mac=3 => OFFER 10.77.0.20 to 255.255.255.255:68`},
		{"rapid commit", false, func(c *Config) { c.RapidCommit = true }, `
			discover mac=1 rapid => ACK lease=1h0m0s 10.77.0.3 to 255.255.255.255:68
			request mac=1 ci=.3 from=.3 => ACK 10.77.0.3 to 10.77.0.3:68
			discover mac=2 => OFFER 10.77.0.4 to 255.255.255.255:68`},
		{"rapid commit is off by default", false, nil, `
			discover mac=1 rapid => OFFER 10.77.0.3 to 255.255.255.255:68`},
		{"relayed", true, func(c *Config) {
			c.Subnets = []Subnet{{Prefix: netip.MustParsePrefix("10.80.0.0/24")}}
		}, `
			discover mac=1 gi=10.80.0.1 => OFFER 10.80.0.2 to 10.80.0.1:67
			request mac=1 gi=10.80.0.1 want=10.80.0.2 server=.1 => ACK 10.80.0.2 to 10.80.0.1:67
			request mac=1 gi=10.80.0.1 want=10.77.0.9 => NAK to 10.80.0.1:67
			request mac=1 ci=10.80.0.2 from=10.80.0.2 => ACK 10.80.0.2 to 10.80.0.2:68   # renewing goes past the relay
			inform mac=1 gi=10.80.0.1 ci=10.80.0.2 => ACK to 10.80.0.2:68
			discover mac=2 gi=10.81.0.1 => no pool for this link
			discover mac=2 gi=.9 => OFFER 10.77.0.3 to 10.77.0.9:67
			discover mac=1 => OFFER 10.77.0.4 to 10.77.0.4:68 at 02:00:00:00:00:01        # the same client on the other link
			discover mac=3 gi=.9 opt=82:05040a500000 => OFFER 10.80.0.3 to 10.77.0.9:67   # RFC 3527
			discover mac=4 gi=.9 opt=118:0a500000 => OFFER 10.80.0.4 to 10.77.0.9:67      # RFC 3011
			discover mac=5 gi=.9 opt=118:0a510000 => no pool for this link
			discover mac=6 gi=224.0.0.1 => address field holds no unicast address`},
		{"the relay stands in for the server", false, nil, `
			discover mac=1 gi=.9 opt=82:0b040a4d0009 => OFFER 10.77.0.3 to 10.77.0.9:67
			request mac=1 gi=.9 want=.3 server=.9 opt=82:0b040a4d0009 => ACK 10.77.0.3 to 10.77.0.9:67
			request mac=1 gi=.9 want=.3 server=.9 => client chose server 10.77.0.9`},
		{"exhaustion is silence", false, ranges("10.77.0.10-10.77.0.11"), `
			discover mac=1 => OFFER 10.77.0.10 to 255.255.255.255:68
			discover mac=2 => OFFER 10.77.0.11 to 255.255.255.255:68
			discover mac=3 => no free address
			request mac=3 want=.10 server=.1 => NAK to 255.255.255.255:68`},
		{"max-leases bounds the table below the pool", false, func(c *Config) { c.MaxLeases = 2 }, `
			request mac=1 want=.50 server=.1 => ACK 10.77.0.50 to 255.255.255.255:68
			discover mac=2 => OFFER 10.77.0.3 to 255.255.255.255:68
			discover mac=3 => no free address
			discover mac=3 want=.60 => no free address
			request mac=3 want=.60 server=.1 => NAK to 255.255.255.255:68
			+31s
			discover mac=3 want=.60 => OFFER 10.77.0.3 to 255.255.255.255:68`},
		{"what is no request", false, nil, `
			bootp mac=1 => bootp without a dhcp message type is not served
			offer mac=1 => not a request
			discover mac=1 ci=224.0.0.1 => address field holds no unicast address
			discover mac=1 opt=50:0a4d00 => option 50 of 3 bytes
			request mac=1 want=.3 opt=54:0a => option 54 of 1 bytes`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			newScript(t, testHost(tt.tap), tt.edit).run(tt.in)
		})
	}
}

func TestPeerLeftToDHCP(t *testing.T) {
	h := testHost(false)
	h.Peer4 = netip.Addr{}
	newScript(t, h, nil).run(`discover mac=1 => OFFER 10.77.0.2 to 255.255.255.255:68`)
}

// The discover of a client on a TUN device: chaddr all zero, and its identifier
// made of that.
const tunDiscover = "01010600" + "3903f326" + "0000" + "0000" + // op htype hlen hops, xid, secs, flags
	"00000000" + "00000000" + "00000000" + "00000000" + // ciaddr yiaddr siaddr giaddr
	"00000000000000000000000000000000" + // chaddr
	zeros64 + zeros64 + zeros64 + // sname, file
	"63825363" + // cookie
	"350101" + "3d0701000000000000" + "390205c0" + // discover, client identifier, 1472 bytes
	"3707" + "010306" + "0c0f" + "1c2a" + // asks for mask router dns name domain broadcast ntp
	"ff"

const zeros64 = "0000000000000000000000000000000000000000000000000000000000000000" +
	"0000000000000000000000000000000000000000000000000000000000000000"

func TestLiteralBytes(t *testing.T) {
	q, err := hex.DecodeString(tunDiscover)
	require.NoError(t, err)
	sc := newScript(t, testHost(false), nil)
	a := sc.s.handle(q, netip.MustParseAddrPort("0.0.0.0:68"), testStart)
	want := "02010600" + "3903f326" + "0000" + "0000" +
		"00000000" + "0a4d0003" + "00000000" + "00000000" +
		"00000000000000000000000000000000" +
		zeros64 + zeros64 + zeros64 +
		"63825363" +
		"350102" + "36040a4d0001" + // offer, server identifier
		"330400000e10" + "3a0400000708" + "3b0400000c4e" + // 3600 s, T1 1800, T2 3150
		"0104ffffff00" + "03040a4d0001" + "06040a4d0001" + // mask, then router, dns
		"0f0d" + hex.EncodeToString([]byte("porthole.test")) +
		"1c040a4d00ff" + // broadcast
		"3d0701000000000000" + "ff"
	require.Equal(t, want, hex.EncodeToString(a.payload))
	require.Equal(t, all, a.to.String())
	require.Nil(t, a.hw)
}

// optionOrder lists the option codes of a message as they lie.
func optionOrder(b []byte) (codes []byte) {
	for b = b[optionsAt:]; b[0] != 255; b = b[2+int(b[1]):] {
		codes = append(codes, b[0])
	}
	return codes
}

func TestOptions(t *testing.T) {
	sc := newScript(t, testHost(false), func(c *Config) {
		c.Options.Search = []string{"a.test", "b.a.test"}
		c.Options.MTU = 1400
		c.Static = []Static{{MAC: MAC("\x02\x00\x00\x00\x00\x01"), Address: netip.MustParseAddr("10.77.0.10"), Hostname: "printer"}}
	})
	ask := func(line string) []byte {
		q, from := sc.build(line)
		a := sc.s.handle(q, from, sc.now)
		require.NotNil(t, a.payload, line)
		checkReply(t, a, q)
		return a.payload
	}
	fixed := []byte{53, 54, 51, 58, 59}
	for _, tt := range []struct {
		name, in string
		want     []byte
	}{
		{"none asked for", "discover mac=1", append(fixed, 1, 3, 6, 12, 15, 26, 28, 119)},
		{"in the client's order", "discover mac=2 opt=55:1c0f0603", append(fixed, 1, 28, 15, 6, 3)},
		{"twice, unknown and fixed ones", "discover mac=2 opt=55:060606fe3633350000", append(fixed, 1, 6)},
		{"an unreserved client has no name", "discover mac=2 opt=55:0c1a", append(fixed, 1, 26)},
		{"echoes last, relay information at the end", "discover mac=2 gi=.9 id=0102 opt=82:010161 opt=118:0a4d0000 opt=55:0f", append(fixed, 1, 15, 118, 61, 82)},
		{"inform has no times", "inform mac=2 ci=.9 opt=55:03", []byte{53, 54, 1, 3}},
	} {
		t.Run(tt.name, func(t *testing.T) { require.Equal(t, tt.want, optionOrder(ask(tt.in))) })
	}

	m, err := dhcpv4.FromBytes(ask("discover mac=1"))
	require.NoError(t, err)
	require.Equal(t, "printer", m.HostName())
	require.Equal(t, []string{"a.test", "b.a.test"}, m.DomainSearch().Labels)
	require.Equal(t, []byte{1400 >> 8, 1400 & 255}, m.Options.Get(dhcpv4.OptionInterfaceMTU))
	require.Equal(t, "10.77.0.255", m.BroadcastAddress().String())
	require.Equal(t, []byte("\x01\x01a"), mustOption(t, ask("discover mac=2 gi=.9 opt=82:010161"), 82))
}

func mustOption(t *testing.T, b []byte, code uint8) []byte {
	m, err := dhcpv4.FromBytes(b)
	require.NoError(t, err)
	return m.Options[code]
}

func TestOptionsTurnedOff(t *testing.T) {
	sc := newScript(t, testHost(false), func(c *Config) {
		c.Options = Options{Router: "none", Domain: "none", MTU: -1, DNS: []netip.Addr{netip.MustParseAddr("10.0.0.53"), netip.MustParseAddr("10.0.1.53")}}
	})
	q, from := sc.build("discover mac=1")
	b := sc.s.handle(q, from, sc.now).payload
	require.Equal(t, []byte{53, 54, 51, 58, 59, 1, 6, 28}, optionOrder(b))
	require.Equal(t, []byte{10, 0, 0, 53, 10, 0, 1, 53}, mustOption(t, b, 6))

	sc = newScript(t, testHost(false), nil)
	sc.s.ports = nil // nothing on 53: no DNS server to name
	require.NotContains(t, optionOrder(sc.s.handle(q, from, sc.now).payload), byte(6))
}

func TestRelayIsTheRouter(t *testing.T) {
	sc := newScript(t, testHost(false), func(c *Config) {
		c.Subnets = []Subnet{
			{Prefix: netip.MustParsePrefix("10.80.0.0/24")},
			{Prefix: netip.MustParsePrefix("10.81.0.0/24"), Router: "10.81.0.254"},
			{Prefix: netip.MustParsePrefix("10.82.0.0/24"), Router: "none"},
		}
	})
	for gi, want := range map[string][]byte{"10.80.0.5": {10, 80, 0, 5}, "10.81.0.5": {10, 81, 0, 254}, "10.82.0.5": nil, ".5": {10, 77, 0, 5}} {
		q, from := sc.build("discover mac=1 gi=" + gi)
		require.Equal(t, want, mustOption(t, sc.s.handle(q, from, sc.now).payload, 3), gi)
	}
}

// A reply keeps to the size that the client takes, dropping what it wanted least.
func TestMessageSize(t *testing.T) {
	sc := newScript(t, testHost(false), func(c *Config) {
		for _, l := range []string{"a", "b", "c", "d", "e"} {
			c.Options.Search = append(c.Options.Search, strings.Repeat(l, 60)+".test")
		}
	})
	for _, tt := range []struct {
		name, in string
		has      bool
	}{
		{"576 by default", "discover mac=1 opt=55:770f", false},
		{"less than the least is the least", "discover mac=1 opt=55:770f opt=57:0010", false},
		{"room enough", "discover mac=1 opt=55:770f opt=57:0400", true},
		{"never beyond the link", "discover mac=1 opt=55:770f opt=57:ffff", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q, from := sc.build(tt.in)
			a := sc.s.handle(q, from, sc.now)
			require.Equal(t, tt.has, strings.Contains(string(optionOrder(a.payload)), "\x77"))
			require.Contains(t, optionOrder(a.payload), byte(15), "a later option that fits is kept")
			if !tt.has {
				require.LessOrEqual(t, len(a.payload), 548)
			}
		})
	}
	q, from := sc.build("discover mac=1 gi=.9 opt=82:01ff" + strings.Repeat("61", 253))
	a := sc.s.handle(q, from, sc.now)
	require.LessOrEqual(t, len(a.payload), 548)
	require.Len(t, mustOption(t, a.payload, 82), 255)
}

func TestOverloadAndMissingEnd(t *testing.T) {
	sc := newScript(t, testHost(false), nil)
	q, from := sc.build("discover mac=1 opt=52:03")
	copy(q[fileAt:], []byte{50, 4, 10, 77, 0, 99, 255})
	copy(q[snameAt:], []byte{61, 3, 0, 'a', 'b', 255})
	a := sc.s.handle(q, from, sc.now)
	require.Equal(t, "10.77.0.99", a.addr.String())
	require.Equal(t, []byte("\x00ab"), mustOption(t, a.payload, 61))

	q[fileAt+1] = 200 // runs over the field's end
	require.Nil(t, sc.s.handle(q, from, sc.now).payload)

	q, from = sc.build("discover mac=2")
	end := strings.LastIndexByte(string(q), 255)
	require.Equal(t, "DHCPOFFER", sc.s.handle(q[:end], from, sc.now).result)
	require.Nil(t, sc.s.handle(q[:end-1], from, sc.now).payload, "an option cut short")
	q[2] = 17
	require.Nil(t, sc.s.handle(q, from, sc.now).payload, "hlen beyond chaddr")
	require.Nil(t, sc.s.handle(q[:200], from, sc.now).payload)
	require.Nil(t, sc.s.handle(nil, from, sc.now).payload)
	long, from := sc.build("discover mac=3 id=" + strings.Repeat("41", 256))
	require.Nil(t, sc.s.handle(long, from, sc.now).payload)
}

func TestStartErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*Config)
		want string
	}{
		{"pool off the link", ranges("10.78.0.1-10.78.0.9"), "pool[0]: 10.78.0.1-10.78.0.9 is not inside the link's prefix, 10.77.0.0/24"},
		{"reserving the host", func(c *Config) {
			c.Static = []Static{{ClientID: "x", Address: netip.MustParseAddr("10.77.0.1")}}
		}, "static[0].address: 10.77.0.1 is not a client's address on any link of this server"},
		{"subnet over the link", func(c *Config) {
			c.Subnets = []Subnet{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}}
		}, "subnets[0].prefix: 10.0.0.0/8 overlaps the host's own link, 10.77.0.0/24"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := defaults().(*Config)
			tt.edit(cfg)
			require.NoError(t, cfg.Validate())
			_, err := newServer(testEnv(testHost(false), cfg), cfg)
			require.EqualError(t, err, tt.want)
		})
	}
}

// A two-address link has neither network nor broadcast address (RFC 3021).
func TestTwoAddressLink(t *testing.T) {
	h := testHost(false)
	h.Addr4, h.Peer4 = netip.MustParsePrefix("10.77.0.1/31"), netip.Addr{}
	newScript(t, h, nil).run(`
		discover mac=1 => OFFER 10.77.0.0 to 255.255.255.255:68
		discover mac=2 => no free address`)
}

func TestWarnsOnceAMinute(t *testing.T) {
	sc := newScript(t, testHost(false), ranges("10.77.0.10"))
	sc.run(`discover mac=1 => OFFER 10.77.0.10 to 255.255.255.255:68
		discover mac=2 => no free address`)
	at := sc.s.warned
	require.Equal(t, sc.now, at)
	sc.now = sc.now.Add(10 * time.Second)
	sc.run(`discover mac=3 => no free address`)
	require.Equal(t, at, sc.s.warned)
}

// A NAK through a relay has the broadcast flag, whatever the request had (4.3.2).
func TestRelayedNakIsBroadcast(t *testing.T) {
	sc := newScript(t, testHost(false), nil)
	for line, want := range map[string]byte{
		"request mac=1 gi=.9 want=192.168.1.1": 0x80,
		"request mac=1 want=192.168.1.1":       0,
		"discover mac=1 gi=.9 bcast":           0x80,
		"discover mac=1 gi=.9":                 0,
	} {
		q, from := sc.build(line)
		require.Equal(t, want, sc.s.handle(q, from, sc.now).payload[10], line)
	}
}
