package tun

import (
	"errors"
	"fmt"
	"io"
)

// What can be wrong with a device, for errors.Is. Errors of Open are *Error.
var (
	ErrOptions        = errors.New("bad device option")
	ErrNoDevice       = errors.New("no device on this system")
	ErrNoNode         = errors.New("no device node")
	ErrNodePermission = errors.New("no permission for the device node")
	ErrPermission     = errors.New("no permission to make interfaces")
	ErrNameInUse      = errors.New("interface name in use")
	ErrNoOffload      = errors.New("no offload in this kernel")
	ErrNoIPv6         = errors.New("no IPv6 on this system")
	ErrAddress        = errors.New("address refused")

	ErrDown      = errors.New("link is down")                // the frame was not taken; the device still works once it is up
	ErrGone      = errors.New("interface was removed")       // by somebody else; only Close is left to do
	ErrTooLong   = errors.New("frame too long")              // for the device, or for one packet of its MTU
	ErrOffloaded = errors.New("offload on a device without") // a super-packet or partial checksum where Facts.GSO is false
	ErrMalformed = errors.New("malformed frame")             // its Offload contradicts its bytes
)

// Error is one line: what was tried, why it failed, and what to do next.
type Error struct {
	Op    string // "open device ph0"
	Cause string
	Next  string // the step that mends it; "" when there is none to name
	Err   error  // one of the sentinels above, with the system's error when there was one
}

func (e *Error) Error() string {
	if e.Next == "" {
		return e.Op + ": " + e.Cause
	}
	return e.Op + ": " + e.Cause + "; " + e.Next
}

func (e *Error) Unwrap() error { return e.Err }

// because joins a sentinel and the system's error, so that errors.Is finds both.
func because(sentinel, err error) error {
	if err == nil {
		return sentinel
	}
	return fmt.Errorf("%w: %w", sentinel, err)
}

const (
	// maxIP is the longest IP packet: both families count it in 16 bits.
	maxIP = 65535
	// etherRoom is the most link header a frame carries on Ethernet: 14 bytes and one VLAN tag.
	etherRoom = 18
)

// room checks what every Read is given. A kernel device cuts a frame that does
// not fit without a word, so too little room is refused before it can happen, on
// every device alike.
func room(frames []Frame, tail []byte) error {
	if len(tail) < TailSize {
		return fmt.Errorf("read: tail buffer of %d bytes, want %d: %w", len(tail), TailSize, io.ErrShortBuffer)
	}
	if len(frames) == 0 {
		return fmt.Errorf("read: no frames to fill: %w", io.ErrShortBuffer)
	}
	for i := range frames {
		if len(frames[i].Head) < HeadSize {
			return fmt.Errorf("read: head of frame %d has %d bytes, want %d: %w", i, len(frames[i].Head), HeadSize, io.ErrShortBuffer)
		}
	}
	return nil
}

// length is the size of f in bytes.
func (f *Out) length() int {
	n := 0
	for _, p := range f.Pieces {
		n += len(p)
	}
	return n
}

// gather copies f into b, which must hold it, and returns its size.
func (f *Out) gather(b []byte) int {
	n := 0
	for _, p := range f.Pieces {
		n += copy(b[n:], p)
	}
	return n
}
