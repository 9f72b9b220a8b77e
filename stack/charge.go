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
// So a listener is charged with what waits in its queue, and no more: from time to time
// that is counted. What netstack has in hand then is free: one segment. The charge is all
// that bounds that queue, and anybody's segments with data get into it. Netstack has no
// option for it; one that keeps any of this elsewhere is left alone.
var chargeField = endpointField[atomicbitops.Int32]("rcvMemUsed")

// queueFields are where netstack keeps a connection's queue, its lock and its first
// segment, and a segment's next one and size.
var queueFields = func() (f struct {
	mu, head, next, size uintptr
	own                  int32 // what a segment is charged beside its size
	known                bool
}) {
	queue, ok := ownField(reflect.TypeFor[tcp.Endpoint](), "segmentQueue")
	if !ok {
		return f
	}
	lock, ok1 := ownField(queue.Type, "mu")
	list, ok2 := ownField(queue.Type, "list")
	if !ok1 || !ok2 {
		return f
	}
	mu, ok1 := ownField(lock.Type, "mu")
	head, ok2 := ownField(list.Type, "head")
	if !ok1 || !ok2 || mu.Type != reflect.TypeFor[gsync.Mutex]() || head.Type.Kind() != reflect.Pointer {
		return f
	}
	segment := head.Type.Elem()
	entry, ok1 := ownField(segment, "segmentEntry")
	size, ok2 := ownField(segment, "dataMemSize")
	if !ok1 || !ok2 || size.Type.Kind() != reflect.Int {
		return f
	}
	next, ok := ownField(entry.Type, "next")
	f.mu, f.head = queue.Offset+lock.Offset+mu.Offset, queue.Offset+list.Offset+head.Offset
	f.next, f.size, f.own = entry.Offset+next.Offset, size.Offset, int32(segment.Size())
	f.known = ok && next.Type == head.Type
	return f
}()

// Segments without data netstack takes into a listener's queue whatever its charge, which
// they add to: to those that belong to no connection a crowded listener is closed.
const crowd = 1 << 20 // bytes

func (ln *Listener) crowded() bool {
	ep, ok := ln.ep.(*tcp.Endpoint)
	return ok && chargeField.known && chargeField.of(ep).Load() > crowd
}

// discharge sets the listener's charge to what waits in its queue, where that is less.
// It holds the queue, and not the listener's lock: netstack keeps that while it writes.
func (ln *Listener) discharge() {
	ep, ok := ln.ep.(*tcp.Endpoint)
	if !ok || !chargeField.known || !queueFields.known || chargeField.of(ep).Load() == 0 {
		return
	}
	mu := (*gsync.Mutex)(unsafe.Add(unsafe.Pointer(ep), queueFields.mu))
	mu.Lock()
	defer mu.Unlock()
	charge, waits := chargeField.of(ep), int32(0)
	most := charge.Load()
	for s := *(*unsafe.Pointer)(unsafe.Add(unsafe.Pointer(ep), queueFields.head)); s != nil; s = *(*unsafe.Pointer)(unsafe.Add(s, queueFields.next)) {
		waits += queueFields.own + int32(*(*int)(unsafe.Add(s, queueFields.size)))
		if waits >= most {
			return // the charge is right, or netstack gives it back just now
		}
	}
	charge.Store(waits)
}
