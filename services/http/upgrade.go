package http

import (
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
)

// HTTP/2 by "Upgrade: h2c" (RFC 7540, 3.2), which RFC 9113 dropped, net/http does
// not serve, and `curl --http2` still asks for. The request that came as HTTP/1.1
// must be answered on stream 1 of the HTTP/2 connection that follows. Instead of
// a second HTTP/2 server, the connection goes back to net/http by prior
// knowledge, through a listener of our own, and what the server reads is (frames.go):
//
//	client's preface                      as it comes
//	SETTINGS                              those of the HTTP2-Settings field, then the client's
//	HEADERS of stream 1                   made here from the HTTP/1.1 request
//	whatever the client sends then        as of any HTTP/2 connection
//
// Requests with a body stay HTTP/1.1, as a server is free to decide.

// wantsUpgrade checks the request as RFC 7540, 3.2 and 3.2.1 ask, and returns the
// payload of HTTP2-Settings.
func (s *site) wantsUpgrade(r *http.Request) (settings []byte, ok bool) {
	if len(r.Header["Upgrade"]) == 0 || !s.cfg.H2C || r.ProtoMajor != 1 || r.ProtoMinor < 1 || r.ContentLength != 0 {
		return nil, false
	}
	set := r.Header["Http2-Settings"]
	if len(set) != 1 || !hasToken(r.Header["Upgrade"], "h2c") ||
		!hasToken(r.Header["Connection"], "upgrade") || !hasToken(r.Header["Connection"], "http2-settings") {
		return nil, false
	}
	settings, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(set[0], "="))
	return settings, err == nil && len(settings)%settingSize == 0 && len(settings) <= maxSettings
}

func hasToken(vals []string, token string) bool {
	for _, v := range vals {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// upgrade answers 101 and hands the connection over. It reports whether it did.
func (s *site) upgrade(w *response, r *http.Request, settings []byte) bool {
	request := firstRequest(r)
	nc, rw, err := w.Hijack()
	if err != nil {
		return false
	}
	w.upgraded = true
	early, _ := rw.Reader.Peek(rw.Reader.Buffered())
	const answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
	if _, err := nc.Write([]byte(answer)); err != nil {
		nc.Close()
		return true
	}
	u := newUpgraded(nc, slices.Clone(early), settings, request, int(s.cfg.HeaderLimit), nc.(*conn).tooLong)
	if !s.back.push(u) {
		nc.Close()
	}
	return true
}

const (
	clientPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	prefaceLen    = len(clientPreface)
	frameHeader   = 9
	maxFrame      = 16384 // the least that every peer takes (RFC 9113, 4.2)
)

// upgraded is the connection as the HTTP/2 server sees it. Only the server's one
// reader calls Read.
type upgraded struct {
	net.Conn
	early   []byte // bytes that the HTTP/1 server had read ahead
	preface string // what has not passed of it
	frames  *frames
}

func newUpgraded(c net.Conn, early, settings, request []byte, headerLimit int, tooLong func(string)) *upgraded {
	u := &upgraded{Conn: c, early: early, preface: clientPreface}
	u.frames = newFrames(readerFunc(u.receive), headerLimit, tooLong)
	u.frames.settings, u.frames.request = settings, request
	return u
}

func (c *upgraded) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if c.preface == "" {
		return c.frames.Read(p)
	}
	n, err := c.receive(p[:min(len(p), len(c.preface))])
	if string(p[:n]) != c.preface[:n] {
		return 0, io.EOF // what is not HTTP/2 now is nothing else either
	}
	c.preface = c.preface[n:]
	return n, err
}

func (c *upgraded) receive(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// CloseWrite is for net/http's lingering close.
func (c *upgraded) CloseWrite() error { return c.Conn.(*conn).CloseWrite() }

// firstRequest encodes r, which has no body, as HEADERS and CONTINUATION frames
// of stream 1.
func firstRequest(r *http.Request) []byte {
	var block []byte
	add := func(name, value string) {
		block = append(block, 0x00) // literal, not indexed, new name: leaves the table as it is (RFC 7541, 6.2.2)
		block = appendString(block, name)
		block = appendString(block, value)
	}
	add(":method", r.Method)
	add(":scheme", "http")
	add(":authority", r.Host)
	add(":path", r.URL.RequestURI())
	for name, vals := range r.Header {
		if !endToEnd(r.Header, name) {
			continue
		}
		for _, v := range vals {
			add(strings.ToLower(name), v)
		}
	}
	var out []byte
	kind, flags := byte(kindHeaders), byte(flagEndStream)
	for {
		n := min(len(block), maxFrame)
		if n == len(block) {
			flags |= flagEndHeaders
		}
		out = append(out, byte(n>>16), byte(n>>8), byte(n), kind, flags, 0, 0, 0, 1)
		out = append(out, block[:n]...)
		if block = block[n:]; len(block) == 0 {
			return out
		}
		kind, flags = kindContinuation, 0
	}
}

// endToEnd reports whether a field may stand in HTTP/2 (RFC 9113, 8.2.2).
func endToEnd(h http.Header, name string) bool {
	switch name {
	case "Connection", "Upgrade", "Http2-Settings", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Te", "Host":
		return false
	}
	return !hasToken(h["Connection"], name)
}

// appendString writes an HPACK string without Huffman coding (RFC 7541, 5.2).
func appendString(b []byte, s string) []byte {
	n := uint64(len(s))
	if n < 127 {
		b = append(b, byte(n))
	} else { // a 7-bit prefix integer (5.1)
		b = append(b, 127)
		for n -= 127; n >= 128; n >>= 7 {
			b = append(b, byte(n)|128)
		}
		b = append(b, byte(n))
	}
	return append(b, s...)
}
