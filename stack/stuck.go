package stack

import (
	"reflect"
	"time"
	"unsafe"

	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Netstack stops its retransmission timer for a tail loss probe, and starts it again
// after the probe only if it counts segments as on their way. Its count leaves out what
// SACK calls lost. So when the last segments of a flight are lost, and the probe that
// repeats the very last one brings no acknowledgment, a connection with segments to
// repeat stands without any timer, for ever: 8 of 1,275 downloads of a mebibyte over a
// link that loses, corrupts and reorders did.
//
// So connections are looked at for a while after anything was sent again. One that is
// found twice with the same segments unacknowledged and none on their way gets its
// timeout. Netstack gives no hold of either; both are read with the connection's lock
// held, and a netstack that keeps them elsewhere is left alone.
type stuck map[*tcp.Endpoint]suspect

type suspect struct {
	sent  [2]seqnum.Value // SND.UNA, SND.NXT
	tries int             // it was given its timeout
}

const (
	lookEvery  = 500 * time.Millisecond
	looksAfter = 4 // the last retransmission
	// triesMost is when a suspect is left alone: one that probes a closed window looks as
	// if it had no timer, too, for as long as that takes.
	triesMost = 3
)

// senderFields are where netstack keeps what a connection has sent, and what its
// retransmission timer calls.
var senderFields = func() (f struct {
	snd, state, timeout uintptr
	known               bool
}) {
	snd, ok := ownField(reflect.TypeFor[tcp.Endpoint](), "snd")
	if !ok || snd.Type.Kind() != reflect.Pointer {
		return f
	}
	state, ok1 := ownField(snd.Type.Elem(), "TCPSenderState")
	timer, ok2 := ownField(snd.Type.Elem(), "resendTimer")
	if !ok1 || !ok2 || state.Type != reflect.TypeFor[tcp.TCPSenderState]() {
		return f
	}
	call, ok := ownField(timer.Type, "callback")
	f.snd, f.state, f.timeout = snd.Offset, state.Offset, timer.Offset+call.Offset
	f.known = ok && call.Type == reflect.TypeFor[func()]()
	return f
}()

// sender is what a connection has sent, or nil, and what its retransmission timer calls.
// Its lock is held.
func sender(ep *tcp.Endpoint) (st *tcp.TCPSenderState, timeout func()) {
	f := &senderFields
	if !f.known {
		return nil, nil
	}
	snd := *(*unsafe.Pointer)(unsafe.Add(unsafe.Pointer(ep), f.snd))
	if snd == nil {
		return nil, nil
	}
	return (*tcp.TCPSenderState)(unsafe.Add(snd, f.state)), *(*func())(unsafe.Add(snd, f.timeout))
}

// free looks at every connection, gives those their timeout that it found before, and
// says whether it has suspects that it shall look at again.
func (k *stuck) free(s *Stack) (again bool) {
	next := stuck{}
	for _, e := range s.net.RegisteredEndpoints() {
		ep, ok := e.(*tcp.Endpoint)
		if !ok || !mayHaveSent(ep.EndpointState()) {
			continue
		}
		now, timeout, idle := sent(ep)
		if !idle {
			continue
		}
		was, had := (*k)[ep]
		if !had || was.sent != now {
			was = suspect{sent: now}
		} else if was.tries < triesMost {
			// A timer that runs, after all, only looks at its time; one that was stopped
			// and has not yet run out needs a second call.
			was.tries++
			timeout()
		}
		next[ep] = was
		again = again || was.tries < triesMost
	}
	*k = next
	return again
}

// mayHaveSent reports whether a connection in this state may wait for acknowledgments of
// data.
func mayHaveSent(s tcp.EndpointState) bool {
	switch s {
	case tcp.StateEstablished, tcp.StateFinWait1, tcp.StateCloseWait, tcp.StateClosing, tcp.StateLastAck:
		return true
	}
	return false
}

// sent is what a connection has sent, and whether none of it is on its way although not
// all is acknowledged.
func sent(ep *tcp.Endpoint) (una [2]seqnum.Value, timeout func(), idle bool) {
	ep.LockUser()
	defer ep.UnlockUser()
	st, timeout := sender(ep)
	if st == nil {
		return una, nil, false
	}
	return [2]seqnum.Value{st.SndUna, st.SndNxt}, timeout, timeout != nil && st.Outstanding <= 0 && st.SndUna != st.SndNxt
}
