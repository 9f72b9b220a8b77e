package config

import (
	"encoding"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"porthole"
)

// decoder walks one document. Every value that it cannot use is one problem; it
// goes on behind it, so that one run shows them all.
type decoder struct {
	f     *File
	found Problems
}

func (d *decoder) add(n *yaml.Node, format string, args ...any) {
	d.found = append(d.found, Problem{d.f.Name, max(n.Line, 1), max(n.Column, 1), fmt.Sprintf(format, args...)})
}

// wrong reports a value of the wrong kind, by its path.
func (d *decoder) wrong(n *yaml.Node, path, want string) {
	d.add(n, "%s: %s is no %s", orTop(path), shown(n), want)
}

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

// value decodes n into v. The kinds are those that a configuration may be made of;
// TestDefaultRoundTrip fails for a service that uses another.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind == yaml.AliasNode {
		// Depth is bounded by v's type, so that an alias to itself ends here too.
		n = n.Alias
	}
	if path != "" {
		d.f.at[path] = mark{max(n.Line, 1), max(n.Column, 1)}
	}
	switch {
	case v.Kind() == reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.value(n, v.Elem(), path)
	case isScalar(v.Type()):
		if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
			d.wrong(n, path, typeName(v.Type()))
			return
		}
		if err := setScalar(v, n.Value); err != nil {
			d.add(n, "%s: %v", path, err)
		}
	case v.Kind() == reflect.Struct:
		d.structure(n, v, path)
	case v.Kind() == reflect.Map:
		d.mapping(n, v, path)
	case v.Kind() == reflect.Slice:
		d.sequence(n, v, path)
	default:
		d.add(n, "%s: cannot be set in a file", path)
	}
}

func (d *decoder) structure(n *yaml.Node, v reflect.Value, path string) {
	fs := fields(v)
	known := make([]string, len(fs))
	for i, f := range fs {
		known[i] = f.key
	}
	d.pairs(n, path, known, func(key string, val *yaml.Node, at string) {
		for _, f := range fs {
			if f.key == key {
				d.value(val, f.v, at)
			}
		}
	})
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	if v.Type() == reflect.TypeFor[map[string]*porthole.Service]() {
		all := v.Interface().(map[string]*porthole.Service)
		d.pairs(n, path, sortedKeys(v), func(key string, val *yaml.Node, at string) {
			d.value(val, reflect.ValueOf(all[key]).Elem(), at)
		})
		return
	}
	m := reflect.MakeMap(v.Type())
	d.pairs(n, path, nil, func(key string, val *yaml.Node, at string) {
		k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		if err := setScalar(k, key); err != nil {
			d.add(val, "%s: %v", at, err)
			return
		}
		d.value(val, e, at)
		m.SetMapIndex(k, e)
	})
	if m.Len() > 0 || !v.IsNil() {
		v.Set(m)
	}
}

// pairs visits the keys of a mapping. known nil takes any key. An empty value
// ("services:" with all below it commented out) is an empty mapping.
func (d *decoder) pairs(n *yaml.Node, path string, known []string, visit func(key string, val *yaml.Node, at string)) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.wrong(n, path, "mapping (KEY: VALUE lines)")
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, val := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode {
			d.add(k, "%s: a key must be a word", orTop(path))
			continue
		}
		if line, twice := seen[k.Value]; twice {
			d.add(k, "%s: key %q again; it stands in line %d already", orTop(path), k.Value, line)
			continue
		}
		seen[k.Value] = k.Line
		if known != nil && !contains(known, k.Value) {
			d.add(k, "%s: no key %q; %s", orTop(path), k.Value, suggest(k.Value, known))
			continue
		}
		at := k.Value
		if path != "" {
			at = path + "." + k.Value
		}
		visit(k.Value, val, at)
	}
}

func (d *decoder) sequence(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		d.wrong(n, path, "list (such as [a, b])")
		return
	}
	if len(n.Content) == 0 && v.IsNil() {
		return
	}
	s := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, e := range n.Content {
		d.value(e, s.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
	v.Set(s)
}

// isScalar reports whether values of t are written as one word.
func isScalar(t reflect.Type) bool {
	if reflect.PointerTo(t).Implements(textUnmarshaler) {
		return true
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return true
	}
	return false
}

// setScalar sets v from the word that stands for it.
func setScalar(v reflect.Value, s string) error {
	bad := func() error { return fmt.Errorf("%q is no %s", s, typeName(v.Type())) }
	switch p := v.Addr().Interface().(type) {
	case *time.Duration:
		d, err := time.ParseDuration(s)
		if err != nil {
			return bad()
		}
		*p = d
		return nil
	case *netip.Prefix, *netip.Addr:
		if s == "none" {
			s = "" // their zero
		}
		if p.(encoding.TextUnmarshaler).UnmarshalText([]byte(s)) != nil {
			return bad()
		}
		return nil
	case encoding.TextUnmarshaler:
		return p.UnmarshalText([]byte(s))
	}
	bits := 0
	if k := v.Kind(); k != reflect.String && k != reflect.Bool {
		bits = v.Type().Bits()
	}
	var err error
	switch k := v.Kind(); {
	case k == reflect.String:
		v.SetString(s)
	case k == reflect.Bool:
		if s != "true" && s != "false" {
			return bad()
		}
		v.SetBool(s == "true")
	case v.CanInt():
		var i int64
		if i, err = strconv.ParseInt(s, 10, bits); err == nil {
			v.SetInt(i)
		}
	case v.CanUint():
		var u uint64
		if u, err = strconv.ParseUint(s, 10, bits); err == nil {
			v.SetUint(u)
		}
	default:
		var f float64
		if f, err = strconv.ParseFloat(s, bits); err == nil {
			v.SetFloat(f)
		}
	}
	if err != nil {
		return bad()
	}
	return nil
}

// typeName says what a value of t looks like, behind "is no".
func typeName(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return "duration, such as 30s or 5m"
	case reflect.TypeFor[netip.Prefix]():
		return "address with a prefix length, such as 10.77.0.1/24 or fd77::1/64"
	case reflect.TypeFor[netip.Addr]():
		return "IP address"
	}
	switch k := t.Kind(); {
	case k == reflect.Bool:
		return "true or false"
	case reflect.PointerTo(t).Implements(textUnmarshaler):
		return strings.ToLower(t.Name())
	case k == reflect.String:
		return "text"
	case k == reflect.Float32 || k == reflect.Float64:
		return "number"
	case k >= reflect.Uint && k <= reflect.Uint64:
		return fmt.Sprintf("whole number from 0 to %d", ^uint64(0)>>(64-t.Bits()))
	}
	return "whole number"
}

// shown is a node as an error quotes it.
func shown(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!null":
		return "nothing"
	case len(n.Value) > 40:
		return strconv.Quote(n.Value[:40]) + "..."
	}
	return strconv.Quote(n.Value)
}

func orTop(path string) string {
	if path == "" {
		return "top level"
	}
	return path
}
