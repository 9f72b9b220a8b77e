package capture

import (
	"encoding/binary"
	"io"
	"math"
	"time"
)

// The blocks of a pcapng file (draft-ietf-opsawg-pcapng), little-endian. pcapgo's
// writer has no word for isb_filteraccept and isb_usrdeliv, and allocates for each
// comment; its reader is what the tests read with.

const (
	blockSection    = 0x0a0d0d0a
	blockInterface  = 1
	blockPacket     = 6 // enhanced
	blockStatistics = 5

	optEnd     = 0
	optComment = 1

	shbApplication = 4

	ifName        = 2
	ifDescription = 3
	ifResolution  = 9

	epbFlags     = 2
	epbDropCount = 4
	epbPacketID  = 5

	isbStart     = 2
	isbEnd       = 3
	isbReceived  = 4
	isbDropped   = 5
	isbAccepted  = 6
	isbDelivered = 8

	flagInbound  = 1
	flagOutbound = 2
)

// Link types (https://www.tcpdump.org/linktypes.html).
const (
	linkEthernet = 1
	linkRaw      = 101 // begins with an IPv4 or IPv6 header
)

// blocks writes blocks through a buffer of its own. The first error stays.
type blocks struct {
	w   io.Writer
	b   []byte
	at  int // where the block under way begins
	err error
}

// flushAt is when what is buffered is written; a super-packet's records may come on top.
const flushAt = 64 << 10

func (w *blocks) begin(kind uint32) {
	w.at = len(w.b)
	w.u32(kind)
	w.u32(0) // its length
}

// end pads the block, writes its length at both ends, and writes what is buffered when
// that is enough.
func (w *blocks) end() {
	w.pad()
	n := uint32(len(w.b) - w.at + 4)
	binary.LittleEndian.PutUint32(w.b[w.at+4:], n)
	w.u32(n)
	if len(w.b) >= flushAt {
		w.flush()
	}
}

func (w *blocks) flush() {
	if w.err == nil && len(w.b) > 0 {
		_, w.err = w.w.Write(w.b)
	}
	w.b = w.b[:0]
}

func (w *blocks) u16(v uint16) { w.b = binary.LittleEndian.AppendUint16(w.b, v) }
func (w *blocks) u32(v uint32) { w.b = binary.LittleEndian.AppendUint32(w.b, v) }

// pad brings the block to a multiple of four bytes, from where it began.
func (w *blocks) pad() {
	for (len(w.b)-w.at)%4 != 0 {
		w.b = append(w.b, 0)
	}
}

func (w *blocks) option(code uint16, value []byte) {
	if len(value) > math.MaxUint16 {
		value = value[:math.MaxUint16]
	}
	w.u16(code)
	w.u16(uint16(len(value)))
	w.b = append(w.b, value...)
	w.pad()
}

func (w *blocks) option32(code uint16, v uint32) {
	w.u16(code)
	w.u16(4)
	w.u32(v)
}

func (w *blocks) option64(code uint16, v uint64) {
	w.u16(code)
	w.u16(8)
	w.b = binary.LittleEndian.AppendUint64(w.b, v)
}

// optionTime is a time as a block has it: upper half first.
func (w *blocks) optionTime(code uint16, t time.Time) {
	w.u16(code)
	w.u16(8)
	w.time(t.UnixNano())
}

func (w *blocks) time(ns int64) {
	w.u32(uint32(uint64(ns) >> 32))
	w.u32(uint32(ns))
}

func (w *blocks) options() { w.u32(optEnd) }

// section begins the file.
func (w *blocks) section(app, comment string) {
	w.begin(blockSection)
	w.u32(0x1a2b3c4d) // byte order
	w.u16(1)          // version 1.0
	w.u16(0)
	w.u32(math.MaxUint32) // length of the section: not known
	w.u32(math.MaxUint32)
	w.option(optComment, []byte(comment))
	w.option(shbApplication, []byte(app))
	w.options()
	w.end()
}

// face describes the next interface; they are numbered from 0. Its times are in ns.
func (w *blocks) face(link uint16, snaplen int, name, description string) {
	w.begin(blockInterface)
	w.u16(link)
	w.u16(0)
	w.u32(uint32(snaplen))
	w.option(ifName, []byte(name))
	w.option(ifDescription, []byte(description))
	w.option(ifResolution, []byte{9})
	w.options()
	w.end()
}

// packetHead begins a packet of size bytes, of which kept follow; packetTail ends it.
func (w *blocks) packetHead(face int, ns int64, kept, size int) {
	w.begin(blockPacket)
	w.u32(uint32(face))
	w.time(ns)
	w.u32(uint32(kept))
	w.u32(uint32(size))
}

func (w *blocks) packetTail(comment []byte, flags uint32, id, lost uint64) {
	w.pad()
	w.option(optComment, comment)
	w.option32(epbFlags, flags)
	if lost > 0 {
		w.option64(epbDropCount, lost)
	}
	w.option64(epbPacketID, id)
	w.options()
	w.end()
}

// statistics of one interface end the file. Numbers are packets, of which super-packets
// are one: seen, of those wanted, of those missed, of those in the file.
func (w *blocks) statistics(face int, began, ended time.Time, seen, accepted, missed, delivered uint64) {
	w.begin(blockStatistics)
	w.u32(uint32(face))
	w.time(ended.UnixNano())
	w.optionTime(isbStart, began)
	w.optionTime(isbEnd, ended)
	w.option64(isbReceived, seen)
	w.option64(isbDropped, missed)
	w.option64(isbAccepted, accepted)
	w.option64(isbDelivered, delivered)
	w.options()
	w.end()
}
