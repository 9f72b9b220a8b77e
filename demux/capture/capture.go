// Package capture records packets with what became of them, as pcapng.
//
// A packet's way through this package, downward through its files:
//
//	capture.go   the captures of a host: begin, end, what is known of each
//	tap.go       looks on (demux.Watcher): does a capture want it? then a copy is kept
//	buffer.go    the copies, bounded; what finds no room is counted as missed
//	stream.go    whoever reads a capture writes the file: super-packets cut, checksums
//	             completed, a comment for each record; place.go: and a copy per station
//	pcapng.go    the blocks of the file
//
// A record is made when the packet's fate is known, with the time of its arrival, so
// the times of a file do not always rise. Nothing here holds a packet up: a tap copies
// under a mutex that is otherwise held for another copy or for a swap of two buffers.
//
// What it is not: a filter language (Wireshark's works on the comments), a ring of
// files, or a tool for other interfaces than the host's own.
package capture

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"porthole/demux"
	"porthole/demux/flow"
	"porthole/demux/packet"
)

// Bounds.
const (
	MaxCaptures   = 8         // that record at once
	MaxPorts      = 64        // that one capture names
	MaxSnaplen    = 262144    // as of tcpdump; 0 is no limit either
	MinBuffer     = 256 << 10 // a super-packet finds room in it
	MaxBuffer     = 1 << 30
	DefaultBuffer = 16 << 20
	keepEnded     = 16          // ended captures that are still listed
	unread        = time.Minute // a capture that nobody reads for so long ends
)

// Errors of Start and Stream.
var (
	ErrTooMany = fmt.Errorf("%d captures run already; stop one of them", MaxCaptures)
	ErrClosed  = errors.New("the host has stopped")
	ErrUnknown = errors.New("no such capture")
	ErrRead    = errors.New("somebody reads it already")
	ErrEnded   = errors.New("it has ended, and its packets are gone")
)

// Config is what the captures of a host have in common.
type Config struct {
	Table  *demux.Table
	Flows  *flow.Table // names the conversations; may be nil
	Start  time.Time   // what the table's time 0 was by the wall clock
	Device string      // name of the interface
	HW     []byte      // its address where frames have a link header, else nil
	App    string      // who writes: "porthole 0.1.0"
}

// Options say what one capture keeps. The zero value is all packets, whole, until it
// is stopped.
type Options struct {
	Ports    []demux.Port // to and from these ports or lanes; none: all
	Fates    []demux.Fate // that met one of these, and then nothing that leaves; none: all
	Snaplen  int          // bytes kept of each packet; 0: all
	Duration time.Duration
	Count    uint64 // records; 0: no limit
	Places   bool   // a copy per station
	Buffer   int    // bytes for what the reader has not taken yet; 0: DefaultBuffer
}

// Set is the captures of one host. It owns them; who reads one drives its writing.
type Set struct {
	cfg     Config
	watcher demux.Watcher
	running atomic.Pointer[[]*Capture] // those that record; nil: none
	packets atomic.Uint64              // seen while any recorded

	own4, own6 [packet.EthernetSize]byte // link headers from the host to itself

	mu        sync.Mutex
	all       []*Capture // oldest first
	last      int        // number of the newest
	closed    bool
	forgotten Totals // of those that are not listed any more
}

// NewSet makes the captures of a host. Nothing looks on before Start.
func NewSet(c Config) *Set {
	s := &Set{cfg: c}
	s.watcher = demux.Watcher{In: s.in, Out: s.out}
	if len(c.HW) == 6 {
		hw := [6]byte(c.HW)
		packet.PutEthernet(s.own4[:], hw, hw, packet.EtherIPv4)
		packet.PutEthernet(s.own6[:], hw, hw, packet.EtherIPv6)
	} else {
		s.cfg.HW = nil
	}
	return s
}

// Capture is one capture. State and numbers are in Status.
type Capture struct {
	ID      string
	set     *Set
	o       Options
	fates   [demux.NumFates]bool
	began   time.Time
	first   uint64 // Set.packets when it began
	done    chan struct{}
	expires *time.Timer // its Duration
	idle    *time.Timer // nobody reads it

	buf buffer

	mu      sync.Mutex
	reader  bool
	reason  string // why it ended; "" while it records
	ended   time.Time
	seen    uint64 // of the set's packets, once it ended
	gone    bool   // read to its end, or given up
	written uint64 // records
}

// Start begins a capture. It records at once, into its buffer; Stream takes it out.
func (s *Set) Start(o Options) (*Capture, error) {
	if o.Buffer <= 0 {
		o.Buffer = DefaultBuffer
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var running []*Capture
	if r := s.running.Load(); r != nil {
		running = *r
	}
	switch {
	case s.closed:
		return nil, ErrClosed
	case len(running) >= MaxCaptures:
		return nil, ErrTooMany
	}
	s.last++
	c := &Capture{
		ID: fmt.Sprintf("c%d", s.last), set: s, o: o, began: time.Now(),
		first: s.packets.Load(), done: make(chan struct{}),
	}
	for _, f := range o.Fates {
		c.fates[f] = true
	}
	c.buf.init(o.Buffer)
	if o.Duration > 0 {
		c.expires = time.AfterFunc(o.Duration, func() { c.end("duration") })
	}
	c.idle = time.AfterFunc(unread, c.giveUp)
	s.all = append(s.all, c)
	s.forgetLocked()
	list := append(slices.Clip(running), c)
	s.running.Store(&list)
	s.cfg.Table.SetWatcher(&s.watcher)
	return c, nil
}

// forgetLocked keeps the list of captures short.
func (s *Set) forgetLocked() {
	ended := 0
	for i := len(s.all) - 1; i >= 0; i-- {
		if !s.all[i].isGone() {
			continue
		}
		if ended++; ended > keepEnded {
			s.forgotten.add(s.all[i].Status())
			s.all = slices.Delete(s.all, i, i+1)
		}
	}
}

// Find is a capture by its ID.
func (s *Set) Find(id string) (*Capture, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.all {
		if c.ID == id {
			return c, nil
		}
	}
	return nil, ErrUnknown
}

// List are the captures that record and the last ones that have ended, oldest first.
func (s *Set) List() []*Capture {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

// Totals sum up all captures that there ever were.
type Totals struct {
	Started  uint64
	Running  int // now
	Accepted uint64
	Missed   uint64
	Written  uint64 // records
}

func (t *Totals) add(s Status) {
	t.Started++
	if s.State == Recording {
		t.Running++
	}
	t.Accepted += s.Accepted
	t.Missed += s.Missed
	t.Written += s.Written
}

// Totals is a snapshot; none of it but Running ever becomes less.
func (s *Set) Totals() Totals {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.forgotten
	for _, c := range s.all {
		t.add(c.Status())
	}
	return t
}

// Close ends all captures, and no other begins: the host has stopped. What is buffered
// may still be read.
func (s *Set) Close() {
	s.mu.Lock()
	s.closed = true
	all := slices.Clone(s.all)
	s.mu.Unlock()
	for _, c := range all {
		c.end("host stopped")
	}
}

// Stop ends a capture: nothing more is recorded. Its reader takes what is buffered and
// ends the file; without a reader that is lost.
func (c *Capture) Stop() { c.discard("stopped") }

func (c *Capture) discard(reason string) {
	c.end(reason)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.reader {
		c.leaveLocked()
	}
}

// giveUp ends a capture that nobody reads.
func (c *Capture) giveUp() {
	c.mu.Lock()
	read := c.reader
	c.mu.Unlock()
	if !read {
		c.discard("nobody read it")
	}
}

// end makes it record nothing more. The first reason counts.
func (c *Capture) end(reason string) {
	s := c.set
	s.mu.Lock()
	defer s.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reason != "" {
		return
	}
	c.reason, c.ended = reason, time.Now()
	c.seen = s.packets.Load() - c.first
	if c.expires != nil {
		c.expires.Stop()
	}
	list := slices.DeleteFunc(slices.Clone(*s.running.Load()), func(o *Capture) bool { return o == c })
	if len(list) == 0 {
		s.running.Store(nil)
		s.cfg.Table.SetWatcher(nil)
	} else {
		s.running.Store(&list)
	}
	c.buf.shut()
	close(c.done)
}

// leaveLocked lets go of the buffer: the file is complete, or nobody wants it.
func (c *Capture) leaveLocked() {
	c.idle.Stop()
	c.gone = true
	c.buf.free()
}

func (c *Capture) isGone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone
}

// State is how far a capture has come.
type State string

// The states.
const (
	Recording State = "recording"
	Ending    State = "ending" // it records no more; its reader has not got all yet
	Ended     State = "ended"
)

// Status is a capture at one instant.
type Status struct {
	ID       string
	Options  Options
	State    State
	Reason   string // why it ended
	Reader   bool   // somebody has read it, or does
	Began    time.Time
	Ended    time.Time
	Seen     uint64 // packets that passed meanwhile
	Accepted uint64 // of those, packets that it wants
	Missed   uint64 // of those, packets that found the buffer full
	Written  uint64 // records; a super-packet is several
}

// Status is a snapshot.
func (c *Capture) Status() Status {
	accepted, missed := c.buf.counts()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Status{
		ID: c.ID, Options: c.o, State: Recording, Reason: c.reason, Reader: c.reader, Began: c.began,
		Ended: c.ended, Seen: c.seen, Accepted: accepted, Missed: missed, Written: c.written,
	}
	switch {
	case c.gone:
		s.State = Ended
	case c.reason != "":
		s.State = Ending
	default:
		s.Seen = max(c.set.packets.Load()-c.first, accepted)
	}
	return s
}
