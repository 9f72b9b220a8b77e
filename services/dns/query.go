package dns

import (
	"encoding/binary"

	mdns "github.com/miekg/dns"
)

// headerLen is the length of a message's header (RFC 1035, section 4.1.1).
const headerLen = 12

// Bits of the header's second 16.
const (
	flagQR = 1 << 15
	flagAA = 1 << 10
	flagTC = 1 << 9
	flagRD = 1 << 8
	flagCD = 1 << 4
	// Opcode is 0xF << 11. AD and the reserved Z are clear in every reply.
	maskOpcode = 0xf << 11
	flagDO     = 1 << 15 // of the OPT record's TTL
)

// EDNS option codes that are looked at (RFC 5001, RFC 7828).
const (
	optNSID      = 3
	optKeepalive = 11
)

// query is a message as parsed: offsets into it, no copies.
type query struct {
	flags   uint16
	end     int // of the first question; headerLen when there is none or it is malformed
	asked   bool
	counted int // QDCOUNT
	typ     uint16
	class   uint16
	bad     bool // malformed somewhere

	edns      bool
	version   uint8
	size      int // UDP payload size the client takes
	do        bool
	nsid      bool
	keepalive bool

	serial    uint32 // of the SOA record in the authority section (IXFR)
	hasSerial bool
}

// parseQuery reads a whole message of at least headerLen octets: question, every
// record of every section (their RDATA is skipped) and the OPT record. It stops at
// the first thing that is malformed, with what it knows by then.
func parseQuery(msg []byte, q *query) {
	*q = query{flags: binary.BigEndian.Uint16(msg[2:]), end: headerLen, size: 512}
	q.counted = int(binary.BigEndian.Uint16(msg[4:]))
	// The first name of a message has nothing before it that a pointer could lead
	// to, so skipName finds it whole or not at all.
	off := headerLen
	for i := range q.counted {
		end := skipName(msg, off)
		if end < 0 || end+4 > len(msg) {
			q.bad = true
			return
		}
		if i == 0 && q.counted == 1 {
			q.asked, q.end = true, end+4
			q.typ, q.class = binary.BigEndian.Uint16(msg[end:]), binary.BigEndian.Uint16(msg[end+2:])
		}
		off = end + 4
	}
	for section := 1; section <= 3; section++ {
		for range int(binary.BigEndian.Uint16(msg[4+2*section:])) {
			if off = q.record(msg, off, section); off < 0 {
				q.bad = true
				return
			}
		}
	}
	q.bad = q.bad || off != len(msg)
}

// record reads one record and returns the offset after it, -1 when it is cut short.
func (q *query) record(msg []byte, off, section int) int {
	root := off < len(msg) && msg[off] == 0
	off = skipName(msg, off)
	if off < 0 || off+10 > len(msg) {
		return -1
	}
	head := msg[off : off+10]
	off += 10 + int(binary.BigEndian.Uint16(head[8:]))
	if off > len(msg) {
		return -1
	}
	switch binary.BigEndian.Uint16(head) {
	case mdns.TypeOPT:
		// One, in the additional section, at the root (RFC 6891, section 6.1.1).
		if section != 3 || !root || q.edns {
			q.edns = q.edns || section == 3
			q.bad = true
			return off
		}
		q.edns = true
		q.size = max(512, int(binary.BigEndian.Uint16(head[2:])))
		q.version = head[5]
		q.do = binary.BigEndian.Uint16(head[6:])&flagDO != 0
		q.options(msg[off-int(binary.BigEndian.Uint16(head[8:])) : off])
	case mdns.TypeSOA:
		if rdlen := int(binary.BigEndian.Uint16(head[8:])); section == 2 && rdlen >= 22 {
			q.serial, q.hasSerial = binary.BigEndian.Uint32(msg[off-20:]), true
		}
	}
	return off
}

// options notes the EDNS options that are known and ignores all others
// (RFC 6891, section 6.1.2).
func (q *query) options(b []byte) {
	for len(b) >= 4 {
		n := 4 + int(binary.BigEndian.Uint16(b[2:]))
		if n > len(b) {
			break
		}
		switch binary.BigEndian.Uint16(b) {
		case optNSID:
			q.nsid = true
		case optKeepalive:
			q.keepalive = true
		}
		b = b[n:]
	}
	if len(b) > 0 {
		q.bad = true
	}
}
