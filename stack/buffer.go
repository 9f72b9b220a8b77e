package stack

import (
	"gvisor.dev/gvisor/pkg/tcpip"
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
		return true
	}
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

// ReceiveBuffer is what SetReceiveBuffer has set; 0 is auto-tuning.
func (s *Stack) ReceiveBuffer(port uint16) int {
	if ln := s.listeners[port].Load(); ln != nil {
		return int(ln.rcvBuf.Load())
	}
	return 0
}
