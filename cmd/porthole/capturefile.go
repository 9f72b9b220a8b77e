package main

import (
	"encoding/binary"
	"io"
	"os"

	"porthole"
)

// captureFile writes a capture's stream to a file and follows its blocks
// (draft-ietf-opsawg-pcapng): a host that was killed cannot end the file.
type captureFile struct {
	f       *os.File
	written int64
	whole   int64 // of that, up to the end of the last whole block

	head [8]byte // of the block under way
	have int     // bytes of it seen
	body []byte  // of a block of statistics

	records uint64
	ended   bool // the statistics of the first interface were seen
	stats   porthole.CaptureStatus
}

const (
	blockRecord     = 6
	blockStatistics = 5
	limitStatistics = 256 // bytes of such a block
)

// Write implements io.Writer.
func (c *captureFile) Write(b []byte) (int, error) {
	n, err := c.f.Write(b)
	c.follow(b[:n])
	return n, err
}

func (c *captureFile) follow(b []byte) {
	for len(b) > 0 {
		if c.have < len(c.head) {
			n := copy(c.head[c.have:], b)
			c.have, c.written, b = c.have+n, c.written+int64(n), b[n:]
			continue
		}
		kind, size := binary.LittleEndian.Uint32(c.head[:]), int(binary.LittleEndian.Uint32(c.head[4:]))
		n := min(max(size-c.have, 0), len(b))
		if kind == blockStatistics && len(c.body) < limitStatistics {
			c.body = append(c.body, b[:n]...)
		}
		c.have, c.written, b = c.have+n, c.written+int64(n), b[n:]
		if c.have < size {
			return
		}
		c.block(kind)
		c.whole, c.have, c.body = c.written, 0, c.body[:0]
		if n == 0 { // no block is as short as its head
			return
		}
	}
}

// block notes a whole block.
func (c *captureFile) block(kind uint32) {
	switch kind {
	case blockRecord:
		c.records++
	case blockStatistics:
		c.statistics(c.body)
	}
}

// statistics reads what stands after the head of such a block: interface, time, options.
func (c *captureFile) statistics(b []byte) {
	if len(b) < 12 || binary.LittleEndian.Uint32(b) != 0 {
		return // with --places, of another station
	}
	c.ended = true
	for b = b[12:]; len(b) >= 12; b = b[12:] { // all that we need are numbers of 8 bytes
		v := binary.LittleEndian.Uint64(b[4:])
		switch binary.LittleEndian.Uint16(b) {
		case 0:
			return
		case 4:
			c.stats.Seen = v
		case 5:
			c.stats.Missed = v
		case 6:
			c.stats.Accepted = v
		}
	}
}

// trim takes away what is no whole block, where that can be.
func (c *captureFile) trim() (trimmed bool) {
	if c.whole == c.written {
		return true
	}
	fi, err := c.f.Stat()
	if err != nil || !fi.Mode().IsRegular() || c.f.Truncate(c.whole) != nil {
		return false
	}
	_, err = c.f.Seek(c.whole, io.SeekStart)
	return err == nil
}
