package recording

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Read reads a file and makes the recording of one port; port "" is the one with most
// requests. With ErrNoService the recording is there, but Serve is negative.
func Read(path, port string) (*Recording, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if st, err := f.Stat(); err == nil && st.IsDir() {
		return nil, fmt.Errorf("%s is a directory; want a capture, or what `porthole flows --json` printed", path)
	}
	rec, err := read(f, port)
	if err != nil && !errors.Is(err, ErrNoService) {
		return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return rec, err
}

func read(r io.Reader, port string) (*Recording, error) {
	b := bufio.NewReaderSize(r, 1<<16)
	head, err := b.Peek(4)
	if err != nil && len(head) == 0 {
		return nil, errors.New("it is empty")
	}
	p := newPorts()
	switch {
	case isCapture(head):
		err = p.capture(b, port)
	case len(bytes.TrimLeft(head, " \t\r\n")) > 0 && bytes.TrimLeft(head, " \t\r\n")[0] == '{':
		err = p.flows(b)
	default:
		err = errors.New("it is neither pcapng, pcap, nor what `porthole flows --json` printed")
	}
	if err != nil {
		return nil, err
	}
	name, err := p.choose(port)
	if err != nil {
		return nil, err
	}
	return p.recording(name)
}

// isCapture knows a capture by its first bytes.
func isCapture(head []byte) bool {
	if len(head) < 4 {
		return false
	}
	switch binary.BigEndian.Uint32(head) {
	case 0x0a0d0d0a, // pcapng
		0xa1b2c3d4, 0xd4c3b2a1, 0xa1b23c4d, 0x4d3cb2a1: // pcap, µs and ns, either order of bytes
		return true
	}
	return false
}
