package demux

import (
	"sync"
	"time"
)

// EventType says what happened.
type EventType uint8

// The events. None is per packet: a queue that fills says so once until it has been
// half empty again, and a scan of all ports says so once.
const (
	PortBound   EventType = iota // Who took the port
	PortUnbound                  // Who let it go; Count packets were queued
	LimitsSet                    // Count is the new limit in packets
	QueueFilled                  // the first packet that Fate refused, or answered by a cookie; Count were queued: connections, where Fate is of a door
	QueueStands                  // CoDel began to drop, as it had not a moment ago; Count were queued
	PolicySet                    // Who is the new policy, as text
	SettingsSet                  // Who is what was set of the port, as text
	Reloaded                     // the host has another configuration; Who is what changed, as text
	Knocked                      // a SYN or datagram of Who's came for a port that nobody has, as none had for a minute
)

func (e EventType) String() string {
	return [...]string{"bound", "released", "limits-set", "queue-filled", "queue-standing", "policy-set", "settings-set", "reloaded", "knocked"}[e]
}

// Event is one entry of the log.
type Event struct {
	Seq   uint64 // from 1, without gaps
	At    time.Time
	Type  EventType
	Port  Port
	Fate  Fate
	Count uint64
	Who   string
}

// Log is a ring of the newest events. Writers never wait for readers: who reads
// too seldom is told how many it missed. Nothing closes it.
type Log struct {
	mu   sync.Mutex
	ring []Event
	next uint64 // Seq of the next event
}

// NewLog makes a log that keeps the last n events, one at least.
func NewLog(n int) *Log { return &Log{ring: make([]Event, max(n, 1)), next: 1} }

// Add appends an event; Seq and, when it is zero, At are filled in.
func (l *Log) Add(e Event) {
	if e.At.IsZero() {
		e.At = time.Now()
	}
	l.mu.Lock()
	e.Seq = l.next
	l.ring[e.Seq%uint64(len(l.ring))] = e
	l.next++
	l.mu.Unlock()
}

// Since appends to buf the events after cursor (0: from the oldest kept), gives
// the cursor for the next call, and how many were overwritten in between.
func (l *Log) Since(buf []Event, cursor uint64) (events []Event, next uint64, missed uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := cursor + 1
	if oldest := l.next - min(l.next-1, uint64(len(l.ring))); first < oldest {
		missed = oldest - first
		first = oldest
	}
	for s := first; s < l.next; s++ {
		buf = append(buf, l.ring[s%uint64(len(l.ring))])
	}
	return buf, max(cursor, l.next-1), missed
}
