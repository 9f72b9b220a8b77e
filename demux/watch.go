package demux

// Watcher looks on at everything that passes: a capture hangs on it. Its functions
// are called from many goroutines, some with a line's mutex held: they must not wait,
// keep what they are given, or call this package. Nobody is called while there is none;
// then each batch costs one look at a pointer.
type Watcher struct {
	// In sees a packet that arrived, once, when its fate is known and before anything
	// answers it.
	In func(Packet, Sight)
	// Out sees a frame on its way to the device.
	Out func(Sent)
}

// Sight is what became of a packet.
type Sight struct {
	Line Port // whose counters have it; see Packet.Info for the port that it was meant for
	Fate Fate
	Now  int64 // when it got its fate, in ns of Options.Now
	Door DoorSight
}

// DoorSight is the queue behind a listening port's door that decided about a segment,
// as it found it. At zero it met no door; Limit+1 connections may wait.
type DoorSight struct {
	Queue        DoorQueue
	Depth, Limit uint32
}

// DoorQueue names a queue behind a door.
type DoorQueue uint8

// The queues behind a door.
const (
	NoDoor      DoorQueue = iota
	DoorPassed            // it was let through without a look at a queue
	AcceptQueue           // its connection needs a place in the accept queue
	SynQueue              // and this one in the SYN queue
)

// Sent is a frame that leaves.
type Sent struct {
	Now     int64
	Pieces  [][]byte // valid during the call
	Offload Offload
	From    Origin
}

// Origin says who sends.
type Origin uint8

// The origins of what leaves.
const (
	FromStack   Origin = iota // the TCP/IP stack
	FromDoor                  // the door: cookies, repeated SYN+ACKs, resets
	FromService               // a service's own datagram
)

// SetWatcher sets who looks on, or nobody with nil, while packets pass: a batch under
// way may still be told to the last one. Only the host's owner sets it.
func (t *Table) SetWatcher(w *Watcher) { t.watch.Store(w) }

// Watcher is who looks on; nil: nobody does. Whoever serves packets and sends frames
// tells it.
func (t *Table) Watcher() *Watcher { return t.watch.Load() }

// Depth is how many packets this one found in its port's queue.
func (p Packet) Depth() int { return int(p.s.depth) }

func (t *Table) clock() int64 {
	if t.now == nil {
		return 0
	}
	return t.now()
}

// sawChain tells of a chain of n packets of one line that got one fate together, now.
func (t *Table) sawChain(p Port, f Fate, first uint32, n int) {
	w := t.watch.Load()
	if w == nil || n == 0 {
		return
	}
	s := Sight{Line: p, Fate: f, Now: t.clock()}
	for h := first; n > 0; n-- {
		sl := t.pool.slot(h)
		w.In(t.packet(h, sl), s)
		h = sl.next
	}
}
