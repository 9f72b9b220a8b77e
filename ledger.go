package porthole

import (
	"fmt"
	"time"

	"porthole/demux"
	"porthole/services"
	"porthole/tun"
)

// Ledger is every packet of the host, or of one port, at one instant: how it came,
// and what became of it. Law: Arrived = sum of Fates + Queued.
type Ledger struct {
	Of      string            `json:"of"` // "host", "80/tcp", or a lane: "closed", "link", "icmp", "host-lane"
	At      time.Time         `json:"at"`
	Arrived uint64            `json:"arrived"` // packets
	Kinds   map[string]uint64 `json:"kinds"`   // of those, how they came: device, reassembled, self-test, duplicated, segmented
	Fates   map[string]uint64 `json:"fates"`   // non-zero ones
	Queued  int               `json:"queued"`  // packets without a fate yet
	LawOK   bool              `json:"law_ok"`
	Broken  string            `json:"broken,omitempty"` // how the law fails, when it does
	// Device is what the kernel counted at the interface, for the host's ledger
	// and where the kernel shows it.
	Device *DeviceCounters `json:"device,omitempty"`
	// Knocks are the ports for which packets came while nobody had them, of the host's
	// ledger and of the closed lane's; Knocked is how many came for this one.
	Knocks  *Knocks `json:"knocks,omitempty"`
	Knocked uint64  `json:"knocked,omitempty"`
	// Stack is what the TCP/IP stack lost of what it was handed, for the host's ledger.
	Stack *StackCounters `json:"stack,omitempty"`
	// Out is what the host itself counted on the way out, for the host's ledger.
	Out *OutCounters `json:"out,omitempty"`
	// Link is what the rules of the whole link did, for the host's ledger, when it has
	// or had any; ImpairIn and ImpairOut are what a port's did.
	Link      *LinkStatus `json:"link,omitempty"`
	ImpairIn  *Impairment `json:"impair_in,omitempty"`
	ImpairOut *Impairment `json:"impair_out,omitempty"`
}

// Knocks sum up who scans: what came for ports that nobody has. The fates of those
// packets are the closed lane's, and who sent them is in the flows.
type Knocks struct {
	Ports   int     `json:"ports"`   // that any came for
	Packets uint64  `json:"packets"` // for them all
	Most    []Knock `json:"most"`    // the ports that most came for, 16 at most
}

// Knock is one of those ports.
type Knock struct {
	Port    services.Port `json:"port"`
	Packets uint64        `json:"packets"`
}

const mostKnocks = 16

// StackCounters are what the TCP/IP stack lost after it was handed packets to-stack.
type StackCounters struct {
	Dropped          uint64 `json:"dropped"`            // TCP segments: a full segment queue, an ACK of nothing
	Invalid          uint64 `json:"invalid"`            // TCP segments that it could not read
	TimeWaitOverflow uint64 `json:"time_wait_overflow"` // connections that left TIME-WAIT early, for there were too many
	AbortOnMemory    uint64 `json:"abort_on_memory"`    // connections that were reset when their service closed them: too many, or too much, waited for peers
	AbortOnTimeout   uint64 `json:"abort_on_timeout"`   // closed connections that were reset, for their peer acknowledged nothing more
}

// OutCounters are the host's own, in frames as it gave them to the device.
type OutCounters struct {
	Sent       uint64 `json:"sent"`        // the device took them; a super-packet counts once
	Bytes      uint64 `json:"bytes"`       // of those
	Looped     uint64 `json:"looped"`      // to the host itself
	DeviceFull uint64 `json:"device_full"` // lost: who answers as it reads waits for nobody, and the queue before the device was full
	Limited    uint64 `json:"limited"`     // not sent: resets that closed ports owed beyond 20,000 a second
	Refused    uint64 `json:"refused"`     // lost: the device would not take them (too long, interface down)
	Closed     uint64 `json:"closed"`      // lost: the device was closed
}

// DeviceCounters are the kernel's own counters of the host's interface. In is
// towards the host.
type DeviceCounters struct {
	InPackets  uint64 `json:"in_packets"` // frames that the host has read
	InBytes    uint64 `json:"in_bytes"`
	InDropped  uint64 `json:"in_dropped"` // lost before the host: the kernel's own queue was full
	InErrors   uint64 `json:"in_errors"`
	OutPackets uint64 `json:"out_packets"` // frames that the kernel took from the host
	OutBytes   uint64 `json:"out_bytes"`
	OutDropped uint64 `json:"out_dropped"`
	OutErrors  uint64 `json:"out_errors"`
}

// Ledger is the host's, taken between two batches of packets.
func (h *Host) Ledger() Ledger {
	t := h.table.Totals()
	l := ledger("host", t.Arrived, t.Kinds, t.Fates, t.Queued, t.Check())
	l.Device = h.device()
	if s := h.Link(); s.In != nil || s.Out != nil {
		l.Link = &s
	}
	l.Knocks = h.knocks()
	c := h.stack.Lost()
	l.Stack = &StackCounters{c.Dropped, c.Invalid, c.TimeWaitOverflow, c.AbortOnMemory, c.AbortOnTimeout}
	o := h.stack.Out()
	l.Out = &OutCounters{Sent: o.Sent, Bytes: o.Bytes, Looped: o.Looped, DeviceFull: o.Full, Limited: o.Limited, Refused: o.Refused, Closed: o.Closed}
	return l
}

func (h *Host) knocks() *Knocks {
	s := h.table.Knocks(mostKnocks)
	k := &Knocks{s.Ports, s.Packets, make([]Knock, len(s.Most))}
	for i, o := range s.Most {
		k.Most[i] = Knock{portOf(o.Port), o.Packets}
	}
	return k
}

// PortLedger is one port's; a lane is named as the page of fates does. ok is false
// for a port that nobody has or had, and for which nothing came.
func (h *Host) PortLedger(name string) (l Ledger, ok bool) {
	line, ok := lineOf(name)
	if !ok {
		return l, false
	}
	s := h.table.Port(line)
	l = ledger(name, s.Arrived, s.Kinds, s.Fates, s.Queued, s.Check())
	l.ImpairIn = impairment(s.Rules, s.Impaired, 0)
	rules, out := h.stack.OutRules(line)
	l.ImpairOut = impairment(rules, out.Stats, out.Refused)
	l.Knocked = s.Knocked
	if line == demux.LaneClosed {
		l.Knocks = h.knocks()
	}
	return l, s.WasBound || s.Knocked > 0
}

// LaneHost is the name of the lane for what gets its fate at once; "host" alone is
// the whole host.
const LaneHost = "host-lane"

func lineOf(name string) (demux.Port, bool) {
	for p, lane := range map[demux.Port]string{
		demux.LaneClosed: demux.LaneClosed.String(), demux.LaneLink: demux.LaneLink.String(),
		demux.LaneICMP: demux.LaneICMP.String(), demux.LaneHost: LaneHost,
	} {
		if lane == name {
			return p, true
		}
	}
	p, err := services.ParsePort(name)
	return demuxPort(p), err == nil
}

func ledger(of string, arrived uint64, kinds [demux.NumKinds]uint64, fates [demux.NumFates]uint64, queued int, broken error) Ledger {
	l := Ledger{
		Of: of, At: time.Now(), Arrived: arrived, Kinds: map[string]uint64{},
		Fates: fateMap(fates), Queued: queued, LawOK: broken == nil,
	}
	for k, n := range kinds {
		if n != 0 {
			l.Kinds[demux.Kind(k).String()] = n
		}
	}
	if broken != nil {
		l.Broken = broken.Error()
	}
	return l
}

// device reads the kernel's counters, in the network namespace that this process is
// in: where the device was made.
func (h *Host) device() *DeviceCounters {
	if h.facts.Kind == "pipe" {
		return nil
	}
	s, err := tun.LinkStats(h.facts.Name)
	if err != nil {
		return nil
	}
	return &DeviceCounters{
		InPackets: s.InPackets, InBytes: s.InBytes, InDropped: s.InDropped, InErrors: s.InErrors,
		OutPackets: s.OutPackets, OutBytes: s.OutBytes, OutDropped: s.OutDropped, OutErrors: s.OutErrors + s.OutFrameErrors,
	}
}

// FateInfo describes one fate.
type FateInfo struct {
	Name  string `json:"name"`
	Lost  bool   `json:"lost"`  // rather than handed on
	Linux string `json:"linux"` // its counters or drop reasons that correspond
	Doc   string `json:"doc"`
}

// Fates lists every fate that there is, in the order in which a packet meets them.
func Fates() []FateInfo {
	var fs []FateInfo
	for f := demux.NoFate + 1; int(f) < demux.NumFates; f++ {
		fs = append(fs, FateInfo{f.String(), f.Dropped(), f.Linux(), f.Doc()})
	}
	return fs
}

// Event is one entry of the host's log. None is per packet.
type Event struct {
	Seq   uint64    `json:"seq"` // from 1, without gaps
	At    time.Time `json:"at"`
	Type  string    `json:"type"`           // bound, released, limits-set, queue-filled, queue-standing, policy-set, settings-set, reloaded, knocked
	Port  string    `json:"port,omitempty"` // or the lane
	Fate  string    `json:"fate,omitempty"` // of the first packet that a full queue refused
	Count uint64    `json:"count,omitempty"`
	Who   string    `json:"who,omitempty"`
}

func (e Event) String() string {
	words := e.Type
	for _, w := range []string{e.Port, e.Fate, e.Who} {
		if w != "" {
			words += " " + w
		}
	}
	if e.Count > 0 {
		what := "packets"
		switch e.Fate {
		case demux.AcceptQueueFull.String(), demux.SynQueueFull.String(), demux.SynCookie.String():
			what = "connections"
		}
		words += fmt.Sprintf(" (%d %s)", e.Count, what)
	}
	return words
}

// Events are the entries of the log after cursor (0: from the oldest kept), the
// cursor for the next call, and how many in between are lost: the log keeps the
// newest 4,096.
func (h *Host) Events(cursor uint64) (events []Event, next, missed uint64) {
	log, next, missed := h.table.Log().Since(nil, cursor)
	events = make([]Event, len(log))
	for i, e := range log {
		events[i] = Event{Seq: e.Seq, At: e.At, Type: e.Type.String(), Port: e.Port.String(), Count: e.Count, Who: e.Who}
		if e.Fate != demux.NoFate {
			events[i].Fate = e.Fate.String()
		}
		if e.Port == demux.LaneHost {
			events[i].Port = ""
			if e.Type != demux.Reloaded {
				events[i].Port = LaneHost
			}
		}
	}
	return events, next, missed
}
