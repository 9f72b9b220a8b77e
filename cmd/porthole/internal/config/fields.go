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
	if near := Nearest(w, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "there are " + strings.Join(known, ", ")
}

// Nearest is the known word with the fewest edits to w, or "" when that is more
// than half of w's letters (a word that shares so little is no help). Of two, it is
// the one that begins more like w.
func Nearest(w string, known []string) string {
	w = strings.ToLower(w)
	best, least := "", min(max(len(w)/2, 2)+1, len(w))
	for _, k := range known {
		d := spell.Distance(w, k)
		if d < least || best != "" && d == least && shared(w, k) > shared(w, best) {
			best, least = k, d
		}
	}
	return best
}

// shared is how many letters a and b begin with in common.
func shared(a, b string) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}
