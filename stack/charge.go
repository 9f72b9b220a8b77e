package stack

import (
	"gvisor.dev/gvisor/pkg/atomicbitops"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Netstack charges a listener's receive buffer with what waits in its queue, until that
// is freed. But a segment that it hands over to a connection, because it came with or
// right after the ACK of a cookie, is given back by that connection, which was charged
// once more. So the listener's charge grows, and after some hundred such connections
// nothing that carries data passes it any more: a client whose bare ACK was lost, or came
// while the accept queue was full, is never answered.
//
// So a listener's charge is set to nothing from time to time. What waits in its queue then
// is free, and makes the charge negative when it is given back, until the next time: the
// queue holds twice its bytes at most. Netstack has no option for it; one that keeps the
// charge elsewhere is left alone.
var chargeField = endpointField[atomicbitops.Int32]("rcvMemUsed")

// charge is what netstack charges the listener with, or nil.
func (ln *Listener) charge() *atomicbitops.Int32 {
	ep, ok := ln.ep.(*tcp.Endpoint)
	if !ok || !chargeField.known {
		return nil
	}
	return chargeField.of(ep)
}

func (ln *Listener) discharge() {
	if c := ln.charge(); c != nil {
		c.Store(0)
	}
}
