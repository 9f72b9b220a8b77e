package stack

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// A client that has sent much in a short time may use its port again with an initial
// sequence number below what it had come to. Netstack ignores such a SYN for as long as
// TIME-WAIT lasts, and so does it the client's next ones, which say the same. Where both
// ends have timestamps a newer one tells that it is new (RFC 6191), and TIME-WAIT ends.
// If netstack comes to the SYN sooner than to that, the client's next SYN is answered.
//
// Netstack gives no hold of the timer, so its field is read; one that keeps it elsewhere
// ignores these SYNs.
var timeWaitField = endpointField[tcpip.Timer]("timeWaitTimer")

// reopen looks at a SYN for a connection in TIME-WAIT. It does not wait.
func reopen(ep *tcp.Endpoint, seq uint32, options []byte) {
	syn := header.ParseSynOptions(options, false)
	if !syn.TS || !timeWaitField.known || !ep.TryLock() {
		return
	}
	defer ep.ResumeWork() // nothing but the lock's other half
	next, ok := received(ep)
	if !ok || ep.EndpointState() != tcp.StateTimeWait || next.LessThan(seqnum.Value(seq)) ||
		!ep.SendTSOk || int32(syn.TSVal-ep.RecentTS) <= 0 {
		return
	}
	if t, ok := (*timeWaitField.of(ep)).(*timeWaitTimer); ok {
		t.Timer.Reset(0)
	}
}
