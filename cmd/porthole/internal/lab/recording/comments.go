package recording

import (
	"bufio"
	"encoding/binary"
	"io"
	"strings"
	"time"
)

// comments is a pcapng file on its way to its reader, which knows nothing of the
// comments of packets: what porthole says there of each (docs/capture.md) is read here.
// A block that is none, or too long for one of porthole's, ends that; bytes pass
// unchanged.
type comments struct {
	r     *bufio.Reader
	order binary.ByteOrder
	block []byte   // what is not handed on yet
	said  []string // of packets that are not handed on yet, one each
	blind bool     // the rest is not looked at
}

// The blocks of pcapng that begin with a section or hold a packet.
const (
	sectionHeader  = 0x0a0d0d0a
	obsoletePacket = 2
	simplePacket   = 3
	enhancedPacket = 6

	limitBlock = 1 << 18
	optComment = 1
)

func (c *comments) Read(p []byte) (int, error) {
	if len(c.block) == 0 && !c.blind {
		c.read()
	}
	if len(c.block) == 0 {
		return c.r.Read(p)
	}
	n := copy(p, c.block)
	c.block = c.block[n:]
	return n, nil
}

// read takes the next block, or leaves it.
func (c *comments) read() {
	c.blind = true
	head, err := c.r.Peek(12)
	if err != nil {
		return
	}
	if binary.BigEndian.Uint32(head) == sectionHeader {
		c.order = binary.LittleEndian
		if binary.BigEndian.Uint32(head[8:]) == 0x1a2b3c4d {
			c.order = binary.BigEndian
		}
	}
	if c.order == nil {
		return
	}
	n := c.order.Uint32(head[4:])
	if n < 12 || n > limitBlock {
		return
	}
	c.block = make([]byte, n)
	got, err := io.ReadFull(c.r, c.block)
	c.block = c.block[:got]
	if err != nil {
		return
	}
	c.blind = false
	switch c.order.Uint32(c.block) {
	case enhancedPacket:
		c.said = append(c.said, c.comment(c.block[8:n-4]))
	case simplePacket, obsoletePacket:
		c.said = append(c.said, "")
	}
}

// comment is the first of an enhanced packet block.
func (c *comments) comment(body []byte) string {
	const fixed = 20
	if len(body) < fixed {
		return ""
	}
	captured := uint64(c.order.Uint32(body[12:]))
	skip := fixed + (captured+3)&^3
	if skip > uint64(len(body)) {
		return ""
	}
	for o := body[skip:]; len(o) >= 4; {
		code, n := c.order.Uint16(o), int(c.order.Uint16(o[2:]))
		if code == 0 || n > len(o)-4 {
			break
		}
		if code == optComment {
			return string(o[4 : 4+n])
		}
		o = o[4+min((n+3)&^3, len(o)-4):]
	}
	return ""
}

// next is what is said of the packet that the reader gives next.
func (c *comments) next() (said remark) {
	if len(c.said) == 0 {
		return said
	}
	text := c.said[0]
	c.said = c.said[1:]
	for _, w := range strings.Fields(text) {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "fate":
			said.fate = value
		case "waited":
			if d, err := time.ParseDuration(value); err == nil && d >= 0 {
				said.waited = d
			}
		}
	}
	return said
}

// remark is what a capture of porthole's says of a packet.
type remark struct {
	fate   string // empty: nothing
	waited time.Duration
}
