package packet

import "encoding/binary"

// TCP reads the rest of the TCP header of a packet whose Kind is TCP: sequence and
// acknowledgment number, the window as sent (unscaled), and the options' bytes, which
// stay part of head.
func (i *Info) TCP(head []byte) (seq, ack uint32, window uint16, options []byte) {
	h := head[i.L4:i.Payload:i.Payload]
	return binary.BigEndian.Uint32(h[4:]), binary.BigEndian.Uint32(h[8:]),
		binary.BigEndian.Uint16(h[14:]), h[20:]
}

// TCP option kinds (IANA, TCP Parameters).
const (
	OptEnd           uint8 = 0
	OptNop           uint8 = 1
	OptMSS           uint8 = 2  // RFC 9293, 3.7.1
	OptWindowScale   uint8 = 3  // RFC 7323, 2
	OptSACKPermitted uint8 = 4  // RFC 2018, 2
	OptSACK          uint8 = 5  // RFC 2018, 3
	OptTimestamps    uint8 = 8  // RFC 7323, 3
	OptFastOpen      uint8 = 34 // RFC 7413, 4.1.1
)

// Options iterates over the options of a TCP header; it is what is left of them.
type Options []byte

// Next gives the next option and its value, without padding. It ends at the end of
// the list, and at the first option that leaves it: Bad is true then. Each call
// shortens o, so a loop over 40 bytes of options takes at most 40 turns.
func (o *Options) Next() (kind uint8, value []byte, ok bool) {
	for len(*o) > 0 {
		b := *o
		switch b[0] {
		case OptEnd:
			*o = nil
			return 0, nil, false
		case OptNop:
			*o = b[1:]
			continue
		}
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			return 0, nil, false
		}
		*o = b[b[1]:]
		return b[0], b[2:b[1]:b[1]], true
	}
	return 0, nil, false
}

// Bad reports, after Next has ended, whether it ended at a malformed option.
func (o Options) Bad() bool { return len(o) > 0 }

// TCPOptions are the options that matter to a look at a connection. All but the
// timestamps are exchanged in the SYN and SYN+ACK alone.
type TCPOptions struct {
	MSS            uint16 // 0: none sent
	WindowScale    uint8  // shift count, 14 at most
	HasWindowScale bool
	SACKPermitted  bool
	HasTimestamps  bool
	TSVal, TSEcr   uint32
	HasFastOpen    bool
	FastOpen       []byte // the cookie, part of what was parsed; empty: asked for one
	SACKBlocks     int    // how many blocks an ACK carries
}

// ParseOptions reads the options b of a TCP header. An option of a wrong length
// counts as not sent; after a malformed one nothing is read and ok is false. What
// was read before it holds, as with other hosts.
func ParseOptions(b []byte) (t TCPOptions, ok bool) {
	o := Options(b)
	for {
		kind, v, more := o.Next()
		if !more {
			return t, !o.Bad()
		}
		switch {
		case kind == OptMSS && len(v) == 2:
			t.MSS = binary.BigEndian.Uint16(v)
		case kind == OptWindowScale && len(v) == 1:
			// A larger shift counts as 14 (RFC 7323, 2.3).
			t.HasWindowScale, t.WindowScale = true, min(v[0], 14)
		case kind == OptSACKPermitted && len(v) == 0:
			t.SACKPermitted = true
		case kind == OptSACK && len(v) > 0 && len(v)%8 == 0:
			t.SACKBlocks = len(v) / 8
		case kind == OptTimestamps && len(v) == 8:
			t.HasTimestamps = true
			t.TSVal, t.TSEcr = binary.BigEndian.Uint32(v), binary.BigEndian.Uint32(v[4:])
		case kind == OptFastOpen && (len(v) == 0 || len(v) >= 4 && len(v) <= 16 && len(v)%2 == 0):
			t.HasFastOpen, t.FastOpen = true, v
		}
	}
}
