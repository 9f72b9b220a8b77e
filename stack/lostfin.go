package stack

import (
	"encoding/binary"
	"hash/maphash"
	"reflect"
	"sync/atomic"
	"unsafe"

	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"porthole/demux"
)

// A client that is through with sending (shutdown) has its FIN count in every later
// segment. When that FIN is lost, its ACKs of the answer lie one beyond what has come.
// Netstack takes each of them for data as soon as the service has closed the connection,
// and answers with RST: the client loses what it had not read. It loses such a FIN by
// itself, too, when one without data comes before the data that it follows, as after a
// final ACK that was lost: then the data completes the handshake and is put behind it.
//
// So what a connection has received when it is closed without a FIN from its peer is
// remembered, and an ACK without data from beyond that gets this number: nothing else
// can move it but the FIN itself. The client sends that again, in order.
//
// Netstack's own queue cannot be seen. An ACK that is in it already when the service
// closes is still answered with RST; and while the FIN is in it, the ACK behind it is taken
// for an old one, and what it says must come again.
//
// One number is kept for each place, by the ports: of two connections that share one the
// later is remembered. Netstack does not say what has come, so its field is read; one that
// keeps it elsewhere is left alone.
type lostFINs struct {
	seed maphash.Seed
	at   [1 << lostFINBits]atomic.Uint64 // a hash of the connection, and the number; 0: none
}

const lostFINBits = 13

// receiverFields are where netstack keeps what a connection has received.
var receiverFields = func() (f struct {
	rcv, state uintptr
	known      bool
}) {
	rcv, ok := ownField(reflect.TypeFor[tcp.Endpoint](), "rcv")
	if !ok || rcv.Type.Kind() != reflect.Pointer {
		return f
	}
	state, ok := ownField(rcv.Type.Elem(), "TCPReceiverState")
	f.rcv, f.state = rcv.Offset, state.Offset
	f.known = ok && state.Type == reflect.TypeFor[tcp.TCPReceiverState]()
	return f
}()

// received is the next number that a connection expects. Its lock is held.
func received(ep *tcp.Endpoint) (next seqnum.Value, ok bool) {
	f := &receiverFields
	if !f.known {
		return 0, false
	}
	rcv := *(*unsafe.Pointer)(unsafe.Add(unsafe.Pointer(ep), f.rcv))
	if rcv == nil {
		return 0, false
	}
	return (*tcp.TCPReceiverState)(unsafe.Add(rcv, f.state)).RcvNxt, true
}

func (l *lostFINs) init() { l.seed = maphash.MakeSeed() }

func (l *lostFINs) place(local, remote uint16) *atomic.Uint64 {
	return &l.at[mixed(local, remote)>>(32-lostFINBits)]
}

// mark is the upper half of what is kept of a connection; never 0.
func (l *lostFINs) mark(port uint16, k demux.FlowKey) uint64 {
	return (maphash.Comparable(l.seed, k)^uint64(port)<<32)&^0xffffffff | 1<<63
}

// closed remembers a connection that its service has closed. Its lock is held.
func (l *lostFINs) closed(c *Conn, ep *tcp.Endpoint) {
	if ep.EndpointState() != tcp.StateFinWait1 {
		return
	}
	if next, ok := received(ep); ok {
		k := demux.FlowKey{Remote: c.remote.AddrPort(), Local: localAddr(c.local)}
		l.place(c.port, k.Remote.Port()).Store(l.mark(c.port, k) | uint64(next))
	}
}

// mendLostFIN looks at a TCP segment on its way to netstack.
func (s *Stack) mendLostFIN(p demux.Packet) {
	i := p.Info()
	at := s.lostFINs.place(i.DstPort, i.SrcPort)
	has := at.Load()
	if has == 0 || i.TCPFlags&(flagSYN|flagRST|flagACK) != flagACK {
		return
	}
	next := uint32(has)
	seq, _, _, _ := i.TCP(p.IP())
	fin := i.TCPFlags&flagFIN != 0
	inOrder := fin && seq+uint32(i.PayloadLen()) == next
	beyond := !fin && i.PayloadLen() == 0 && seq == next+1
	if !inOrder && !beyond || has&^0xffffffff != s.lostFINs.mark(i.DstPort, keyOf(p)) {
		return
	}
	if inOrder || !s.waitsForFIN(i.DstPort, keyOf(p)) {
		at.CompareAndSwap(has, 0) // it comes, or it has come: it was on its way in when the service closed
		return
	}
	binary.BigEndian.PutUint32(p.IP()[i.L4+4:], next)
}

// waitsForFIN reports whether a connection that was closed here has had no FIN.
func (s *Stack) waitsForFIN(port uint16, k demux.FlowKey) bool {
	ep, ok := s.find(port, k).(*tcp.Endpoint)
	if !ok {
		return false
	}
	state := ep.EndpointState()
	return state == tcp.StateFinWait1 || state == tcp.StateFinWait2
}
