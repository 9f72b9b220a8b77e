package stack

import (
	"reflect"
	"unsafe"

	"gvisor.dev/gvisor/pkg/atomicbitops"
	gsync "gvisor.dev/gvisor/pkg/sync"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Netstack charges a listener's receive buffer with what waits in its queue, until that
// is freed. But a segment that it hands over to a connection, because it came with or
// right after the ACK of a cookie, is given back by that connection, which was charged
// once more. So the listener's charge grows, and after some hundred such connections
// nothing that carries data passes it any more: a client whose bare ACK was lost, or came
// while the accept queue was full, is never answered.
//
// So a listener whose queue is empty, and who has none of it in hand, is charged with
// nothing. The charge is all that bounds that queue, and anybody's segments with data get
// into it: while any wait, it stays as it is. Netstack has no option for it; one that keeps
// any of this elsewhere is left alone.
var chargeField = endpointField[atomicbitops.Int32]("rcvMemUsed")

// queueFields are where netstack keeps a connection's queue: its lock, and its first.
var queueFields = func() (f struct {
	mu, head uintptr
	known    bool
}) {
	queue, _ := ownField(reflect.TypeFor[tcp.Endpoint](), "segmentQueue")
	if queue.Type == nil {
		return f
	}
	lock, ok1 := ownField(queue.Type, "mu")
	list, ok2 := ownField(queue.Type, "list")
	if !ok1 || !ok2 {
		return f
	}
	mu, ok1 := ownField(lock.Type, "mu")
	head, ok2 := ownField(list.Type, "head")
	f.mu, f.head = queue.Offset+lock.Offset+mu.Offset, queue.Offset+list.Offset+head.Offset
	f.known = ok1 && ok2 && mu.Type == reflect.TypeFor[gsync.Mutex]() && head.Type.Kind() == reflect.Pointer
	return f
}()

// discharge looks at the listener's charge. It does not wait: netstack holds the lock
// while it has segments of the queue in hand, and writes what answers them.
func (ln *Listener) discharge() {
	ep, ok := ln.ep.(*tcp.Endpoint)
	if !ok || !chargeField.known || !queueFields.known || chargeField.of(ep).Load() == 0 || !ep.TryLock() {
		return
	}
	dischargeLocked(ep)
	ep.ResumeWork() // nothing but the lock's other half
}

func dischargeLocked(ep *tcp.Endpoint) {
	mu := (*gsync.Mutex)(unsafe.Add(unsafe.Pointer(ep), queueFields.mu))
	mu.Lock()
	defer mu.Unlock()
	if *(*unsafe.Pointer)(unsafe.Add(unsafe.Pointer(ep), queueFields.head)) == nil {
		chargeField.of(ep).Store(0)
	}
}
