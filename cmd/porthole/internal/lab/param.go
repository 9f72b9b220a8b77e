package lab

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"porthole/cmd/porthole/internal/config"
	"porthole/internal/spell"
)

// Param is one thing that --set can change: a number, a duration, a word, a text, or
// a list of one of them (a sweep), with its unit, range and default. It is made by
// Int, Float, Duration, Word, Text and their plurals; the kind of the default is the
// kind of the value.
type Param struct {
	Name, Unit, Doc string
	def, quick      any
	read            func(one string) (any, error) // of one element
	list            bool
	span            string // "1 to 1024", as errors and lists show it
}

// limitList bounds a sweep.
const limitList = 64

type number interface {
	int | float64 | time.Duration
}

// Int is a whole number from low to high.
func Int(name string, def, low, high int, unit, doc string) Param {
	return one(name, unit, doc, def, between(low, high, strconv.Atoi))
}

// Ints is a sweep of whole numbers.
func Ints(name string, def []int, low, high int, unit, doc string) Param {
	return many(name, unit, doc, def, between(low, high, strconv.Atoi))
}

// Float is a number from low to high.
func Float(name string, def, low, high float64, unit, doc string) Param {
	return one(name, unit, doc, def, between(low, high, parseFloat))
}

// Floats is a sweep of numbers.
func Floats(name string, def []float64, low, high float64, unit, doc string) Param {
	return many(name, unit, doc, def, between(low, high, parseFloat))
}

// Duration is a time from low to high; its text has a unit ("20ms").
func Duration(name string, def, low, high time.Duration, doc string) Param {
	return one(name, "", doc, def, between(low, high, time.ParseDuration))
}

// Durations is a sweep of times.
func Durations(name string, def []time.Duration, low, high time.Duration, doc string) Param {
	return many(name, "", doc, def, between(low, high, time.ParseDuration))
}

// Word is one of a few.
func Word(name, def string, of []string, doc string) Param {
	return one(name, "", doc, def, oneOf(of))
}

// Words is a sweep over some of a few.
func Words(name string, def, of []string, doc string) Param {
	return many(name, "", doc, def, oneOf(of))
}

// Text is any text that check takes; span says in a few words what that is.
func Text(name, def, span, doc string, check func(string) error) Param {
	return one(name, "", doc, def, domain{span, func(s string) (any, error) { return s, check(s) }})
}

// WithQuick gives p another default for --quick.
func (p Param) WithQuick(v any) Param {
	if fmt.Sprintf("%T", v) != fmt.Sprintf("%T", p.def) {
		panic(fmt.Sprintf("lab: quick value of %s is a %T, not a %T", p.Name, v, p.def))
	}
	p.quick = v
	return p
}

// domain is the set of values one element may have.
type domain struct {
	span string
	read func(string) (any, error)
}

func between[T number](low, high T, parse func(string) (T, error)) domain {
	span := textOf(low) + " to " + textOf(high)
	return domain{span, func(s string) (any, error) {
		v, err := parse(s)
		if err != nil || !(v >= low && v <= high) {
			return nil, errOutside
		}
		return v, nil
	}}
}

func oneOf(of []string) domain {
	return domain{strings.Join(of, ", "), func(s string) (any, error) {
		if !slices.Contains(of, s) {
			return nil, errOutside
		}
		return s, nil
	}}
}

var errOutside = fmt.Errorf("outside")

func parseFloat(s string) (float64, error) { return strconv.ParseFloat(s, 64) }

func one(name, unit, doc string, def any, d domain) Param {
	return Param{Name: name, Unit: unit, Doc: doc, def: def, quick: def, read: d.read, span: d.span}
}

func many(name, unit, doc string, def any, d domain) Param {
	p := one(name, unit, doc, def, d)
	p.list = true
	return p
}

// Range is what the parameter takes, in words: "1 to 1024 packets, comma-separated".
func (p *Param) Range() string {
	s := p.span
	if p.Unit != "" {
		s += " " + p.Unit
	}
	if p.list {
		s += ", comma-separated"
	}
	return s
}

// Default is the default's text.
func (p *Param) Default(quick bool) string { return textOf(p.pick(quick)) }

func (p *Param) pick(quick bool) any {
	if quick {
		return p.quick
	}
	return p.def
}

// parse reads text. Its error names the parameter, the value, the range and the unit.
func (p *Param) parse(text string) (any, error) {
	parts := []string{text}
	if p.list {
		parts = strings.Split(text, ",")
	}
	if len(parts) > limitList {
		return nil, fmt.Errorf("%s: %d values; at most %d", p.Name, len(parts), limitList)
	}
	var all []any
	for _, s := range parts {
		v, err := p.read(strings.TrimSpace(s))
		switch {
		case err == errOutside:
			return nil, fmt.Errorf("%s: %q is not in its range: %s", p.Name, s, p.Range())
		case err != nil:
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
		all = append(all, v)
	}
	if !p.list {
		return all[0], nil
	}
	switch p.def.(type) {
	case []int:
		return as[int](all), nil
	case []float64:
		return as[float64](all), nil
	case []time.Duration:
		return as[time.Duration](all), nil
	}
	return as[string](all), nil
}

func as[T cmp.Ordered](all []any) (list []T) {
	for _, v := range all {
		list = append(list, v.(T))
	}
	return list
}

// textOf is a value as --set takes it.
func textOf(v any) string {
	switch v := v.(type) {
	case time.Duration:
		return config.ShortDuration(v)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case []int:
		return joined(v)
	case []float64:
		return joined(v)
	case []time.Duration:
		return joined(v)
	case []string:
		return strings.Join(v, ",")
	}
	return fmt.Sprint(v)
}

func joined[T number](list []T) string {
	var parts []string
	for _, v := range list {
		parts = append(parts, textOf(v))
	}
	return strings.Join(parts, ",")
}

// Values are the values of an experiment's parameters, by name.
type Values map[string]any

// Values are the defaults with what set ("name=value" words) changes of them. An
// error names what is wrong and the nearest right name.
func (e *Experiment) Values(quick bool, set []string) (Values, error) {
	vs := Values{}
	for i := range e.Params {
		vs[e.Params[i].Name] = e.Params[i].pick(quick)
	}
	seen := map[string]bool{}
	for _, kv := range set {
		name, text, ok := strings.Cut(kv, "=")
		i := slices.IndexFunc(e.Params, func(p Param) bool { return p.Name == name })
		switch {
		case i < 0:
			return nil, fmt.Errorf("%s: %w", e.Name, e.noParam(name))
		case !ok:
			return nil, fmt.Errorf("%s: %s: no value; want %s=VALUE with %s", e.Name, name, name, e.Params[i].Range())
		case seen[name]:
			return nil, fmt.Errorf("%s: %s: given twice", e.Name, name)
		}
		seen[name] = true
		v, err := e.Params[i].parse(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name, err)
		}
		vs[name] = v
	}
	return vs, nil
}

func (e *Experiment) noParam(name string) error {
	if len(e.Params) == 0 {
		return fmt.Errorf("no parameter %q; it has none", name)
	}
	var names, all []string
	for i := range e.Params {
		p := &e.Params[i]
		names = append(names, p.Name)
		all = append(all, fmt.Sprintf("%s (%s)", p.Name, p.Range()))
	}
	near := spell.Nearest(name, names)
	if near == "" {
		return fmt.Errorf("no parameter %q; it has %s", name, strings.Join(all, "; "))
	}
	i := slices.Index(names, near)
	return fmt.Errorf("no parameter %q; did you mean %s?", name, all[i])
}

// words are the values as --set takes them, in the order of the parameters.
func (e *Experiment) words(vs Values) (set []Setting) {
	for i := range e.Params {
		p := &e.Params[i]
		set = append(set, Setting{p.Name, textOf(vs[p.Name]), p.Unit})
	}
	return set
}

// Setting is a parameter's value as text.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	Unit  string `json:"unit,omitempty"`
}

// MarshalJSON describes a parameter.
func (p Param) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Name    string `json:"name"`
		Unit    string `json:"unit,omitempty"`
		Default string `json:"default"`
		Quick   string `json:"quick"`
		Range   string `json:"range"`
		Doc     string `json:"doc"`
	}{p.Name, p.Unit, p.Default(false), p.Default(true), p.Range(), p.Doc})
}
