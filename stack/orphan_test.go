package stack

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"porthole/demux"
)

// orphan opens a connection, on which the service writes so much and closes; the peer
// acknowledges nothing. It returns the connection and the host's first sequence number.
func (r *doorRig) orphan(t *testing.T, port uint16, bytes int) (*tcp.Endpoint, uint32) {
	t.Helper()
	iss := r.p.open(port)
	c, err := r.ln.Accept()
	require.NoError(t, err)
	_, err = c.Write(make([]byte, bytes))
	require.NoError(t, err)
	require.NoError(t, c.Close())
	return c.(*Conn).ep.(*tcp.Endpoint), iss
}

func (o *orphans) set(f func(*orphans)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f(o)
}

func (o *orphans) books() (n, bytes int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.list), o.bytes
}

// TestOrphansBounded: of closed connections whose peers do not acknowledge only so many,
// with so much, are kept; one more is reset, and those that were kept are not.
func TestOrphansBounded(t *testing.T) {
	require.True(t, senderFields.known && sendBufferFields.known, "netstack keeps a connection's send buffer elsewhere: see orphan.go")
	for name, limit := range map[string]func(*orphans){
		"number": func(o *orphans) { o.most = 3 },
		"bytes":  func(o *orphans) { o.mostBytes = 3*4000 + 3999 },
	} {
		t.Run(name, func(t *testing.T) {
			r := newDoorRig(t, demux.DoorConfig{})
			o := &r.s.orphans
			o.set(limit)
			var kept [3]*tcp.Endpoint
			var isses [3]uint32
			for i := range kept {
				kept[i], isses[i] = r.orphan(t, 5000+uint16(i), 4000)
			}
			for i := range uint16(2) {
				ep, _ := r.orphan(t, 5003+i, 4000)
				r.p.waitFor(5003+i, "RST", 0, func(s seg) bool { return s.flags&flagRST != 0 })
				require.Equal(t, tcp.StateError, ep.EndpointState())
			}
			for _, ep := range kept {
				require.Equal(t, tcp.StateFinWait1, ep.EndpointState())
			}
			require.EqualValues(t, 2, r.s.Lost().AbortOnMemory)
			n, bytes := o.books()
			require.Equal(t, []int{3, 12000}, []int{n, bytes})

			// A place is free when a peer has all of it, whether it closes or not.
			r.p.send(5000, flagACK, irs+1, isses[0]+1+4000+1)
			require.Eventually(t, func() bool { n, bytes := o.books(); return n == 2 && bytes == 8000 }, patience, time.Millisecond)
			ep, _ := r.orphan(t, 5005, 4000)
			require.Equal(t, tcp.StateFinWait1, ep.EndpointState())
			require.EqualValues(t, 2, r.s.Lost().AbortOnMemory)
		})
	}
}

// TestOrphansFull: full books are gone through before anybody is reset.
func TestOrphansFull(t *testing.T) {
	r := newDoorRig(t, demux.DoorConfig{})
	r.s.orphans.set(func(o *orphans) { o.most = 1 })
	for i := range uint16(20) {
		ep, iss := r.orphan(t, 5000+i, 10)
		r.p.send(5000+i, flagACK|flagFIN, irs+1, iss+1+10+1)
		require.Eventually(t, func() bool { return ep.EndpointState() == tcp.StateTimeWait }, patience, time.Millisecond)
		time.Sleep(orphanFull) // the least time between: an interval, not an event
	}
	require.Zero(t, r.s.Lost().AbortOnMemory)
}

// TestOrphanPatience: a closed connection may take as long as it likes while its peer
// acknowledges more from time to time, and is reset when it does not.
func TestOrphanPatience(t *testing.T) {
	r := newDoorRig(t, demux.DoorConfig{})
	o := &r.s.orphans
	o.set(func(o *orphans) { o.lookEvery = time.Hour }) // the test does
	ep, iss := r.orphan(t, 5000, 4000)
	var e *orphan
	o.set(func(o *orphans) { e = o.list[0] })
	at := r.s.net.Clock().NowMonotonic()
	for i := range uint32(5) {
		at = at.Add(orphanPatience - time.Second)
		r.p.send(5000, flagACK, irs+1, iss+1+100*(i+1))
		require.Eventually(t, func() bool {
			ep.LockUser()
			defer ep.UnlockUser()
			una, bytes, ok := unacknowledged(ep)
			return ok && una == seqnum.Value(iss+1+100*(i+1)) && bytes == 4000-100*int(i+1)
		}, patience, time.Millisecond)
		o.look(e, at)
		_, bytes := o.books()
		require.Equal(t, 4000-100*int(i+1), bytes)
	}
	o.look(e, at.Add(orphanPatience-1))
	require.Equal(t, tcp.StateFinWait1, ep.EndpointState())
	o.look(e, at.Add(orphanPatience))
	r.p.waitFor(5000, "RST", 0, func(s seg) bool { return s.flags&flagRST != 0 })
	require.EqualValues(t, 1, r.s.Lost().AbortOnTimeout)
	require.Eventually(t, func() bool { n, _ := o.books(); return n == 0 }, patience, time.Millisecond)
}
