package config

import (
	"encoding"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"porthole"
	"porthole/services/all"
)

// Print writes c as commented YAML that Decode takes back unchanged.
func Print(w io.Writer, c *porthole.Config) error {
	p := printer{}
	p.comment(0, "Configuration of porthole. Every key may be left out: this file says what it is then.")
	p.line(0, "")
	p.structure(0, reflect.ValueOf(c).Elem())
	_, err := io.WriteString(w, p.out.String())
	return err
}

type printer struct{ out strings.Builder }

func (p *printer) line(indent int, format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	if s != "" {
		p.out.WriteString(strings.Repeat("  ", indent))
	}
	p.out.WriteString(s + "\n")
}

// comment writes text in lines of at most 88 columns.
func (p *printer) comment(indent int, text string) {
	line := "#"
	for _, word := range strings.Fields(text) {
		if len(line)+len(word) > 86-2*indent && line != "#" {
			p.line(indent, "%s", line)
			line = "#"
		}
		line += " " + word
	}
	if line != "#" {
		p.line(indent, "%s", line)
	}
}

func (p *printer) structure(indent int, v reflect.Value) {
	for i, f := range fields(v) {
		if indent == 0 && i > 0 {
			p.line(0, "")
		}
		p.comment(indent, f.doc)
		p.keyed(indent, f.key, f.v)
	}
}

// keyed writes "key: value", in more lines where the value needs them.
func (p *printer) keyed(indent int, key string, v reflect.Value) {
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	t := v.Type()
	switch {
	case t == reflect.TypeFor[map[string]*porthole.Service]():
		p.line(indent, "%s:", key)
		p.services(indent+1, v.Interface().(map[string]*porthole.Service))
	case isScalar(t):
		p.line(indent, "%s: %s", key, quoted(scalarText(v)))
	case t.Kind() == reflect.Struct:
		p.line(indent, "%s:", key)
		p.structure(indent+1, v)
	case t.Kind() == reflect.Slice && isScalar(t.Elem()):
		words := make([]string, v.Len())
		for i := range words {
			words[i] = quoted(scalarText(v.Index(i)))
		}
		p.line(indent, "%s: [%s]", key, strings.Join(words, ", "))
	case v.Len() == 0:
		p.example(indent, t)
		p.line(indent, "%s: %s", key, map[reflect.Kind]string{reflect.Slice: "[]", reflect.Map: "{}"}[t.Kind()])
	case t.Kind() == reflect.Slice:
		p.line(indent, "%s:", key)
		for i := range v.Len() {
			p.element(indent+1, v.Index(i))
		}
	case t.Kind() == reflect.Map:
		p.line(indent, "%s:", key)
		for _, k := range sortedKeys(v) {
			e := reflect.New(t.Key()).Elem()
			if err := setScalar(e, k); err != nil {
				continue // a key prints as what it is read from
			}
			p.keyed(indent+1, quoted(k), v.MapIndex(e))
		}
	}
}

// services writes them in the catalogue's order, each under its one line.
func (p *printer) services(indent int, m map[string]*porthole.Service) {
	first := true
	for _, s := range all.Services() {
		if m[s.Name] == nil {
			continue
		}
		if !first {
			p.line(0, "")
		}
		first = false
		p.comment(indent, s.About)
		p.keyed(indent, s.Name, reflect.ValueOf(m[s.Name]))
	}
}

// element writes one item of a list of structures or lists: its first key behind the dash.
func (p *printer) element(indent int, v reflect.Value) {
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	sub := printer{}
	if v.Kind() == reflect.Struct {
		for _, f := range fields(v) {
			sub.keyed(0, f.key, f.v)
		}
	} else {
		sub.keyed(0, "", v)
	}
	for i, l := range strings.Split(strings.TrimSuffix(sub.out.String(), "\n"), "\n") {
		lead := "  "
		if i == 0 {
			lead = "- "
		}
		p.line(indent, "%s%s", lead, strings.TrimPrefix(l, ": "))
	}
}

// example shows, in comments, what an entry of an empty list or map may hold.
func (p *printer) example(indent int, t reflect.Type) {
	e := t.Elem()
	for e.Kind() == reflect.Pointer {
		e = e.Elem()
	}
	if e.Kind() != reflect.Struct || isScalar(e) {
		return
	}
	p.line(indent, "# Each has:")
	for _, f := range fields(reflect.New(e).Elem()) {
		p.line(indent, "#   %-14s %s", f.key+":", f.doc)
	}
}

// scalarText is the word that stands for v; setScalar reads it back.
func scalarText(v reflect.Value) string {
	x := v.Interface()
	if v.CanAddr() {
		if m, ok := v.Addr().Interface().(encoding.TextMarshaler); ok {
			x = m // for types whose methods have a pointer receiver
		}
	}
	switch x := x.(type) {
	case time.Duration:
		return ShortDuration(x)
	case encoding.TextMarshaler:
		b, err := x.MarshalText()
		if address := v.Type() == reflect.TypeFor[netip.Prefix]() || v.Type() == reflect.TypeFor[netip.Addr](); err != nil || len(b) == 0 && address {
			return "none" // an address left out
		}
		return string(b)
	}
	if v.CanFloat() {
		return strconv.FormatFloat(v.Float(), 'g', -1, v.Type().Bits())
	}
	return fmt.Sprint(v.Interface())
}

// ShortDuration drops the zero tail: 5m, not 5m0s.
func ShortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// plain matches words that YAML takes for themselves wherever we write them.
var plain = regexp.MustCompile(`^[A-Za-z0-9_./+]([A-Za-z0-9_./+@%:-]*[A-Za-z0-9_./+@%-])?$`)

// quoted gives s as a YAML scalar. Go's ASCII quoting uses only escapes that YAML
// knows too (YAML 1.2, 5.7).
func quoted(s string) string {
	switch s {
	case "null", "Null", "NULL":
	default:
		if plain.MatchString(s) {
			return s
		}
	}
	return strconv.QuoteToASCII(s)
}
