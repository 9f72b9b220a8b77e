package flow

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"porthole/demux"
	"porthole/demux/packet"
	"porthole/impair"
)

// A snapshot is copied a few records at a time, so that no tap waits long: each flow
// is consistent in itself, two flows need not be of one instant.

// Flow is one conversation by value. Its JSON is what the text says. Durations are in
// nanoseconds, times are when the host saw it.
type Flow struct {
	ID       ID             `json:"id"`
	Proto    string         `json:"proto"` // tcp or udp
	Local    netip.AddrPort `json:"local"`
	Remote   netip.AddrPort `json:"remote"`
	Outbound bool           `json:"outbound,omitempty"` // the host began
	Partial  bool           `json:"partial,omitempty"`  // its beginning was not seen
	State    State          `json:"state"`
	Began    time.Time      `json:"began"`
	Seen     time.Time      `json:"seen"` // last packet, to about a millisecond

	In  Side `json:"in"` // what the other side sent
	Out Side `json:"out"`

	Dropped  uint32 `json:"dropped,omitempty"`   // packets that arrived and were not handed on
	LastDrop string `json:"last_drop,omitempty"` // fate of the last of these

	// Times since Began; 0: it did not happen, or not yet.
	Handshake time.Duration `json:"handshake_ns,omitempty"` // the final ACK
	Accepted  time.Duration `json:"accepted_ns,omitempty"`  // by the service
	Waited    time.Duration `json:"waited_ns,omitempty"`    // in the accept queue; UDP: in the port's
	Read      time.Duration `json:"read_ns,omitempty"`      // first byte, by the service
	Ended     time.Duration `json:"ended_ns,omitempty"`
	ResetBy   string        `json:"reset_by,omitempty"` // client or host

	Receive *Receive `json:"receive,omitempty"` // of an open TCP connection, as long as the stack has it

	Ladder  []Rung `json:"ladder,omitempty"`
	Head    int    `json:"head,omitempty"`    // how many of Ladder come before Skipped
	Skipped uint32 `json:"skipped,omitempty"` // rungs between the first and the last
	Shook   int    `json:"handshake_rung"`    // the rung of Ladder that completed the handshake; -1: none
}

// Side is what one side of a flow sent.
type Side struct {
	Bytes      uint64 `json:"bytes,omitempty"`     // TCP: of data, by sequence numbers
	Datagrams  uint64 `json:"datagrams,omitempty"` // UDP
	SYNs       uint16 `json:"syns,omitempty"`
	Resent     uint32 `json:"resent,omitempty"` // segments with data that had been seen
	Gaps       uint32 `json:"gaps,omitempty"`   // segments whose predecessor had not
	ZeroWindow uint32 `json:"zero_windows,omitempty"`
	// ZeroFor is how long its window was closed, a spell that still lasts included.
	ZeroFor time.Duration `json:"zero_window_ns,omitempty"`
	// FirstData is when its first data passed, since Began.
	FirstData time.Duration `json:"first_data_ns,omitempty"`
	Options   *Offer        `json:"options,omitempty"` // of its SYN
}

// Offer are what a SYN of the three-way handshake offered.
type Offer struct {
	MSS         uint16 `json:"mss,omitempty"`
	WindowScale *uint8 `json:"window_scale,omitempty"`
	SACK        bool   `json:"sack,omitempty"`
	Timestamps  bool   `json:"timestamps,omitempty"`
	FastOpen    string `json:"fast_open,omitempty"` // asked, or cookie
	ECN         bool   `json:"ecn,omitempty"`
	Malformed   bool   `json:"malformed,omitempty"`
}

// State is how far a flow has come.
type State uint8

// The states of a flow.
const (
	Opening  State = iota // TCP: a SYN, no handshake yet
	Shut                  // TCP: a SYN, refused by a queue or a closed port, the last time
	Open                  // the handshake is done; UDP: always
	Waits                 // and the connection waits for the service
	Closing               // one side has finished
	Finished              // both have
	WasReset
	numStates
)

var states = [numStates]string{"opening", "refused", "open", "waiting", "closing", "closed", "reset"}

func (s State) String() string {
	if s < numStates {
		return states[s]
	}
	return "unknown"
}

// MarshalText implements encoding.TextMarshaler.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is the reverse.
func (s *State) UnmarshalText(b []byte) error {
	for n, name := range states {
		if name == string(b) {
			*s = State(n)
			return nil
		}
	}
	return fmt.Errorf("parse flow state %q: no such state", b)
}

// Rung is one entry of a flow's ladder.
type Rung struct {
	At     time.Duration // since Began
	Dir    Direction
	What   What
	Flags  uint8  // TCP
	Seq    uint32 // relative to the first of its side
	Ack    uint32 // relative to the first of the other
	Len    uint32 // bytes of payload; Data: all that passed since the last rung
	Window uint16 // as sent, unscaled
	Opts   uint8  // of a SYN, as bits
	Fate   demux.Fate
	Depth  uint32 // of the queue that decided
	Limit  uint32
	Waited time.Duration // Accepted, and FirstRead of UDP
	Rules  impair.Fault  // what impairment rules did to the packet
}

// isPacket reports whether the rung is of one packet.
func (r *Rung) isPacket() bool {
	switch r.What {
	case Admitted, Refused, Established, Accepted, FirstRead, Data:
		return false
	}
	return true
}

// Filter chooses flows; its zero value chooses the newest DefaultList.
type Filter struct {
	Port   *demux.Port // the host's port
	Remote netip.Addr
	Active bool // only those that have not ended
	Limit  int  // newest so many; 0: DefaultList
}

// DefaultList is how many flows a list holds when nobody says.
const DefaultList = 1000

func (f *Filter) takes(c *cold) bool {
	switch {
	case f.Port != nil && c.k.port() != *f.Port, f.Active && c.ended:
		return false
	case f.Remote.IsValid():
		k := c.k.public()
		return k.Remote.Addr() == f.Remote.Unmap()
	}
	return true
}

// chunk is how many records are looked at with mu held once.
const chunk = 64

// Flows lists flows, oldest first.
func (t *Table) Flows(now int64, f Filter) []Flow {
	if t == nil {
		return nil
	}
	limit := f.Limit
	if limit <= 0 {
		limit = DefaultList
	}
	// First which, by number, then the newest of them whole.
	type found struct {
		id   ID
		slot uint32
	}
	var which []found
	t.each(func(slot uint32, c *cold) bool {
		if f.takes(c) {
			which = append(which, found{c.id, slot})
		}
		return true
	})
	slices.SortFunc(which, func(a, b found) int { return cmp.Compare(a.id, b.id) })
	which = which[len(which)-min(len(which), limit):]
	out := make([]Flow, 0, len(which))
	for _, w := range which {
		if fl, ok := t.copy(now, w.slot, w.id); ok {
			out = append(out, fl)
		}
	}
	return out
}

// each calls f with every record in use until it says false; mu is held.
func (t *Table) each(f func(slot uint32, c *cold) bool) {
	for from := uint32(0); ; from += chunk {
		t.mu.Lock()
		to := min(from+chunk, t.used)
		for slot := from; slot < to; slot++ {
			if !f(slot, t.coldLocked(slot)) {
				t.mu.Unlock()
				return
			}
		}
		t.mu.Unlock()
		if to < from+chunk {
			return
		}
	}
}

// Get is one flow, when it is still kept.
func (t *Table) Get(now int64, id ID) (Flow, bool) {
	if t == nil {
		return Flow{}, false
	}
	at, ok := uint32(0), false
	t.each(func(slot uint32, c *cold) bool {
		if c.id == id {
			at, ok = slot, true
		}
		return !ok
	})
	if !ok {
		return Flow{}, false
	}
	return t.copy(now, at, id)
}

// IDOf names the conversation of a packet of time at; false when it is none, or has
// made room for another one since. ip holds the addresses and i the ports.
func (t *Table) IDOf(at int64, d Direction, ip []byte, i *packet.Info) (ID, bool) {
	if t == nil || i.Version == 0 || i.Kind > packet.UDP {
		return 0, false
	}
	k := keyOf(d, ip, i)
	h := t.hash(&k)
	t.mu.Lock()
	defer t.mu.Unlock()
	r, slot := t.search(h, &k)
	if r == nil {
		return 0, false
	}
	c := t.coldLocked(slot)
	return c.id, c.born <= at
}

// copy takes a record out by value; false when it is another flow's by now.
func (t *Table) copy(now int64, slot uint32, id ID) (Flow, bool) {
	var buf [2 * Rungs]rung
	t.mu.Lock()
	c := *t.coldLocked(slot)
	if c.id != id {
		t.mu.Unlock()
		return Flow{}, false
	}
	r := &t.hot[slot]
	bytes := [2]uint64{c.bytes(r, In), c.bytes(r, Out)}
	window := c.window(r)
	seen := max(t.seenLocked(now, slot), c.born)
	st := r.state.Load()
	rungs, head, skipped := t.rungs.copy(buf[:0], &c.ladder)
	t.mu.Unlock()
	f := t.flow(now, &c, bytes, seen, st, rungs, head, skipped)
	if c.k.isTCP() && c.handshook != 0 && !c.ended {
		f.Receive = &Receive{Window: window}
	}
	return f, true
}

func (t *Table) flow(now int64, c *cold, bytes [2]uint64, seen int64, st uint32, rungs []rung, head int, skipped uint32) Flow {
	k := c.k.public()
	f := Flow{ID: c.id, Proto: k.Proto.String(), Local: k.Local, Remote: k.Remote, Outbound: c.hostFirst,
		Partial: c.partial, Began: t.wall(c.born), Seen: t.wall(seen), Dropped: c.drops,
		Waited: time.Duration(c.waited), Head: head, Skipped: skipped, Shook: -1, State: c.state(rungs)}
	if c.drops > 0 {
		f.LastDrop = c.lastDrop.String()
	}
	since := func(at int64) time.Duration {
		if at == 0 {
			return 0
		}
		return max(time.Duration(at-c.born), 1)
	}
	f.Handshake, f.Accepted, f.Read, f.Ended = since(c.handshook), since(c.accepted), since(c.read), since(c.endedAt)
	if c.partial {
		f.Handshake = 0
	}
	switch c.resetBy {
	case 1:
		f.ResetBy = "client"
	case 2:
		f.ResetBy = "host"
	}
	for d, s := range []*Side{&f.In, &f.Out} {
		*s = Side{SYNs: c.syns[d], Resent: c.resent[d], Gaps: c.gaps[d], ZeroWindow: c.zeros[d],
			ZeroFor: time.Duration(c.zeroFor[d]), FirstData: since(c.firstData[d])}
		if st&(zeroIn<<d) != 0 && !c.ended {
			s.ZeroFor += time.Duration(now - c.zeroSince[d])
		}
		if c.k.isTCP() {
			s.Bytes = bytes[d]
			s.Options = c.offered(d)
		} else {
			s.Datagrams = bytes[d]
		}
	}
	for i, r := range rungs {
		f.Ladder = append(f.Ladder, c.rung(r))
		if f.Shook < 0 && f.Handshake != 0 && max(r.at, 1) == c.handshook && !r.fate.Dropped() &&
			(r.what == Established || r.flags&packet.ACK != 0 && r.flags&packet.SYN == 0) {
			f.Shook = i
		}
	}
	return f
}

func (c *cold) rung(r rung) Rung {
	n := Rung{At: time.Duration(r.at - c.born), Dir: r.dir, What: r.what, Flags: r.flags, Len: r.n,
		Window: r.window, Opts: r.opts, Fate: r.fate, Depth: r.depth, Limit: r.limit, Rules: r.rules}
	if r.what == Accepted || r.what == FirstRead {
		n.Waited, n.Depth, n.Limit = time.Duration(uint64(r.depth)<<32|uint64(r.limit)), 0, 0
	}
	if r.flags != 0 {
		n.Seq = r.seq - c.isn[r.dir]
		if r.flags&packet.ACK != 0 {
			n.Ack = r.ack - c.isn[1-r.dir]
			if !c.known[1-r.dir] {
				n.Ack = 0
			}
		}
	}
	return n
}

func (c *cold) state(rungs []rung) State {
	switch {
	case c.resetBy != 0:
		return WasReset
	case c.ended:
		return Finished
	case c.fin[In] || c.fin[Out]:
		return Closing
	case c.handshook != 0 && c.accepted == 0 && !c.hostFirst && hasWhat(rungs, Established):
		return Waits
	case c.handshook != 0 || !c.k.isTCP():
		return Open
	case len(rungs) > 0:
		for i := len(rungs) - 1; i >= 0; i-- {
			if r := &rungs[i]; r.flags&packet.SYN != 0 || r.what == Refused {
				if r.fate.Dropped() || r.fate == demux.Closed {
					return Shut
				}
				break
			}
		}
	}
	return Opening
}

// before reports whether rung i came before the handshake was complete. Packets of
// one batch have one time, so order tells, not time.
func (f *Flow) before(i int) bool {
	if f.Shook >= 0 {
		return i < f.Shook
	}
	return f.Handshake == 0 || f.Ladder[i].At < f.Handshake
}

func hasWhat(rungs []rung, w What) bool {
	return slices.ContainsFunc(rungs, func(r rung) bool { return r.what == w })
}

func (c *cold) offered(d int) *Offer {
	if c.syns[d] == 0 {
		return nil
	}
	b := c.opts[d]
	o := &Offer{MSS: c.mss[d], SACK: b&optSACK != 0, Timestamps: b&optTimestamps != 0,
		ECN: b&optECN != 0, Malformed: b&optBad != 0}
	if b&optScale != 0 {
		s := c.scale[d]
		o.WindowScale = &s
	}
	switch {
	case b&optFastOpenCookie != 0:
		o.FastOpen = "cookie"
	case b&optFastOpen != 0:
		o.FastOpen = "asked"
	}
	return o
}

func (t *Table) wall(at int64) time.Time { return t.start.Add(time.Duration(at)) }
