package stack

import (
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"porthole/demux"
)

// Netstack finds losses by RACK and tail loss probes (RFC 8985), which on a short path
// repeats a lost segment many times sooner than a timeout would. But when a timeout
// comes all the same, because a whole flight and its probe were lost in a full queue,
// its RACK marks everything unacknowledged as lost and then counts all of it as still
// on its way: it sends two segments and waits for the next timeout, so that a flight of
// n segments takes n/2 of them. So a connection that has had a timeout goes on without
// RACK, by SACK and duplicate ACKs alone (RFC 6675): that begins again in slow start.
// When it has recovered it gets RACK back.
//
// Netstack has no option for it once a connection stands, so its field is set, with the
// connection's lock held. A netstack without that field gets no RACK at all.
type recoveries struct {
	stats    *tcpip.TCPStats
	timeouts atomic.Uint64 // of netstack's counter, when it was last looked at
	list     chan timedOut // a few: who finds it full has its next timeout soon
	resent   atomic.Uint64 // of netstack's counter of retransmissions, likewise
	look     chan struct{} // one token: something was sent again
}

type timedOut struct {
	port uint16
	key  demux.FlowKey
}

// recoveryField is where netstack keeps a connection's way of recovery.
var recoveryField = endpointField[tcpip.TCPRecovery]("tcpRecovery")

func (s *Stack) initRecovery() {
	s.recoveries.list = make(chan timedOut, 64)
	s.recoveries.look = make(chan struct{}, 1)
	stats := s.net.Stats() // of counters that are shared; copying them all takes time
	s.recoveries.stats = &stats.TCP
	if recoveryField.known {
		return
	}
	off := tcpip.TCPRecovery(0)
	if err := s.net.SetTransportProtocolOption(tcp.ProtocolNumber, &off); err != nil {
		s.log.Warn("RACK stays on", "error", err) // no such option
	}
}

// sentAgain looks at a segment on its way out. The first one after a timeout is, as a
// rule, the one that it was about; a connection that is missed here is not the next time.
// The caller holds the connection's lock.
func (s *Stack) sentAgain(pkt *netstack.PacketBuffer) {
	r := &s.recoveries
	if n := r.stats.Retransmits.Value(); n != r.resent.Load() {
		r.resent.Store(n)
		select {
		case r.look <- struct{}{}:
		default:
		}
	}
	n := r.stats.Timeouts.Value()
	if n == r.timeouts.Load() {
		return
	}
	r.timeouts.Store(n)
	port, k := outgoingKey(pkt)
	select {
	case r.list <- timedOut{port, k}:
	default:
	}
}

// restTime is how often connections without RACK are looked at, about the least timeout.
const restTime = 250 * time.Millisecond

// recoveryLoop takes RACK from connections that have had a timeout and gives it back to
// those that have recovered, until the stack closes. It keeps maxResting of them. And it
// looks after those whose timers netstack has lost (stuck.go).
func (s *Stack) recoveryLoop() {
	var stuck stuck
	look := time.NewTicker(lookEvery)
	look.Stop()
	defer look.Stop()
	looks := 0
	resting := map[timedOut]struct{}{}
	tick := time.NewTicker(restTime)
	tick.Stop()
	defer tick.Stop()
	for {
		select {
		case <-s.closing:
			return
		case c := <-s.recoveries.list:
			if len(resting) < maxResting && s.recoverBy(c, 0) {
				if len(resting) == 0 {
					tick.Reset(restTime)
				}
				resting[c] = struct{}{}
			}
		case <-s.recoveries.look:
			if looks == 0 {
				look.Reset(lookEvery)
			}
			looks = looksAfter
		case <-look.C:
			looks--
			if stuck.free(s) {
				looks = max(looks, 1)
			}
			if looks == 0 {
				look.Stop()
			}
		case <-tick.C:
			for c := range resting {
				if s.recovering(c) {
					continue
				}
				s.recoverBy(c, tcpip.TCPRACKLossDetection)
				delete(resting, c)
			}
			if len(resting) == 0 {
				tick.Stop()
			}
		}
	}
}

const maxResting = 4096

// recovering reports whether a connection has not yet repeated all that its timeout
// was about.
func (s *Stack) recovering(c timedOut) bool {
	ep, ok := s.find(c.port, c.key).(*tcp.Endpoint)
	if !ok {
		return false
	}
	var info tcpip.TCPInfoOption
	return ep.GetSockOpt(&info) == nil && info.CcState != tcpip.Open
}

// recoverBy sets a connection's way of recovery; false when there is none.
func (s *Stack) recoverBy(c timedOut, how tcpip.TCPRecovery) bool {
	ep, ok := s.find(c.port, c.key).(*tcp.Endpoint)
	if !ok || !recoveryField.known {
		return false
	}
	ep.LockUser()
	*recoveryField.of(ep) = how
	ep.UnlockUser()
	return true
}
