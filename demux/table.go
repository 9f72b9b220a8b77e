package demux

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// line is one port: the head of its queue, its limits and its commonest counters
// in one cache line without a pointer, so that 65,536 ports cost a packet one
// memory access and the garbage collector nothing. What is rarer is in cold.
type line struct {
	mu sync.Mutex // guards all below; maxN is read without it, to have the line at hand

	head, tail uint32        // chain of queued packets
	n          uint32        // packets queued
	bytes      uint32        // charged bytes queued
	maxN       atomic.Uint32 // limit of n
	maxBytes   uint32        // limit of bytes
	state      uint32
	held       uint8  // taken by a worker, fate still open: one run at most
	run        uint8  // which of its reader's it is, when a reader has it
	refused    uint16 // fate queue-full, not yet settled
	high       uint32 // most packets queued at once
	deficit    int32  // of the round robin, bytes; while lent, the charge of what the reader holds
	arrived    uint64 // while bound
	passed     uint64 // the usual fate: to-stack (TCP, lanes) or to-service (UDP)
}

// Bits of line.state.
const (
	bound    uint32 = 1 << iota // somebody has the port
	socket                      // its owner pops the queue itself (UDP); else workers serve it
	inline                      // the reader may serve it while it is empty, a socket port while its owner waits
	serving                     // a worker or the reader serves it now
	ready                       // it stands in the run queue; never together with serving
	waiting                     // its owner waits for a packet that it may have
	full                        // it has refused a packet since it was last half empty
	headDrop                    // policy of a socket's queue; neither: tail drop
	coDel
	lent     // the reader serves a socket port for the owner who has it now, or a lane; cleared with its owner
	impaired // its packets go through rules
	withheld // its owner gets none
)

// usual is the fate of most packets of a port, counted in its line.
func (p Port) usual() Fate {
	if p.IsUDP() {
		return ToService
	}
	return ToStack
}

// cold is what a line needs seldom. It is made at the first Bind and stays, so
// that counters outlive their owner.
type cold struct {
	fates [NumFates]uint64 // but for the line's passed
	kinds [NumKinds]uint64 // arrivals but for FromDevice
	owner string
	wake  chan struct{}         // one token: look at the queue again
	codel *aging                // of the policy; guarded by the line's mutex
	rules *portRules            // nil: it never had any; guarded by the line's mutex, as waits
	waits [NumKinds]int         // packets that arrived and wait in the rules; not yet in the line's arrived
	taken atomic.Pointer[waits] // how long what was taken had waited
}

// Limits bound one queue. A packet is refused when it would cross either.
type Limits struct {
	Packets int // at most
	Bytes   int // of charge: payload (UDP) or packet plus Overhead each
}

// Overhead is charged for each packet beside its bytes, as the kernel charges an
// skb: without it, empty datagrams would be free (Linux: SKB_TRUESIZE(0) is 576).
const Overhead = 576

// Default limits. UDP's bytes are Linux's net.core.rmem_default.
var (
	DefaultTCP  = Limits{Packets: 1024, Bytes: 4 << 20}
	DefaultUDP  = Limits{Packets: 1024, Bytes: 212992}
	DefaultLane = Limits{Packets: 512, Bytes: 1 << 20}
)

// Config is how an owner binds a port.
type Config struct {
	Owner  string
	Limits Limits // zero fields take the protocol's default
	// Socket says that the owner takes packets out itself, with Pop; otherwise
	// workers serve the port.
	Socket bool
	Policy Policy // of a socket's queue
}

// ErrReleased is returned to whoever uses a port that it no longer owns.
var ErrReleased = errors.New("port released")

// BoundError is returned by Bind when somebody has the port.
type BoundError struct {
	Port  Port
	Owner string
}

func (e *BoundError) Error() string {
	return fmt.Sprintf("bind %v: already in use by %s", e.Port, e.Owner)
}

// Options size a Table. Zero fields take defaults.
type Options struct {
	// Packets bounds all packets of the host at once (32,768: 64 MiB when all
	// are in use). TailBytes bounds what super-packets hold beside (64 MiB).
	Packets   int
	TailBytes int64
	// Now gives the time in ns, read once a batch; nil keeps no times.
	Now func() int64
	// Events sizes the event log (4,096).
	Events int
}

// Table is the port table of one host. It owns every queue, packet and counter;
// others get values.
type Table struct {
	lines []line
	taken []atomic.Uint64 // bitmap of the bound lines: it says what is closed without a look at the line
	cold  []atomic.Pointer[cold]
	pool  *pool
	rq    runq
	log   *Log
	addrs atomic.Pointer[Addrs]
	made  []atomic.Uint64 // bitmap of the lines that have a cold record
	now   func() int64
	tap   Tap // nil: nobody looks on
	watch atomic.Pointer[Watcher]

	knocks   knocks // guarded by the closed lane's mutex
	delays   delays
	upstream func() (held, stopped [NumKinds]uint64) // nil: nothing waits before the readers

	mu        sync.Mutex // guards what follows; no packet takes it
	ingresses []*Ingress
	ended     [NumKinds]uint64 // arrived at ingresses that were closed

	injectors [NumKinds]*Ingress // for what no reader read
}

// New makes a table in which no port is bound.
func New(o Options) *Table {
	if o.Packets <= 0 {
		o.Packets = 32768
	}
	if o.TailBytes <= 0 {
		o.TailBytes = 64 << 20
	}
	if o.Events <= 0 {
		o.Events = 4096
	}
	t := &Table{
		lines: make([]line, numLines),
		taken: make([]atomic.Uint64, (numLines+63)/64),
		cold:  make([]atomic.Pointer[cold], numLines),
		made:  make([]atomic.Uint64, (numLines+63)/64),
		pool:  newPool(o.Packets, o.TailBytes),
		log:   NewLog(o.Events),
		now:   o.Now,
	}
	t.knocks.by = make([]uint64, laneBase)
	t.rq.init(int(numLines))
	t.addrs.Store(NewAddrs())
	for p := LaneClosed; p < numLines; p++ {
		if err := t.Bind(p, Config{Owner: "porthole", Limits: DefaultLane}); err != nil {
			panic(err) // a fresh table has no owner
		}
	}
	t.delays.init(t)
	for k := Reassembled; k < numKinds; k++ {
		t.injectors[k] = t.newIngress(k, 1)
	}
	return t
}

// Log is the event log.
func (t *Table) Log() *Log { return t.log }

// SetAddrs says what addresses are the host's; it may change while packets pass.
func (t *Table) SetAddrs(a *Addrs) { t.addrs.Store(a) }

// isBound reports whether somebody had the port a moment ago.
func (t *Table) isBound(p Port) bool { return t.taken[p/64].Load()>>(p%64)&1 != 0 }

func (p Port) defaultLimits() Limits {
	switch {
	case p.IsTCP():
		return DefaultTCP
	case p.IsUDP():
		return DefaultUDP
	}
	return DefaultLane
}

// Bind gives the port to an owner. Port number 0 cannot be bound; lanes are the
// table's own.
func (t *Table) Bind(p Port, c Config) error {
	if p >= numLines || !p.IsLane() && p.Number() == 0 {
		return fmt.Errorf("bind %v: no such port", p)
	}
	l := &t.lines[p]
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state&bound != 0 {
		return &BoundError{p, t.cold[p].Load().owner}
	}
	if err := t.mayHave(p, c.Policy, c.Socket); err != nil {
		return err
	}
	co := t.cold[p].Load()
	if co == nil {
		co = &cold{wake: make(chan struct{}, 1)}
		t.cold[p].Store(co)
		t.made[p/64].Or(1 << (p % 64))
	}
	co.owner, l.deficit = c.Owner, 0 // what a reader may hold still is the last owner's
	t.limitLocked(l, p, c.Limits)
	st := bound
	if c.Socket {
		st |= socket
	}
	// A worker may still hold packets of the last owner: it keeps its bits.
	l.state = st | l.state&(serving|ready)
	t.policyLocked(l, co, c.Policy)
	t.taken[p/64].Or(1 << (p % 64))
	t.log.Add(Event{Type: PortBound, Port: p, Who: c.Owner})
	return nil
}

func (t *Table) limitLocked(l *line, p Port, lim Limits) {
	def := p.defaultLimits()
	if lim.Packets <= 0 {
		lim.Packets = def.Packets
	}
	if lim.Bytes <= 0 {
		lim.Bytes = def.Bytes
	}
	l.maxN.Store(uint32(min(lim.Packets, 1<<31)))
	l.maxBytes = uint32(min(lim.Bytes, 1<<31))
}

// SetOwner renames the owner of a bound port: it was left lingering by the last one.
func (t *Table) SetOwner(p Port, owner string) {
	l := &t.lines[p]
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state&bound != 0 {
		t.cold[p].Load().owner = owner
	}
}

// SetLimits resizes a queue while packets are in it. Nothing queued is thrown
// away: a smaller limit only stops admission until enough has been taken out.
func (t *Table) SetLimits(p Port, lim Limits) error {
	l := &t.lines[p]
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state&bound == 0 {
		return fmt.Errorf("set limits of %v: not bound", p)
	}
	t.limitLocked(l, p, lim)
	if l.roomy() {
		l.state &^= full
	}
	t.log.Add(Event{Type: LimitsSet, Port: p, Count: uint64(l.maxN.Load())})
	return nil
}

// SetInline says whether the reader may serve the port itself while its queue is
// empty: only for ports where serving waits for nothing, the device included, and for
// lanes of which it gives back what would (ServeRun). A socket port is served so only
// while its owner waits in vain for a packet, and its queue loses the newest when it is
// full: another policy decides when packets leave.
func (t *Table) SetInline(p Port, on bool) {
	l := &t.lines[p]
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case on && l.state&bound != 0:
		l.state |= inline
	case !on:
		l.state &^= inline
	}
}

// Withhold keeps a socket port's owner from its queue, or ends that: Pop finds nothing
// from the moment it returns, also for who waits already.
func (t *Table) Withhold(p Port, on bool) {
	l := &t.lines[p]
	l.mu.Lock()
	st := l.state
	if st&bound == 0 || on == (st&withheld != 0) {
		l.mu.Unlock()
		return
	}
	if on {
		l.state = st&^waiting | withheld
	} else {
		l.state = st &^ withheld
	}
	l.mu.Unlock()
	if !on {
		t.Signal(p)
	}
}

// Bound says who has the port.
func (t *Table) Bound(p Port) (owner string, ok bool) {
	l := &t.lines[p]
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state&bound == 0 {
		return "", false
	}
	return t.cold[p].Load().owner, true
}

// Release takes the port from its owner: what is queued gets the fate
// port-released, a waiting Pop returns ErrReleased. What a worker holds keeps its
// turn. Lanes cannot be released.
func (t *Table) Release(p Port) {
	if p.IsLane() {
		return
	}
	l := &t.lines[p]
	l.mu.Lock()
	if l.state&bound == 0 {
		l.mu.Unlock()
		return
	}
	co := t.cold[p].Load()
	first, n := t.emptyLocked(l, co, PortReleased)
	t.unruleLocked(l, co)
	l.state &= serving | ready
	t.taken[p/64].And(^(uint64(1) << (p % 64)))
	t.log.Add(Event{Type: PortUnbound, Port: p, Who: co.owner, Count: uint64(n)})
	l.mu.Unlock()
	t.sawChain(p, PortReleased, first, n)
	t.freeChain(first, n)
	co.signal()
}

// Drain gives the fate host-stopped to all that is still queued. The readers have
// ended and no worker takes ports any more.
func (t *Table) Drain() {
	for p := range t.eachMade {
		l := &t.lines[p]
		l.mu.Lock()
		first, n := t.emptyLocked(l, t.cold[p].Load(), HostStopped)
		l.mu.Unlock()
		t.sawChain(p, HostStopped, first, n)
		t.freeChain(first, n)
	}
}

// emptyLocked takes all packets out of a queue, and out of the rules before it, and
// gives them one fate.
func (t *Table) emptyLocked(l *line, co *cold, f Fate) (first uint32, n int) {
	t.arriveAllLocked(l, co)
	first, n = l.head, int(l.n)
	co.fates[f] += uint64(n)
	l.head, l.tail, l.n, l.bytes = 0, 0, 0, 0
	return first, n
}

// settle counts what a full queue refused. A drop touches the line alone.
func (c *cold) settle(l *line) {
	c.fates[QueueFull] += uint64(l.refused)
	l.refused = 0
}

func (c *cold) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// freeChain gives a chain of n packets back with their tails.
func (t *Table) freeChain(first uint32, n int) {
	var last *slot
	for h, i := first, 0; i < n; i++ {
		last = t.pool.slot(h)
		t.pool.dropTail(ref{last, h})
		h = last.next
	}
	t.pool.give(first, last, n)
}
