// Package tun moves raw IP packets (or Ethernet frames, on TAP) between a device
// and the virtual host. It knows nothing of ports. Devices: the Linux TUN/TAP
// device with segmentation and checksum offload, the portable one on
// songgao/water, and Pipe, two joined devices in memory. Impair wraps any of them and
// makes its link lose, delay, reorder, copy and corrupt packets, or slow.
package tun

import (
	"errors"
	"net"

	"porthole/impair"
)

// HeadSize is the least room that each Frame.Head offers to Read. Frames up to
// this size never use the batch's tail buffer.
const HeadSize = 2048

// TailSize is the room a tail buffer needs, so that head and tail hold the largest frame.
const TailSize = 65536

// ErrWouldBlock is returned by a Write that may not wait, for the frames that
// the device could not take at once.
var ErrWouldBlock = errors.New("device would block")

// Flags of Offload, as in struct virtio_net_hdr.
const (
	NeedsCsum uint8 = 1 // the checksum at CsumStart+CsumOffset holds only the pseudo-header's sum
	DataValid uint8 = 2 // the checksum was verified or never left the machine
)

// Segmentation kinds of Offload, as in struct virtio_net_hdr.
const (
	GSONone uint8 = 0
	GSOTCP4 uint8 = 1
	GSOTCP6 uint8 = 4
)

// Offload is the work on a frame that one side left to the other: struct
// virtio_net_hdr. The zero value is a complete frame whose checksums nobody vouches for.
type Offload struct {
	Flags      uint8
	GSO        uint8
	HdrLen     uint16 // bytes of all headers, when GSO is set
	SegSize    uint16 // payload bytes of each segment, when GSO is set
	CsumStart  uint16 // where summing begins, when NeedsCsum
	CsumOffset uint16 // where the sum is stored, from CsumStart
}

// Frame is one frame of a read batch. Before Read, Head is the room for its
// first bytes (at least HeadSize); after, Head and Tail together are the frame.
type Frame struct {
	Head []byte
	Tail []byte // the rest of a frame longer than the room in Head: a slice of the batch's tail buffer
	Offload

	// Fault is what a link rule did to the frame (see Impair), which only an impaired
	// device sets: the reader offers it as zero. A frame that a rule has dropped is
	// read nevertheless, so that it is counted where all others are.
	Fault impair.Fault
}

// Out is one frame to write, in pieces that stay the caller's.
type Out struct {
	Pieces [][]byte
	Offload
}

// Facts say what a device is. They never change while it is open.
type Facts struct {
	Name   string           // of the interface ("ph0"); of a Pipe: a label
	Kind   string           // "offload", "water", "tap" or "pipe"
	MTU    int              // bytes of IP in one packet
	Queues int              // reader queues, 0..Queues-1
	HW     net.HardwareAddr // the virtual host's own address on an Ethernet device, else nil
	GSO    bool             // TCP super-packets and partial checksums pass both ways
}

// Device carries frames to and from the virtual host. Each queue is read by one
// goroutine at a time; Write may be called from many.
type Device interface {
	Facts() Facts

	// Read waits until queue has a frame, then takes frames without waiting
	// again until none is left, frames is full, or one needed the tail buffer
	// (which is then that frame's until the caller offers another). It returns
	// how many it filled. After Close it returns os.ErrClosed.
	Read(queue int, frames []Frame, tail []byte) (int, error)

	// Write writes frames in order and returns how many the device took. When
	// wait is false it returns ErrWouldBlock instead of waiting for room. A frame
	// that the device refuses for its content (too long, malformed) gives that
	// error with n counting the frames before it. After Close: os.ErrClosed.
	Write(queue int, frames []Out, wait bool) (n int, err error)

	// Close frees every waiting Read and Write and removes the device.
	Close() error
}
