package http

import (
	"bytes"
	"strconv"
	"sync/atomic"
)

// net/http parses requests, but keeps to itself what RFC 9112 wants acted upon:
// it drops Content-Length beside Transfer-Encoding, and Transfer-Encoding in an
// HTTP/1.0 request, without a word, though both must end the connection (6.1: one
// message could be taken for two); and a request line that never ends is, to it,
// a header that is too large (3: 414). So a heads looks on while the bytes of a
// connection go to net/http.
//
// It follows lines, not messages: of a body it skips what Content-Length declares,
// and reads a chunked one as if it were lines. What it takes for a field there may
// end the connection after the answer; it changes the answer of no request, unless
// the client goes on in HTTP/1.0 or with CONNECT.
type heads struct {
	both   atomic.Bool // some request had Content-Length and Transfer-Encoding
	coding atomic.Bool // some request had Transfer-Encoding
	noHost atomic.Bool // some request had no Host

	// The rest belongs to the connection's reader.
	off     bool           // what goes by is not HTTP/1, or no longer
	lines   int            // that have ended, counted to 2
	ended   int            // heads that have
	short   bool           // the first was too short to be a request line
	n       int            // bytes of the line that has not
	line    [lineKept]byte // its start
	begun   bool           // a request line has ended, its head has not
	request [lineKept]byte // start of that request line
	kept    int            // bytes of it
	length  int64          // what the head declares, -1 without Content-Length
	coded   bool           // the head has Transfer-Encoding
	hosted  bool           // the head has Host
	body    int64          // bytes of a body that are still to skip
}

// lineKept has room for the longest Content-Length, and tells requests apart in the log.
const lineKept = 64

// see takes the next bytes of the connection.
func (h *heads) see(p []byte) {
	for len(p) > 0 && !h.off {
		if h.body > 0 {
			n := min(h.body, int64(len(p)))
			h.body -= n
			p = p[n:]
			continue
		}
		i := bytes.IndexByte(p, '\n')
		part := p
		if i >= 0 {
			part = p[:i]
		}
		if h.n < lineKept {
			copy(h.line[h.n:], part)
		}
		h.n += len(part)
		if i < 0 {
			return
		}
		h.end()
		p = p[i+1:]
	}
}

// end takes a whole line.
func (h *heads) end() {
	text := bytes.TrimSuffix(h.line[:min(h.n, lineKept)], []byte{'\r'})
	h.n = 0
	h.lines = min(h.lines+1, 2)
	switch {
	case len(text) > 0 && !h.begun:
		h.begun, h.length, h.coded, h.hosted = true, -1, false, false
		h.kept = copy(h.request[:], text)
		h.off = bytes.HasPrefix(text, []byte("PRI * HTTP/2"))
		h.short = h.lines == 1 && h.kept < shortLine && !bytes.Contains(text, []byte(" HTTP/"))
	case !h.begun: // a blank line before a request
	case len(text) > 0:
		switch text[0] {
		case 't', 'T':
			if _, ok := field(text, "transfer-encoding:"); ok {
				h.coded = true
			}
		case 'h', 'H':
			if _, ok := field(text, "host:"); ok {
				h.hosted = true
			}
		case 'c', 'C':
			if value, ok := field(text, "content-length:"); ok {
				h.length, _ = strconv.ParseInt(string(value), 10, 64)
			}
		}
	default:
		h.begun = false
		h.ended++
		if !h.hosted {
			h.noHost.Store(true)
		}
		if !h.coded {
			h.body = max(h.length, 0)
			return
		}
		h.coding.Store(true)
		if h.length >= 0 {
			h.both.Store(true)
		}
	}
}

// field returns the value of a field line without the space around it.
func field(line []byte, name string) ([]byte, bool) {
	if len(line) < len(name) || !bytes.EqualFold(line[:len(name)], []byte(name)) {
		return nil, false
	}
	return bytes.Trim(line[len(name):], " \t"), true
}

// between reports whether all that went by are that many requests, whole. Where a chunked
// body ends, a heads does not know.
func (h *heads) between(requests int) bool {
	return !h.off && !h.coding.Load() && h.ended == requests && !h.begun && h.n == 0 && h.body == 0
}

// partial reports whether part of a head is all that came since the last request.
func (h *heads) partial() bool { return !h.off && !h.coding.Load() && (h.begun || h.n > 0) }

// inRequestLine reports whether the line that has not ended is a request line.
func (h *heads) inRequestLine() bool { return !h.begun && h.n > 0 }

// shortLine is less than what tells HTTP/2 from HTTP/1.
const shortLine = len("PRI * HTTP/2.0")

// hopeless reports whether the connection began with a line that is too short to be
// a request line. Before it looks, net/http would wait for shortLine bytes.
func (h *heads) hopeless() bool { return h.short }

// isTLS reports whether the connection began as TLS does: with a handshake record
// of version 3 (RFC 8446, 5.1).
func (h *heads) isTLS() bool { return h.lines == 0 && h.n >= 2 && h.line[0] == 22 && h.line[1] == 3 }

// text is what is known of the latest request line, for the log.
func (h *heads) text() string {
	if h.inRequestLine() {
		return string(h.line[:min(h.n, lineKept)])
	}
	return string(h.request[:h.kept])
}
