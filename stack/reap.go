package stack

import (
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"porthole/demux"
)

// The ephemeral range is Linux's net.ipv4.ip_local_port_range.
const (
	ephemeralFirst = 32768
	ephemeralLast  = 60999
)

// reaper owns the TCP ports: who listens, who dials, and which linger because
// connections of a closed listener or finished dial still live in netstack. A
// lingering port stays in the port table, so that its segments keep their queue,
// until netstack holds no endpoint of it; it looks each second while there is one.
// At most 65,535 ports; loop ends with the stack.
type reaper struct {
	s     *Stack
	mu    sync.Mutex
	ports map[uint16]*portUse
	wake  chan struct{}

	// A bit for each port that was ever in ports: of no other has netstack ever had a
	// connection. A flood's segments are told so from late ones.
	ever [(1 << 16) / 32]atomic.Uint32
}

type portUse struct {
	listener bool
	dials    int  // that have not connected yet
	closing  bool // seen by the last sweep: its connections have sent and got all data
	timeWait bool // only TIME-WAIT is left: the port is nobody's, and not in the table
}

// A sweep looks at every endpoint that there is, so it comes seldom when nothing but
// TIME-WAIT lingers, which is of no consequence.
const (
	reapEvery    = time.Second
	reapTimeWait = 15 * time.Second
)

func (r *reaper) init(s *Stack) {
	r.s, r.ports, r.wake = s, map[uint16]*portUse{}, make(chan struct{}, 1)
}

// listen takes a port for a listener. Port 0 means any free one.
func (r *reaper) listen(port uint16, owner string, lim demux.Limits) (uint16, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if port == 0 {
		return r.ephemeralLocked(owner, lim, func(u *portUse) { u.listener = true })
	}
	if u := r.ports[port]; u != nil {
		if u.listener || u.dials > 0 {
			who, _ := r.s.table.Bound(demux.TCPPort(port))
			return 0, &demux.BoundError{Port: demux.TCPPort(port), Owner: who}
		}
		if err := r.takeLocked(port, u, owner, lim); err != nil {
			return 0, err
		}
		u.listener = true
		return port, nil
	}
	if err := r.s.table.Bind(demux.TCPPort(port), demux.Config{Owner: owner, Limits: lim}); err != nil {
		return 0, err
	}
	r.addLocked(port, &portUse{listener: true})
	return port, nil
}

// dial takes a port for one outgoing connection; the same port may serve several.
func (r *reaper) dial(port uint16, owner string) (uint16, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if port == 0 {
		return r.ephemeralLocked(owner, demux.Limits{}, func(u *portUse) { u.dials++ })
	}
	u := r.ports[port]
	if u == nil {
		if err := r.s.table.Bind(demux.TCPPort(port), demux.Config{Owner: owner}); err != nil {
			return 0, err
		}
		u = &portUse{}
		r.addLocked(port, u)
	} else if u.listener {
		who, _ := r.s.table.Bound(demux.TCPPort(port))
		return 0, &demux.BoundError{Port: demux.TCPPort(port), Owner: who}
	} else if u.dials == 0 {
		if err := r.takeLocked(port, u, owner, demux.Limits{}); err != nil {
			return 0, err
		}
	}
	u.dials++
	return port, nil
}

func (r *reaper) addLocked(port uint16, u *portUse) {
	r.ports[port] = u
	r.ever[port/32].Or(1 << (port % 32))
}

// had reports whether anybody ever had the port.
func (r *reaper) had(port uint16) bool { return r.ever[port/32].Load()&(1<<(port%32)) != 0 }

// takeLocked gives a lingering port to a new owner: SO_REUSEADDR, as every server
// asks for.
func (r *reaper) takeLocked(port uint16, u *portUse, owner string, lim demux.Limits) error {
	p := demux.TCPPort(port)
	if u.timeWait {
		if err := r.s.table.Bind(p, demux.Config{Owner: owner, Limits: lim}); err != nil {
			return err
		}
		u.timeWait, u.closing = false, false
		return nil
	}
	u.closing = false
	r.s.table.SetOwner(p, owner)
	return r.s.table.SetLimits(p, lim)
}

// dialed says that a dial from port has ended, well or badly.
func (r *reaper) dialed(port uint16) {
	r.mu.Lock()
	r.ports[port].dials--
	r.mu.Unlock()
	r.consider(port)
}

// unlisten says that the port's listener has closed.
func (r *reaper) unlisten(port uint16) {
	r.mu.Lock()
	r.ports[port].listener = false
	r.mu.Unlock()
	r.consider(port)
}

func (r *reaper) ephemeralLocked(owner string, lim demux.Limits, use func(*portUse)) (uint16, error) {
	const n = ephemeralLast - ephemeralFirst + 1
	start := rand.IntN(n)
	for i := range n {
		port := uint16(ephemeralFirst + (start+i)%n)
		if r.ports[port] != nil {
			continue
		}
		if err := r.s.table.Bind(demux.TCPPort(port), demux.Config{Owner: owner, Limits: lim}); err != nil {
			var be *demux.BoundError
			if errors.As(err, &be) {
				continue
			}
			return 0, err
		}
		u := &portUse{}
		use(u)
		r.addLocked(port, u)
		return port, nil
	}
	// None is quite free: one in TIME-WAIT serves, unless it is for the same peer.
	for i := range n {
		port := uint16(ephemeralFirst + (start+i)%n)
		if u := r.ports[port]; u != nil && u.timeWait && !u.listener && u.dials == 0 {
			if err := r.takeLocked(port, u, owner, lim); err != nil {
				continue
			}
			use(u)
			return port, nil
		}
	}
	return 0, &net.OpError{Op: "bind", Net: "tcp", Err: syscall.EADDRNOTAVAIL}
}

// consider looks at a port again, soon, because something of it has ended.
func (r *reaper) consider(port uint16) {
	if r.s.listeners[port].Load() == nil {
		poke(r.wake)
	}
}

func (r *reaper) loop() {
	tick := time.NewTimer(reapEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.s.closing:
			return
		case <-r.wake:
		}
		for {
			left, waits := r.sweep()
			if left == 0 {
				break
			}
			if tick.Reset(reapEvery); left == waits {
				tick.Reset(reapTimeWait)
			}
			select {
			case <-r.s.closing:
				return
			case <-r.wake:
			case <-tick.C:
			}
		}
	}
}

// sweep releases the ports that nothing uses and returns how many linger, and how many
// of those only for TIME-WAIT.
func (r *reaper) sweep() (left, waits int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, u := range r.ports {
		if !u.listener && u.dials == 0 {
			left++
		}
	}
	if left == 0 {
		return 0, 0
	}
	live := map[uint16]use{}
	for _, eps := range [][]netstack.TransportEndpoint{r.s.net.RegisteredEndpoints(), r.s.net.CleanupEndpoints()} {
		for _, ep := range eps {
			port, u := localPort(ep)
			live[port] = max(live[port], u)
		}
	}
	for port, u := range r.ports {
		if u.listener || u.dials > 0 {
			continue
		}
		now := live[port]
		u.closing = now < useOpen
		if now <= useTimeWait && !u.timeWait {
			// TIME-WAIT belongs to nobody: netstack keeps it against late
			// segments, which count as closed.
			r.s.table.Release(demux.TCPPort(port))
			u.timeWait = true
		}
		if u.timeWait {
			waits++
		}
		if now == useNone {
			delete(r.ports, port)
			left, waits = left-1, waits-1
		}
	}
	return left, waits
}

// use says how much of a connection is left at a port.
type use uint8

const (
	useNone use = iota
	useTimeWait
	useClosing // FINs are on their way
	useOpen    // data may still pass
)

// localPort of an endpoint that netstack has registered, and what it is used for.
func localPort(ep netstack.TransportEndpoint) (port uint16, u use) {
	e, ok := ep.(*tcp.Endpoint)
	if !ok {
		return 0, useNone
	}
	if i, ok := e.Info().(*netstack.TransportEndpointInfo); ok {
		port = i.ID.LocalPort
	}
	switch e.EndpointState() {
	case tcp.StateTimeWait:
		return port, useTimeWait
	case tcp.StateClose, tcp.StateError, tcp.StateFinWait2, tcp.StateClosing, tcp.StateLastAck:
		return port, useClosing
	}
	return port, useOpen
}

// PortState says what a bound TCP port is in use for: "listening", "connected"
// (a data connection or an outgoing one) or "closing".
func (s *Stack) PortState(port uint16) string {
	s.reap.mu.Lock()
	defer s.reap.mu.Unlock()
	switch u := s.reap.ports[port]; {
	case u == nil || u.timeWait:
		return ""
	case u.listener:
		return "listening"
	case u.closing:
		return "closing"
	}
	return "connected"
}
