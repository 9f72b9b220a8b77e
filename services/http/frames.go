package http

import (
	"encoding/binary"
	"errors"
	"io"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// net/http's HTTP/2 server departs from RFC 9113 in two places. It ends a
// connection whose SETTINGS frame names a parameter twice, though the values are to
// be taken in order (6.5); and it answers 400 to a request with a field of HTTP/1's
// connections, which is malformed and must end in a stream error (8.1.1, 8.2.2). So
// a frames stands between the connection and that server: it takes what is
// overruled out of SETTINGS, and puts a frame that is a stream error by itself, a
// WINDOW_UPDATE of nothing (6.9), behind a malformed request. Everything else
// passes as it came, errors included; what it does not understand it leaves to the
// server to complain about. A header list that is too long gets its 431 before any
// handler sees the request: tooLong is told of it.
type frames struct {
	conn    io.Reader
	most    int // bytes of a header list, as net/http counts them
	tooLong func(request string)

	ready []byte // goes to the server before anything else is read
	space [frameHeader + 2*maxSettings]byte

	// Of a connection that was upgraded (upgrade.go); nil after its first frame.
	request  []byte // HEADERS of stream 1, behind the client's SETTINGS
	settings []byte // of HTTP2-Settings, before the client's own

	head   [frameHeader]byte
	got    int // bytes of head
	left   int // bytes of the payload that have not passed
	stream uint32

	// A header block may span frames (6.10).
	block     bool // the payload is part of one
	last      bool // and the last
	prefix    int  // bytes before the fragment: pad length, priority
	padded    bool // the first of them is the pad length
	pad       int
	malformed bool
	list      int    // its size so far (RFC 9113, 6.5.2)
	method    string // empty in trailers
	path      string
	fields    *hpack.Decoder // nil when its table was lost: the server will end the connection
}

// errNotSettings ends a connection whose upgrade was not followed by SETTINGS (RFC
// 9113, 3.4), or by more of them than there are.
var errNotSettings = errors.New("no SETTINGS after the preface")

const (
	kindHeaders      = 0x1
	kindSettings     = 0x4
	kindWindowUpdate = 0x8
	kindContinuation = 0x9

	flagAck        = 0x1 // of SETTINGS
	flagEndStream  = 0x1 // of HEADERS
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20

	settingSize = 6
	// maxSettings bounds the frames that are looked into; there are eleven registered
	// parameters.
	maxSettings = 64 * settingSize
	// hpackTable is the decoder's table that a server has while it does not say
	// otherwise (6.5.2), as net/http does not.
	hpackTable = 4096
)

func newFrames(c io.Reader, headerLimit int, tooLong func(request string)) *frames {
	// net/http takes 4 KiB for what it reads ahead, and gives ten fields' overhead back.
	f := &frames{conn: c, most: headerLimit - 4096 + 10*32, tooLong: tooLong}
	f.fields = hpack.NewDecoder(hpackTable, f.field)
	f.fields.SetMaxStringLength(headerLimit)
	return f
}

// Read is called by the server's one reader.
func (f *frames) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(f.ready) == 0 && f.left == 0 {
		if err := f.begin(); err != nil {
			return 0, err
		}
	}
	if len(f.ready) > 0 {
		n := copy(p, f.ready)
		f.ready = f.ready[n:]
		return n, nil
	}
	n, err := f.conn.Read(p[:min(len(p), f.left)])
	f.left -= n
	if f.block && n > 0 {
		f.fragment(p[:n])
		f.endBlock()
	}
	return n, err
}

// begin takes a frame's header, and the whole frame when it is SETTINGS.
func (f *frames) begin() error {
	for f.got < frameHeader {
		n, err := f.conn.Read(f.head[f.got:])
		f.got += n
		if err != nil && f.got < frameHeader {
			return err
		}
	}
	length := int(f.head[0])<<16 | int(f.head[1])<<8 | int(f.head[2])
	kind, flags := f.head[3], f.head[4]
	f.stream = binary.BigEndian.Uint32(f.head[5:]) & (1<<31 - 1)
	if kind == kindSettings && flags&flagAck == 0 && length <= maxSettings && length%settingSize == 0 && f.stream == 0 {
		own := frameHeader + copy(f.space[frameHeader:], f.settings)
		whole := f.space[:own+length]
		if _, err := io.ReadFull(f.conn, whole[own:]); err != nil {
			return err
		}
		kept := lastSettings(whole[frameHeader:])
		whole = whole[:frameHeader+kept]
		copy(whole, f.head[:])
		whole[0], whole[1], whole[2] = byte(kept>>16), byte(kept>>8), byte(kept)
		f.got, f.ready = 0, append(whole, f.request...)
		f.request, f.settings = nil, nil
		return nil
	}
	if f.request != nil {
		return errNotSettings
	}
	f.ready = append(f.space[:0], f.head[:]...)
	f.got, f.left = 0, length
	f.block = f.fields != nil && (kind == kindHeaders || kind == kindContinuation)
	if !f.block {
		return nil
	}
	f.last = flags&flagEndHeaders != 0
	f.prefix, f.padded, f.pad = 0, false, 0
	if kind == kindHeaders {
		f.malformed = false
		f.list, f.method, f.path = 0, "", ""
		if f.padded = flags&flagPadded != 0; f.padded {
			f.prefix++
		}
		if flags&flagPriority != 0 {
			f.prefix += 5
		}
	}
	f.endBlock()
	return nil
}

// lastSettings leaves of each parameter the value that counts in the end, and
// returns the length. A value that is an error stays, and what is twice with it.
func lastSettings(b []byte) int {
	for i := 0; i < len(b); i += settingSize {
		if !validSetting(b[i:]) {
			return len(b)
		}
	}
	kept := 0
	for i := 0; i < len(b); i += settingSize {
		again := false
		for j := i + settingSize; j < len(b) && !again; j += settingSize {
			again = b[j] == b[i] && b[j+1] == b[i+1]
		}
		if !again {
			kept += copy(b[kept:], b[i:i+settingSize])
		}
	}
	return kept
}

// validSetting checks what a server must refuse (6.5.2).
func validSetting(b []byte) bool {
	v := binary.BigEndian.Uint32(b[2:])
	switch binary.BigEndian.Uint16(b) {
	case 2: // ENABLE_PUSH
		return v <= 1
	case 4: // INITIAL_WINDOW_SIZE
		return v < 1<<31
	case 5: // MAX_FRAME_SIZE
		return v >= maxFrame && v < 1<<24
	}
	return true
}

// fragment takes bytes of a HEADERS or CONTINUATION payload, of which left follow.
func (f *frames) fragment(p []byte) {
	if f.padded {
		f.pad, f.padded = int(p[0]), false
	}
	n := min(f.prefix, len(p))
	f.prefix -= n
	p = p[n:]
	if pad := f.pad - f.left; pad > 0 {
		p = p[:max(len(p)-pad, 0)]
	}
	if _, err := f.fields.Write(p); err != nil {
		f.fields, f.block = nil, false
	}
}

// endBlock follows the last byte of a header block.
func (f *frames) endBlock() {
	if !f.block || f.left > 0 {
		return
	}
	f.block = false
	if !f.last {
		return
	}
	if f.fields.Close() != nil {
		f.fields = nil
		return
	}
	switch {
	case f.malformed:
		f.ready = append(f.ready, 0, 0, 4, kindWindowUpdate, 0)
		f.ready = binary.BigEndian.AppendUint32(f.ready, f.stream)
		f.ready = append(f.ready, 0, 0, 0, 0)
		f.malformed = false
	case f.list > f.most && f.method != "":
		f.tooLong(f.method + " " + f.path + " HTTP/2.0")
	}
}

// field looks for what may not be in HTTP/2 and net/http lets pass, or answers.
func (f *frames) field(h hpack.HeaderField) {
	f.list += int(h.Size())
	switch h.Name {
	case ":method":
		f.method = h.Value[:min(len(h.Value), lineKept)]
	case ":path":
		f.path = h.Value[:min(len(h.Value), lineKept)]
	}
	switch h.Name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		f.malformed = true
	case "te":
		f.malformed = f.malformed || h.Value != "trailers"
	default:
		// A value neither begins nor ends with white space (8.2.1).
		f.malformed = f.malformed || h.Value != strings.Trim(h.Value, " \t")
	}
}
