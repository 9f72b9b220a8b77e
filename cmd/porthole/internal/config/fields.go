package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"porthole"
	"porthole/internal/spell"
)

// field is one key of a structure.
type field struct {
	key, doc string
	v        reflect.Value
}

// fields lists the keys of v in order. A service's own options stand beside its
// enabled and ports.
func fields(v reflect.Value) []field {
	var fs []field
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		key, opts, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case !f.IsExported() || key == "-":
			continue
		case opts == "inline" || f.Anonymous && key == "":
			fs = append(fs, fields(v.Field(i))...)
			continue
		case key == "":
			key = strings.ToLower(f.Name)
		}
		fs = append(fs, field{key, f.Tag.Get("doc"), v.Field(i)})
	}
	if s, ok := v.Interface().(porthole.Service); ok && s.Options != nil {
		fs = append(fs, fields(reflect.ValueOf(s.Options).Elem())...)
	}
	return fs
}

func sortedKeys(m reflect.Value) []string {
	var keys []string
	for _, k := range m.MapKeys() {
		keys = append(keys, scalarText(k))
	}
	slices.Sort(keys)
	return keys
}

func contains(words []string, w string) bool { return slices.Contains(words, w) }

// suggest names the known word nearest to w, or all when none is near.
func suggest(w string, known []string) string {
	if near := spell.Nearest(w, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "there are " + strings.Join(known, ", ")
}
