package dhcpclient

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// Lease is what a server granted, as it is printed. Times are whole seconds on the wire.
type Lease struct {
	Event    string       `json:"event"`     // lease, renew, rebind, inform, decline, release, lost
	ClientID string       `json:"client_id"` // hex
	Address  netip.Prefix `json:"address,omitzero"`
	Server   netip.Addr   `json:"server,omitzero"`
	Router   []netip.Addr `json:"router,omitempty"`
	DNS      []netip.Addr `json:"dns,omitempty"`
	Domain   string       `json:"domain,omitempty"`
	Search   []string     `json:"search,omitempty"`
	Hostname string       `json:"hostname,omitempty"`
	MTU      int          `json:"mtu,omitempty"`
	LeaseS   int64        `json:"lease_s,omitempty"`
	T1S      int64        `json:"t1_s,omitempty"`
	T2S      int64        `json:"t2_s,omitempty"`
	TookNS   int64        `json:"took_ns,omitempty"` // from the first message to the ACK

	began         time.Time // of the request: leases run from there (4.4.1)
	lease, t1, t2 time.Duration
}

// asked is the parameter request list.
var asked = []dhcpv4.OptionCode{
	dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer, dhcpv4.OptionDomainName,
	dhcpv4.OptionHostName, dhcpv4.OptionInterfaceMTU, dhcpv4.OptionBroadcastAddress, dhcpv4.OptionDNSDomainSearchList,
}

// message is what every message of the client holds. Its transaction is set when
// it is sent (RFC 2131, table 5).
func (c *client) message(kind dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: iana.HWType(c.htype), ClientHWAddr: c.hw, NumSeconds: c.secs(),
		ClientIPAddr: net.IPv4zero, YourIPAddr: net.IPv4zero, ServerIPAddr: net.IPv4zero, GatewayIPAddr: net.IPv4zero,
		Options: dhcpv4.OptionsFromList(
			dhcpv4.OptMessageType(kind), dhcpv4.OptGeneric(dhcpv4.OptionClientIdentifier, c.id),
			dhcpv4.OptParameterRequestList(asked...), dhcpv4.OptMaxMessageSize(1500),
		),
	}
	if len(c.hw) == 0 || c.o.Broadcast || c.o.Count > 1 {
		m.SetBroadcast()
	}
	if c.o.Hostname != "" {
		m.UpdateOption(dhcpv4.OptHostName(c.o.Hostname))
	}
	if c.o.LeaseTime > 0 {
		m.UpdateOption(dhcpv4.OptIPAddressLeaseTime(c.o.LeaseTime))
	}
	return m
}

func (c *client) secs() uint16 {
	if c.started.IsZero() {
		return 0
	}
	return uint16(min(time.Since(c.started)/time.Second, math.MaxUint16))
}

// mine reports whether a reply of our transaction is for this client and whole:
// the hardware address fits, an echoed identifier is ours (RFC 6842), the server
// has named itself, and an address is there where one is promised.
func (c *client) mine(re *dhcpv4.DHCPv4) bool {
	if !bytes.Equal(re.ClientHWAddr, c.hw) {
		return false
	}
	if id, ok := re.Options[61]; ok && !bytes.Equal(id, c.id) {
		return false
	}
	if len(re.Options[54]) != 4 {
		return false
	}
	return re.MessageType() != dhcpv4.MessageTypeOffer || !re.YourIPAddr.IsUnspecified()
}

func leaseOf(re *dhcpv4.DHCPv4, began time.Time) *Lease {
	l := &Lease{
		Server: addrs(re.Options[54])[0],
		Router: addrs(re.Options[3]), DNS: addrs(re.Options[6]),
		Domain: re.DomainName(), Hostname: re.HostName(),
		lease: re.IPAddressLeaseTime(0), TookNS: int64(time.Since(began)), began: began,
	}
	if a := re.YourIPAddr.To4(); a != nil && !a.IsUnspecified() {
		ip, _ := netip.AddrFromSlice(a)
		bits := 32
		if ones, all := re.SubnetMask().Size(); all == 32 {
			bits = ones
		}
		l.Address = netip.PrefixFrom(ip, bits)
	}
	if s := re.DomainSearch(); s != nil {
		l.Search = s.Labels
	}
	if v := re.Options[26]; len(v) == 2 {
		l.MTU = int(binary.BigEndian.Uint16(v))
	}
	if l.lease > 0 {
		l.t2 = within(re.IPAddressRebindingTime(0), l.lease*7/8, l.lease)
		l.t1 = within(re.IPAddressRenewalTime(0), min(l.lease/2, l.t2), l.t2)
	}
	l.LeaseS, l.T1S, l.T2S = int64(l.lease/time.Second), int64(l.t1/time.Second), int64(l.t2/time.Second)
	return l
}

// within is the server's time when that makes sense, else the default of 4.4.5.
func within(told, def, most time.Duration) time.Duration {
	if told > 0 && told <= most {
		return told
	}
	return def
}

func addrs(b []byte) (list []netip.Addr) {
	for ; len(b) >= 4; b = b[4:] {
		list = append(list, netip.AddrFrom4([4]byte(b)))
	}
	return list
}

// clientID makes an identifier as RFC 4361 says: type 255, an IAID for the
// interface, and a DUID: of the link address (DUID-LL) where there is one, else a
// UUID (RFC 6355) made of a hash of the machine's id, which stays the same.
func clientID(ifname string, hw []byte) []byte {
	sum := sha256.Sum256([]byte("interface\x00" + ifname))
	id := append([]byte{255}, sum[:4]...)
	if len(hw) == 6 {
		return append(append(id, 0, 3, 0, 1), hw...)
	}
	machine, err := os.ReadFile("/etc/machine-id")
	if err != nil || len(bytes.TrimSpace(machine)) == 0 {
		name, _ := os.Hostname()
		machine = []byte(name)
	}
	uuid := sha256.Sum256(append([]byte("dhcp client\x00"), bytes.TrimSpace(machine)...))
	return append(append(id, 0, 4), uuid[:16]...)
}

// numbered is the identifier of the i-th of many clients.
func numbered(base []byte, i int) []byte {
	if len(base) > 5 && base[0] == 255 { // the IAID tells them apart
		id := bytes.Clone(base)
		binary.BigEndian.PutUint32(id[1:], binary.BigEndian.Uint32(id[1:])+uint32(i))
		return id
	}
	return binary.BigEndian.AppendUint32(bytes.Clone(base), uint32(i))
}

func hexID(id []byte) string { return hex.EncodeToString(id) }
