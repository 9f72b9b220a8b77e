package porthole

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"porthole/demux"
	"porthole/demux/capture"
)

// CaptureOptions say what a capture keeps. The zero value is every packet, whole,
// until the capture is stopped.
type CaptureOptions struct {
	Ports       []string      `json:"ports,omitempty"`        // to and from these: "80/tcp", or a lane as Ledger.Of names it
	Fates       []string      `json:"fates,omitempty"`        // only what met one of these, and nothing that leaves
	Snaplen     int           `json:"snaplen,omitempty"`      // bytes kept of each packet; 0: all
	Duration    time.Duration `json:"duration_ns,omitempty"`  // 0: until it is stopped
	Count       uint64        `json:"count,omitempty"`        // records; 0: no limit
	Places      bool          `json:"places,omitempty"`       // a copy per station
	BufferBytes int           `json:"buffer_bytes,omitempty"` // for what its reader has not taken yet; 0: 16 MiB
}

// CaptureStatus is one capture at one instant.
type CaptureStatus struct {
	ID       string         `json:"id"`
	Options  CaptureOptions `json:"options"`
	State    string         `json:"state"`            // recording; ending: its reader has not got all yet; ended
	Reason   string         `json:"reason,omitempty"` // why it ended: stopped, duration, count, host stopped, its reader went away, nobody read it
	Device   string         `json:"device"`
	Reader   bool           `json:"reader"` // somebody has read it, or does
	Began    time.Time      `json:"began"`
	Ended    *time.Time     `json:"ended,omitempty"`
	Seen     uint64         `json:"seen"`     // packets that passed meanwhile
	Accepted uint64         `json:"accepted"` // of those, packets that it wants
	Missed   uint64         `json:"missed"`   // of those, packets that found its buffer full
	Written  uint64         `json:"written"`  // records; a super-packet is several
}

// Check reports what is wrong with the options, by the name of the flag or field.
func (o CaptureOptions) Check() error {
	_, err := o.parse()
	return err
}

func (o CaptureOptions) parse() (c capture.Options, err error) {
	for _, name := range o.Ports {
		p, ok := lineOf(name)
		if !ok || !p.IsLane() && p.Number() == 0 {
			return c, fmt.Errorf("port %q: want a port (80/tcp) or a lane (closed, link, icmp, %s)", name, LaneHost)
		}
		c.Ports = append(c.Ports, p)
	}
	for _, name := range o.Fates {
		f, ok := demux.ParseFate(name)
		if !ok {
			return c, fmt.Errorf("fate %q: no such fate; `porthole fates --all` lists them", name)
		}
		c.Fates = append(c.Fates, f)
	}
	switch {
	case len(o.Ports) > capture.MaxPorts:
		return c, fmt.Errorf("port: %d of them, at most %d; leave it out for all", len(o.Ports), capture.MaxPorts)
	case o.Snaplen < 0 || o.Snaplen > capture.MaxSnaplen:
		return c, fmt.Errorf("snaplen %d: must be 0 (all) to %d bytes", o.Snaplen, capture.MaxSnaplen)
	case o.Duration < 0:
		return c, fmt.Errorf("duration %v: must be positive", o.Duration)
	case o.BufferBytes != 0 && (o.BufferBytes < capture.MinBuffer || o.BufferBytes > capture.MaxBuffer):
		return c, fmt.Errorf("buffer %d: must be %d to %d bytes", o.BufferBytes, capture.MinBuffer, capture.MaxBuffer)
	}
	c.Snaplen, c.Duration, c.Count, c.Places, c.Buffer = o.Snaplen, o.Duration, o.Count, o.Places, o.BufferBytes
	return c, nil
}

// StartCapture begins a capture. It records from now on into a buffer, which
// StreamCapture takes out; one that nobody reads for a minute ends.
func (h *Host) StartCapture(o CaptureOptions) (CaptureStatus, error) {
	co, err := o.parse()
	if err != nil {
		return CaptureStatus{}, refuse(Invalid, "capture: %w", err)
	}
	c, err := h.capture.Start(co)
	switch {
	case errors.Is(err, capture.ErrClosed):
		return CaptureStatus{}, refuse(Stopped, "capture: %w", err)
	case err != nil:
		return CaptureStatus{}, refuse(InUse, "capture: %w", err)
	}
	return h.captureStatus(c), nil
}

// Captures are those that record, and the last that have ended, oldest first.
func (h *Host) Captures() []CaptureStatus {
	list := []CaptureStatus{}
	for _, c := range h.capture.List() {
		list = append(list, h.captureStatus(c))
	}
	return list
}

// CaptureTotals sum up all captures that there ever were.
type CaptureTotals struct {
	Started  uint64
	Running  int    // now
	Accepted uint64 // packets that one wanted
	Missed   uint64 // of those, packets that found its buffer full
	Written  uint64 // records
}

// CaptureTotals is a snapshot; none of it but Running ever becomes less.
func (h *Host) CaptureTotals() CaptureTotals { return CaptureTotals(h.capture.Totals()) }

// CaptureStatus is one of them.
func (h *Host) CaptureStatus(id string) (CaptureStatus, error) {
	c, err := h.findCapture(id)
	if err != nil {
		return CaptureStatus{}, err
	}
	return h.captureStatus(c), nil
}

// StopCapture makes a capture record no more. Its reader gets what is buffered, and
// the end of the file.
func (h *Host) StopCapture(id string) (CaptureStatus, error) {
	c, err := h.findCapture(id)
	if err != nil {
		return CaptureStatus{}, err
	}
	c.Stop()
	return h.captureStatus(c), nil
}

// StreamCapture writes a capture to w as a pcapng file, while it records, and returns
// when it has ended and the file is complete. The end of ctx ends the capture. It can
// be read once.
func (h *Host) StreamCapture(ctx context.Context, id string, w io.Writer) error {
	c, err := h.findCapture(id)
	if err != nil {
		return err
	}
	switch err := c.Stream(ctx, w); {
	case errors.Is(err, capture.ErrRead):
		return refuse(InUse, "capture %s: %w", id, err)
	case errors.Is(err, capture.ErrEnded):
		return refuse(NotFound, "capture %s: %w", id, err)
	default:
		return err
	}
}

// Capture writes packets to w as a pcapng file until ctx, the host, or what the options
// bound ends, and says how many. A file that was completed is no error.
func (h *Host) Capture(ctx context.Context, w io.Writer, o CaptureOptions) (CaptureStatus, error) {
	s, err := h.StartCapture(o)
	if err != nil {
		return s, err
	}
	if err := h.StreamCapture(ctx, s.ID, w); err != nil {
		return s, fmt.Errorf("capture: %w", err)
	}
	return h.CaptureStatus(s.ID)
}

func (h *Host) findCapture(id string) (*capture.Capture, error) {
	c, err := h.capture.Find(id)
	if err != nil {
		return nil, refuse(NotFound, "capture %s: %w; `porthole capture --list` shows them", id, err)
	}
	return c, nil
}

func (h *Host) captureStatus(c *capture.Capture) CaptureStatus {
	s := c.Status()
	o := CaptureOptions{
		Snaplen: s.Options.Snaplen, Duration: s.Options.Duration, Count: s.Options.Count,
		Places: s.Options.Places, BufferBytes: s.Options.Buffer,
	}
	for _, p := range s.Options.Ports {
		o.Ports = append(o.Ports, capture.PortName(p))
	}
	for _, f := range s.Options.Fates {
		o.Fates = append(o.Fates, f.String())
	}
	st := CaptureStatus{
		ID: s.ID, Options: o, State: string(s.State), Reason: s.Reason, Device: h.facts.Name, Reader: s.Reader,
		Began: s.Began, Seen: s.Seen, Accepted: s.Accepted, Missed: s.Missed, Written: s.Written,
	}
	if !s.Ended.IsZero() {
		st.Ended = &s.Ended
	}
	return st
}
