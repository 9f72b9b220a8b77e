package stack

import (
	"reflect"
	"unsafe"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// SetReceiveBuffer sets the TCP receive buffer, in bytes, of a listening port's
// present and coming connections. A fixed size turns the window's auto-tuning off,
// as SO_RCVBUF does in Linux; 0 leaves new connections to auto-tuning again.
func (s *Stack) SetReceiveBuffer(port uint16, size int) bool {
	ln := s.listeners[port].Load()
	if ln == nil {
		return false
	}
	ln.rcvBuf.Store(int64(size))
	if size == 0 {
		ln.setFirstBuffer(s.defaultReceiveBuffer())
		return true
	}
	ln.setFirstBuffer(size)
	for _, ep := range s.net.RegisteredEndpoints() {
		e, ok := ep.(*tcp.Endpoint)
		if !ok || tcpip.Endpoint(e) == ln.ep {
			continue
		}
		if p, _ := localPort(ep); p == port {
			setReceiveBuffer(e, size)
		}
	}
	return true
}

func setReceiveBuffer(ep tcpip.Endpoint, size int) {
	ep.SocketOptions().SetReceiveBufferSize(int64(size), true)
}

// Netstack decides when a port begins to listen with what buffer its connections are
// made, and so their first window; there is no option for it later. So the field is
// set, with the listener's lock held, under which netstack reads it for each SYN. A
// netstack without that field offers the first window of the time of the bind.
var listenField, bufferField, buffersKnown = func() (ctx, size uintptr, ok bool) {
	c, ok := ownField(reflect.TypeFor[tcp.Endpoint](), "listenCtx")
	if !ok || c.Type.Kind() != reflect.Pointer {
		return 0, 0, false
	}
	f, ok := ownField(c.Type.Elem(), "rcvWnd")
	return c.Offset, f.Offset, ok && f.Type == reflect.TypeFor[seqnum.Size]()
}()

// setFirstBuffer sets the buffer with which a port's connections are made.
func (ln *Listener) setFirstBuffer(size int) {
	ln.ep.SocketOptions().SetReceiveBufferSize(int64(size), false) // what cookies offer is by it
	ep, ok := ln.ep.(*tcp.Endpoint)
	if !ok || !buffersKnown {
		return
	}
	ep.LockUser()
	defer ep.UnlockUser()
	if ctx := *(*unsafe.Pointer)(unsafe.Add(unsafe.Pointer(ep), listenField)); ctx != nil {
		*(*seqnum.Size)(unsafe.Add(ctx, bufferField)) = seqnum.Size(size)
	}
}

// defaultReceiveBuffer is where auto-tuning begins.
func (s *Stack) defaultReceiveBuffer() int {
	var r tcpip.TCPReceiveBufferSizeRangeOption
	if s.net.TransportProtocolOption(tcp.ProtocolNumber, &r) != nil {
		return tcp.DefaultReceiveBufferSize
	}
	return r.Default
}

// ReceiveBuffer is what SetReceiveBuffer has set; 0 is auto-tuning.
func (s *Stack) ReceiveBuffer(port uint16) int {
	if ln := s.listeners[port].Load(); ln != nil {
		return int(ln.rcvBuf.Load())
	}
	return 0
}
