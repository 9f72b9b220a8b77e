package stack

import (
	"reflect"
	"unsafe"

	"gvisor.dev/gvisor/pkg/atomicbitops"
	"gvisor.dev/gvisor/pkg/buffer"

	"porthole/tun"
)

// rests are the buffers of one reader into which the device writes what a long frame has
// beside its first bytes. Netstack clears every buffer that it makes, 64 KiB here, which
// the device then overwrites. So the reader keeps a reference to restsKept of them and
// uses one again when it is the last. Which one is free is all that it knows, so it takes
// the first: few are in turn, and in the processor's cache, when a service keeps up.
//
// Netstack does not say how many references a buffer has, so its field is read; one
// without that field gets a new buffer each time.
type rests struct {
	kept []*buffer.View
	old  int // of kept, what a new one replaces: that of a packet dropped is never free
}

const restsKept = 32 // 2 MiB a reader, once it has had so many at a time

// next is a whole buffer that nobody else uses. It is the reader's until given.
func (r *rests) next() *buffer.View {
	for _, v := range r.kept {
		if references(v) == 1 {
			return v
		}
	}
	v := buffer.NewViewSize(tun.TailSize)
	switch {
	case !referencesKnown: // none is kept
	case len(r.kept) < restsKept:
		r.kept = append(r.kept, v)
	default:
		r.kept[r.old].Release()
		r.kept[r.old] = v
		r.old = (r.old + 1) % restsKept
	}
	return v
}

// give is the first n bytes of what next returned, for somebody who will release it.
func (r *rests) give(v *buffer.View, n int) *buffer.View {
	if referencesKnown {
		v = v.Clone()
	}
	v.CapLength(n)
	return v
}

func (r *rests) close() {
	for _, v := range r.kept {
		v.Release()
	}
	r.kept = nil
}

var chunkField, referencesField, referencesKnown = func() (chunk, count uintptr, ok bool) {
	c, ok := ownField(reflect.TypeFor[buffer.View](), "chunk")
	if !ok || c.Type.Kind() != reflect.Pointer {
		return 0, 0, false
	}
	refs, ok := ownField(c.Type.Elem(), "chunkRefs")
	if !ok {
		return 0, 0, false
	}
	n, ok := ownField(refs.Type, "refCount")
	return c.Offset, refs.Offset + n.Offset, ok && n.Type == reflect.TypeFor[atomicbitops.Int64]()
}()

// references is how many a view's buffer has, the view's own among them.
func references(v *buffer.View) int64 {
	chunk := *(*unsafe.Pointer)(unsafe.Add(unsafe.Pointer(v), chunkField))
	return (*atomicbitops.Int64)(unsafe.Add(chunk, referencesField)).Load()
}
