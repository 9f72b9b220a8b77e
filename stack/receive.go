package stack

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"porthole/demux/flow"
	"porthole/demux/packet"
)

// Receiving is how the receive buffers of one port's open connections stand.
type Receiving struct {
	Connections int
	Queued      int // bytes that have come and nobody has read, of all
	Fullest     int // of the one that holds most
	Buffer      int // what that one may hold
	Window      int // the smallest that any of them was offered last; 0 without one
}

// Receiving is by port, of the ports with open connections, or of one alone (0: all).
func (s *Stack) Receiving(port uint16) map[uint16]Receiving {
	m := map[uint16]Receiving{}
	for _, ep := range s.net.RegisteredEndpoints() {
		e, ok := ep.(*tcp.Endpoint)
		if !ok || !receives(e) {
			continue
		}
		i, ok := e.Info().(*netstack.TransportEndpointInfo)
		if !ok || port != 0 && i.ID.LocalPort != port {
			continue
		}
		queued, buffer := receiveBuffer(e)
		r := m[i.ID.LocalPort]
		r.Queued += queued
		if r.Connections == 0 || queued > r.Fullest {
			r.Fullest, r.Buffer = queued, buffer
		}
		if w, ok := s.flows.Window(flowKeyOf(&i.ID)); ok && (r.Connections == 0 || w < r.Window) {
			r.Window = w
		}
		r.Connections++
		m[i.ID.LocalPort] = r
	}
	return m
}

// receives reports whether a connection may still get data.
func receives(e *tcp.Endpoint) bool {
	switch e.EndpointState() {
	case tcp.StateEstablished, tcp.StateFinWait1, tcp.StateFinWait2, tcp.StateCloseWait:
		return true
	}
	return false
}

func receiveBuffer(e *tcp.Endpoint) (queued, size int) {
	queued, _ = e.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
	return queued, int(e.SocketOptions().GetReceiveBufferSize())
}

func flowKeyOf(id *netstack.TransportEndpointID) flow.Key {
	return flow.Key{Proto: packet.TCP,
		Local:  addrPort(tcpip.FullAddress{Addr: id.LocalAddress, Port: id.LocalPort}),
		Remote: addrPort(tcpip.FullAddress{Addr: id.RemoteAddress, Port: id.RemotePort})}
}

// Receive completes what the timelines say of an open connection; without one that may
// still get data there is nothing to say.
func (s *Stack) Receive(f *flow.Flow) {
	if f.Receive == nil {
		return
	}
	id := netstack.TransportEndpointID{
		LocalAddress: address(f.Local.Addr()), LocalPort: f.Local.Port(),
		RemoteAddress: address(f.Remote.Addr()), RemotePort: f.Remote.Port(),
	}
	e, ok := s.net.FindTransportEndpoint(netProto(f.Local.Addr()), tcp.ProtocolNumber, id, nicID).(*tcp.Endpoint)
	if !ok || !receives(e) {
		f.Receive = nil
		return
	}
	f.Receive.Queued, f.Receive.Buffer = receiveBuffer(e)
}
