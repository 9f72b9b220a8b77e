package stack

import (
	"reflect"
	"unsafe"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// ownField finds a field of netstack's by its name, for what netstack has no option for:
// not one of an embedded struct, whose offset would be another.
func ownField(t reflect.Type, name string) (reflect.StructField, bool) {
	if t.Kind() != reflect.Struct {
		return reflect.StructField{}, false
	}
	f, ok := t.FieldByName(name)
	return f, ok && len(f.Index) == 1
}

// field is where netstack keeps a T of each connection, if it does.
type field[T any] struct {
	offset uintptr
	known  bool
}

func endpointField[T any](name string) field[T] {
	f, ok := ownField(reflect.TypeFor[tcp.Endpoint](), name)
	return field[T]{f.Offset, ok && f.Type == reflect.TypeFor[T]()}
}

// of is the connection's own. The field is known.
func (f field[T]) of(ep *tcp.Endpoint) *T {
	return (*T)(unsafe.Add(unsafe.Pointer(ep), f.offset))
}
