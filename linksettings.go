package porthole

import (
	"fmt"
	"slices"
	"strings"

	"porthole/impair"
)

// LinkSettings say what the rules of the whole link are, or what shall change of them.
// The text form is KEY=VALUE words: each word of the rules (impair.Words: loss, delay,
// rate, ...) is a key, and means both directions of the link; in. or out. before it
// means one, as the host sees it. impair=RULES stands for all rules at once, those not
// named in it go: `rate=10mbit out.delay=20ms`, `impair=loss:1%,delay:50ms`,
// `impair=none`.
type LinkSettings struct {
	in, out []linkWord
}

// linkWord is one rule that is set, or with the word allRules all of them.
type linkWord struct{ word, value string }

// allRules is the key for all rules of a direction.
const allRules = "impair"

// ParseLinkSettings reads the text form. Its error names the key, the value and what
// would have been right.
func ParseLinkSettings(text string) (s LinkSettings, err error) {
	if len(text) > maxSettingText {
		return s, fmt.Errorf("settings: longer than %d bytes", maxSettingText)
	}
	for _, f := range strings.Fields(text) {
		key, value, ok := strings.Cut(f, "=")
		if err := s.add(key, value, ok); err != nil {
			return LinkSettings{}, err
		}
	}
	slices.SortStableFunc(s.in, byWord)
	slices.SortStableFunc(s.out, byWord)
	return s, nil
}

// byWord orders as the rules are printed, all of them at once first.
func byWord(a, b linkWord) int {
	return slices.Index(impair.Words(), a.word) - slices.Index(impair.Words(), b.word)
}

func (s *LinkSettings) add(key, value string, ok bool) error {
	word, in, out := key, true, true
	if w, is := strings.CutPrefix(key, "in."); is {
		word, out = w, false
	} else if w, is := strings.CutPrefix(key, "out."); is {
		word, in = w, false
	} else if key == allRules+"-in" {
		word, out = allRules, false
	} else if key == allRules+"-out" {
		word, in = allRules, false
	}
	if word != allRules {
		if err := impair.Known(word); err != nil {
			return err
		}
	}
	if !ok {
		return fmt.Errorf("%s: no value; want %s=VALUE", key, key)
	}
	w := linkWord{word, value}
	var r impair.Rules
	if err := w.apply(&r); err != nil {
		return err
	}
	if word == allRules {
		w.value = r.String()
	} else if v := r.Get(word); v != "" { // else it takes a rule away
		w.value = v
	}
	for _, d := range []struct {
		on bool
		to *[]linkWord
	}{{in, &s.in}, {out, &s.out}} {
		if !d.on {
			continue
		}
		if slices.ContainsFunc(*d.to, func(o linkWord) bool { return o.word == word }) {
			return fmt.Errorf("%s: given twice", key)
		}
		*d.to = append(*d.to, w)
	}
	return nil
}

func (w linkWord) apply(r *impair.Rules) (err error) {
	if w.word != allRules {
		return r.Set(w.word, w.value)
	}
	if *r, err = impair.Parse(w.value); err != nil {
		return fmt.Errorf("%s: %w", allRules, err)
	}
	return nil
}

// over lays s over base: a word of s takes the place of base's, all rules at once that
// of all of them.
func (s LinkSettings) over(base LinkSettings) LinkSettings {
	lay := func(base, top []linkWord) []linkWord {
		if len(top) > 0 && top[0].word == allRules {
			return top
		}
		base = slices.DeleteFunc(slices.Clone(base), func(w linkWord) bool {
			return slices.ContainsFunc(top, func(o linkWord) bool { return o.word == w.word })
		})
		base = append(base, top...)
		slices.SortStableFunc(base, byWord)
		return base
	}
	return LinkSettings{lay(base.in, s.in), lay(base.out, s.out)}
}

// Rules are what the settings come to, both directions. An error says what does not go
// together.
func (s LinkSettings) Rules() (in, out impair.Rules, err error) {
	for _, d := range []struct {
		name  string
		words []linkWord
		r     *impair.Rules
	}{{"in", s.in, &in}, {"out", s.out, &out}} {
		for _, w := range d.words {
			if err := w.apply(d.r); err != nil {
				return in, out, err
			}
		}
		if err := d.r.Check(); err != nil {
			return in, out, fmt.Errorf("%s: %w", d.name, err)
		}
	}
	return in, out, nil
}

// String is the text form, what is the same in both directions said once.
// ParseLinkSettings reads it back.
func (s LinkSettings) String() string {
	var both, in, out []string
	for _, w := range s.in {
		if slices.Contains(s.out, w) {
			both = append(both, w.word+"="+w.value)
		} else {
			in = append(in, "in."+w.word+"="+w.value)
		}
	}
	for _, w := range s.out {
		if !slices.Contains(s.in, w) {
			out = append(out, "out."+w.word+"="+w.value)
		}
	}
	return strings.Join(slices.Concat(both, in, out), " ")
}

// IsZero reports whether s says nothing.
func (s LinkSettings) IsZero() bool { return len(s.in) == 0 && len(s.out) == 0 }

// MarshalText gives the text form: in a configuration and in JSON, settings of the link
// are one text.
func (s LinkSettings) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes it.
func (s *LinkSettings) UnmarshalText(b []byte) (err error) {
	*s, err = ParseLinkSettings(string(b))
	return err
}
