package dhcp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// maxClientID bounds option 61, which RFC 3396 would let span several instances.
const maxClientID = 255

// Lengths and offsets of the fixed part (RFC 2131, figure 1).
const (
	snameAt, fileAt = 44, 108
	optionsAt       = 240                // after the magic cookie
	magic           = "\x63\x82\x53\x63" // the cookie
	minMessage      = 300                // BOOTP's length; shorter ones are dropped by some relays and clients
)

// request is a client's message, checked: after parse no accessor can fail.
type request struct {
	raw      []byte // the datagram, the reader's: only while it is handled
	options         // parts of it
	kind     dhcpv4.MessageType
	from     netip.AddrPort
	key      string // who asks; see identify
	clientID []byte
	mac      MAC // of an Ethernet client that named one

	ciaddr, giaddr netip.Addr    // invalid when zero
	want           netip.Addr    // option 50; invalid when absent
	serverID       netip.Addr    // option 54; likewise
	linkSelect     netip.Addr    // option 82.5 (RFC 3527), else option 118 (RFC 3011)
	serverOverride netip.Addr    // option 82.11 (RFC 5107)
	lease          time.Duration // option 51; 0 when absent
	room           int           // most bytes of DHCP message it takes (option 57)
	anonymous      bool          // the key is the transaction's, for want of any identity
}

// A message that is no client's request is dropped without a reply, as RFC 2131
// has no reply for it. The errors become the access line's result.
var (
	errNotRequest = errors.New("not a request")
	errNoMessage  = errors.New("no dhcp message")
	errBootp      = errors.New("bootp without a dhcp message type is not served")
)

// parse reads one datagram. Options may overflow into file and sname (option 52).
func parse(q []byte, from netip.AddrPort, mtu int) (*request, error) {
	if len(q) > 0 && q[0] != byte(dhcpv4.OpcodeBootRequest) {
		return nil, errNotRequest
	}
	if len(q) >= 3 && q[2] > dhcpv4.MaxHWAddrLen {
		return nil, fmt.Errorf("hardware address of %d bytes", q[2])
	}
	if len(q) < optionsAt || string(q[optionsAt-4:optionsAt]) != magic {
		return nil, errNoMessage
	}
	r := &request{raw: q, from: from, ciaddr: addrOf(q[12:16]), giaddr: addrOf(q[24:28])}
	if err := r.read(q[optionsAt:]); err != nil {
		return nil, err
	}
	if o := r.get(dhcpv4.OptionOptionOverload.Code()); len(o) == 1 {
		var err error
		if o[0]&1 != 0 {
			err = r.read(q[fileAt : optionsAt-4])
		}
		if o[0]&2 != 0 && err == nil {
			err = r.read(q[snameAt:fileAt])
		}
		if err != nil {
			return nil, err
		}
	}
	if v := r.get(dhcpv4.OptionDHCPMessageType.Code()); len(v) == 1 {
		r.kind = dhcpv4.MessageType(v[0])
	}
	switch r.kind {
	case dhcpv4.MessageTypeNone:
		return nil, errBootp
	case dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeDecline,
		dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeInform:
	default:
		return r, errNotRequest
	}
	if r.giaddr.IsValid() && !unicast(r.giaddr) || r.ciaddr.IsValid() && !unicast(r.ciaddr) {
		return r, errors.New("address field holds no unicast address")
	}
	if err := r.readOptions(mtu); err != nil {
		return r, err
	}
	r.identify()
	return r, nil
}

func (r *request) readOptions(mtu int) error {
	for _, o := range []struct {
		code dhcpv4.OptionCode
		into *netip.Addr
	}{
		{dhcpv4.OptionRequestedIPAddress, &r.want},
		{dhcpv4.OptionServerIdentifier, &r.serverID},
		{dhcpv4.OptionSubnetSelection, &r.linkSelect},
	} {
		v, has := r.has(o.code.Code())
		if has && len(v) != 4 {
			return fmt.Errorf("option %d of %d bytes", o.code.Code(), len(v))
		}
		*o.into = addrOf(v)
	}
	if v, has := r.has(dhcpv4.OptionIPAddressLeaseTime.Code()); has {
		if len(v) != 4 {
			return fmt.Errorf("option 51 of %d bytes", len(v))
		}
		r.lease = max(1, time.Duration(binary.BigEndian.Uint32(v))) * time.Second
	}
	// Option 57 counts the IP and UDP headers too, as RFC 2131's own 576 does.
	r.room = min(576, mtu)
	if v := r.get(dhcpv4.OptionMaximumDHCPMessageSize.Code()); len(v) == 2 {
		r.room = min(max(int(binary.BigEndian.Uint16(v)), r.room), mtu)
	}
	r.room -= 28
	if v := r.get(dhcpv4.OptionRelayAgentInformation.Code()); len(v) > 0 {
		var sub options
		if sub.read(v) == nil { // its content is the relay's; a broken one is still echoed
			if a := addrOf(sub.get(5)); a.IsValid() {
				r.linkSelect = a
			}
			r.serverOverride = addrOf(sub.get(11))
		}
	}
	r.clientID = r.get(dhcpv4.OptionClientIdentifier.Code())
	if len(r.clientID) > maxClientID {
		return fmt.Errorf("client identifier of %d bytes", len(r.clientID))
	}
	return nil
}

// identify names the client: by its client identifier, else by its hardware
// address (RFC 2131, 4.2; RFC 4361). A client on a device without link addresses
// sends hlen 0 or an all-zero chaddr; when it has no client identifier either,
// nothing tells it from the next one, and its key is the transaction. It is found
// again by the address of its lease.
func (r *request) identify() {
	hw := r.hardware()
	zero := len(bytes.Trim(hw, "\x00")) == 0
	if r.raw[1] == 1 && len(hw) == 6 && !zero {
		r.mac = MAC(hw)
	}
	switch {
	case len(r.clientID) > 0:
		r.key = "i" + string(r.clientID)
	case !zero:
		r.key = "h" + string(rune(r.raw[1])) + string(hw)
	default:
		r.key = anonymous + string(r.raw[4:8])
		r.anonymous = true
	}
}

// hardware is the client's address on its link (chaddr), which may be empty.
func (r *request) hardware() net.HardwareAddr { return net.HardwareAddr(r.raw[28 : 28+r.raw[2]]) }

// anonymous begins the keys of clients without identity, static those of
// reservations.
const (
	anonymous = "x"
	static    = "s"
)

// client is the name of the client in logs.
func (r *request) client() string {
	switch {
	case len(r.clientID) > 0:
		return "id " + colons(r.clientID)
	case r.anonymous:
		return fmt.Sprintf("xid 0x%x", r.raw[4:8])
	}
	return r.hardware().String()
}

// addrOf is an invalid address for 0.0.0.0 and for what is no IPv4 address.
func addrOf(b []byte) netip.Addr {
	a, ok := netip.AddrFromSlice(b)
	if !ok || !a.Is4() || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

func unicast(a netip.Addr) bool {
	first := a.As4()[0]
	return first != 0 && first < 224
}
