package stack

import (
	"reflect"
	"runtime"
	"unsafe"

	"gvisor.dev/gvisor/pkg/sleep"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// processors is how many goroutines of netstack's process TCP segments: half as many as
// there are cores, and at least one.
//
// Netstack has one a core, each connection on one of them and a listener's SYNs on all.
// Of two that have a SYN for the same listener, one turns round and round while the other
// makes the connection and writes its SYN+ACK to the device, and longer when that one
// has to wait for a core, which it has the less of. On two cores with many short
// connections that was a fifth of all that the host did.
func processors() int { return max(1, runtime.GOMAXPROCS(0)/2) }

// keepProcessors ends all but n of them, before there is a segment. Netstack has no
// option for it, so they are woken as at its close and taken off its list. It reports
// whether netstack keeps them where it is known to; else there are as many as it likes.
func keepProcessors(p netstack.TransportProtocol, n int) bool {
	v := reflect.ValueOf(p)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return false
	}
	at, ok := ownField(v.Elem().Type(), "dispatcher")
	if !ok {
		return false
	}
	d := v.Elem().FieldByIndex(at.Index)
	if at, ok = ownField(d.Type(), "processors"); !ok || at.Type.Kind() != reflect.Slice {
		return false
	}
	list := d.FieldByIndex(at.Index)
	f, ok := ownField(list.Type().Elem(), "closeWaker")
	if !ok || f.Type != reflect.TypeFor[sleep.Waker]() {
		return false
	}
	for i := n; i < list.Len(); i++ {
		(*sleep.Waker)(unsafe.Add(unsafe.Pointer(list.Index(i).UnsafeAddr()), f.Offset)).Assert()
	}
	type header struct {
		data     unsafe.Pointer
		len, cap int
	}
	h := (*header)(unsafe.Pointer(list.UnsafeAddr()))
	h.len = min(h.len, n)
	return true
}
