package dhcp

import (
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

const (
	serverPort = 67
	clientPort = 68
)

var broadcast = netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), clientPort)

// answer is all that one request leads to. It is a value: whoever calls handle
// sends it, after the changes are stored.
type answer struct {
	request string     // "DHCPREQUEST", for the access line
	client  string     // who asked
	addr    netip.Addr // that it is about, if any
	result  string     // "DHCPACK", or why there is no reply

	payload []byte           // nil: no reply
	to      netip.AddrPort   // where it goes
	hw      net.HardwareAddr // set: straight to this link address, for the client has no address yet
	changes []change         // to be on stable storage before the reply leaves
	warning []any            // what the log shall say beside: a message and its attributes
}

// Options that the library has no name for.
const rapidCommit = 80

// usual is what a client gets that names no options (RFC 2131, 4.3.1).
var usual = []byte{1, 3, 6, 12, 15, 26, 28, 119}

// reply encodes a message of the given kind for r. Options come in this order:
// those that every reply has, then what the client asked for in its own order of
// preference (option 55) as far as there is room (option 57), then what must be
// echoed, relay information last (RFC 3046, 2.1). Fields are those of RFC 2131, table 3.
func (s *server) reply(r *request, kind dhcpv4.MessageType, n *subnet, b *binding) []byte {
	// The header is the request's (xid, flags, giaddr, chaddr stay) with these fields
	// changed; sname and file are empty.
	h := append(make([]byte, 0, 576), r.raw[:optionsAt]...)
	h[0] = byte(dhcpv4.OpcodeBootReply)
	h[3], h[8], h[9] = 0, 0, 0 // hops, secs
	clear(h[16:24])            // yiaddr, siaddr
	clear(h[snameAt : optionsAt-4])
	if kind != dhcpv4.MessageTypeAck {
		clear(h[12:16]) // ciaddr
	}
	if b != nil {
		addr := b.addr.As4()
		copy(h[16:], addr[:])
	}
	if kind == dhcpv4.MessageTypeNak && r.giaddr.IsValid() {
		h[10] |= 0x80 // broadcast: the client's address is wrong, the relay must not use it (4.3.2)
	}

	e := encoder{buf: h, room: r.room - 1} // 1: the end option
	echo := []byte{dhcpv4.OptionSubnetSelection.Code(), dhcpv4.OptionClientIdentifier.Code(), dhcpv4.OptionRelayAgentInformation.Code()}
	for _, code := range echo {
		if v := r.get(code); len(v) > 0 {
			e.room -= len(v) + 2*((len(v)+254)/255)
			e.done[code] = true
		}
	}
	e.must(53, byte(kind))
	e.must(54, s.identifier(r).AsSlice()...)
	if b != nil {
		e.must(51, seconds(b.lease)...)
		e.must(58, seconds(b.lease/2)...)
		e.must(59, seconds(b.lease*7/8)...)
	}
	if kind == dhcpv4.MessageTypeNak {
		e.may(56, []byte("address not available"))
	} else {
		if kind == dhcpv4.MessageTypeAck && r.kind == dhcpv4.MessageTypeDiscover {
			e.must(rapidCommit)
		}
		e.parameters(s, r, n)
	}
	for _, code := range echo {
		e.done[code] = false
		if v := r.get(code); len(v) > 0 {
			e.must(code, v...)
		}
	}
	e.buf = append(e.buf, dhcpv4.OptionEnd.Code())
	for len(e.buf) < minMessage {
		e.buf = append(e.buf, dhcpv4.OptionPad.Code())
	}
	return e.buf
}

// encoder appends options, each once.
type encoder struct {
	buf  []byte
	room int // of the whole message, what must follow taken off
	done [256]bool
}

// must appends an option whatever the room, in pieces of 255 bytes (RFC 3396).
func (e *encoder) must(code byte, v ...byte) {
	e.done[code] = true
	for {
		k := min(len(v), 255)
		e.buf = append(append(e.buf, code, byte(k)), v[:k]...)
		if v = v[k:]; len(v) == 0 {
			return
		}
	}
}

// may appends an option unless it is there, empty, or would not fit.
func (e *encoder) may(code byte, v []byte) {
	if !e.done[code] && len(v) > 0 && len(e.buf)+len(v)+2*((len(v)+254)/255) <= e.room {
		e.must(code, v...)
	}
}

func (e *encoder) parameters(s *server, r *request, n *subnet) {
	list := r.get(dhcpv4.OptionParameterRequestList.Code())
	if len(list) == 0 {
		list = usual
	}
	// The mask goes first: it must precede the router (RFC 2132, 3.3), and no client
	// can do without it.
	e.may(1, n.mask)
	for _, code := range list {
		e.may(code, s.parameter(code, r, n))
	}
}

// parameter is the value of one option that a client may ask for, or nil.
func (s *server) parameter(code byte, r *request, n *subnet) []byte {
	switch code {
	case 3:
		if n.routerAuto && r.giaddr.IsValid() && n.pool.prefix.Contains(r.giaddr) {
			return r.giaddr.AsSlice()
		}
		return n.router
	case 6:
		return s.dns()
	case 12:
		// A client's own name is not told back to it; only reserved names are.
		if i, ok := s.staticFor(r, n); ok {
			return []byte(s.cfg.Static[i].Hostname)
		}
		return nil
	case 15:
		return s.domain
	case 26:
		return s.mtu
	case 28:
		return n.broadcast
	case 119:
		return s.search
	}
	return nil
}

// destine says where the reply goes (RFC 2131, 4.1): to the relay; a NAK to
// everybody; to an address the client has; else to everybody when it asks for that
// or no link address can be used, and to its link address otherwise.
func (s *server) destine(a *answer, r *request, kind dhcpv4.MessageType, b *binding) {
	switch {
	case r.kind == dhcpv4.MessageTypeInform:
		a.to = s.ownAddress(r)
	case r.giaddr.IsValid():
		a.to = netip.AddrPortFrom(r.giaddr, serverPort)
	case kind == dhcpv4.MessageTypeNak:
		a.to = broadcast
	case r.ciaddr.IsValid():
		a.to = s.ownAddress(r)
	case r.raw[10]&0x80 != 0 || !s.ethernet || r.mac == "":
		a.to = broadcast
	default:
		a.to, a.hw = netip.AddrPortFrom(b.addr, clientPort), net.HardwareAddr(r.mac)
	}
}

// ownAddress is the client's configured address. Its source port is believed when
// the datagram came from that very address, so that a client that does not own
// port 68 (a test, a probe) can ask too.
func (s *server) ownAddress(r *request) netip.AddrPort {
	if r.from.Addr() == r.ciaddr && r.from.Port() != 0 {
		return r.from
	}
	return netip.AddrPortFrom(r.ciaddr, clientPort)
}

func seconds(d time.Duration) []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(d/time.Second))
}
