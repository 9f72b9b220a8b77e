package stack

import "reflect"

// ownField finds a field of netstack's by its name, for what netstack has no option for
// (recovery.go, stuck.go, lostfin.go, buffer.go, processors.go): not one of an embedded struct, whose
// offset would be another.
func ownField(t reflect.Type, name string) (reflect.StructField, bool) {
	if t.Kind() != reflect.Struct {
		return reflect.StructField{}, false
	}
	f, ok := t.FieldByName(name)
	return f, ok && len(f.Index) == 1
}
