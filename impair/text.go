package impair

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The text form is WORD:VALUE, with commas between: "loss:5%,delay:50ms±10ms". Words
// are netem's. "none" is the rules that do nothing.

// maxText bounds a text form, in bytes.
const maxText = 512

// The bounds of the counts, packets and bytes.
const (
	maxSYNs  = 1_000_000
	maxLimit = 32768
	minBytes = 64
	maxBytes = 64 << 20
	maxGap   = 1_000_000
	minSpan  = 1000 // ns, of CoDel's target and interval
)

const (
	noneText   = "none"
	plusMinus  = "±" // between delay and jitter
	keyboardPM = "+-"
)

// word is one rule of the text form.
type word struct {
	name  string
	parse func(r *Rules, v string) error
	text  func(r *Rules) string // "" when it says nothing
}

var words = []word{
	{"drop-syn", func(r *Rules, v string) error { return count(&r.DropSYN, v, 0, maxSYNs, "segments") },
		func(r *Rules) string { return number0(r.DropSYN) }},
	chance("loss", func(r *Rules) *float64 { return &r.Loss }),
	{"gemodel", func(r *Rules, v string) error { return r.GE.parse(v) }, func(r *Rules) string { return r.GE.String() }},
	chance("corrupt", func(r *Rules) *float64 { return &r.Corrupt }),
	chance("duplicate", func(r *Rules) *float64 { return &r.Duplicate }),
	{"rate", func(r *Rules, v string) (err error) { r.Rate, err = ParseRate(v); return err }, func(r *Rules) string {
		if r.Rate == 0 {
			return ""
		}
		return r.Rate.String()
	}},
	{"limit", func(r *Rules, v string) error { return count(&r.Limit, v, 0, maxLimit, "packets") },
		func(r *Rules) string { return number0(r.Limit) }},
	{"limit-bytes", func(r *Rules, v string) (err error) {
		r.LimitBytes, err = parseSize(v, minBytes, maxBytes)
		return err
	}, func(r *Rules) string {
		if r.LimitBytes == 0 {
			return ""
		}
		return size(r.LimitBytes)
	}},
	choice("policy", []string{"tail-drop", "codel"}, func(r *Rules) *Policy { return &r.Policy }),
	span("target", func(r *Rules) *duration { return (*duration)(&r.Target) }),
	span("interval", func(r *Rules) *duration { return (*duration)(&r.Interval) }),
	{"delay", (*Rules).parseDelay, (*Rules).delayText},
	choice("distribution", []string{"uniform", "normal", "pareto"}, func(r *Rules) *Distribution { return &r.Distribution }),
	chance("reorder", func(r *Rules) *float64 { return &r.Reorder }),
	{"gap", func(r *Rules, v string) error { return count(&r.Gap, v, 0, maxGap, "packets") },
		func(r *Rules) string { return number0(r.Gap) }},
	{"seed", func(r *Rules, v string) (err error) {
		if r.Seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			return fmt.Errorf("%q is no whole number of 0 to 18446744073709551615", v)
		}
		return nil
	}, func(r *Rules) string {
		if r.Seed == 0 {
			return ""
		}
		return strconv.FormatUint(r.Seed, 10)
	}},
}

// Words lists the words of the text form, in the order in which they are printed.
func Words() []string {
	names := make([]string, len(words))
	for i, w := range words {
		names[i] = w.name
	}
	return names
}

// Parse reads the text form. Its error names the word, the value, and what would have
// been right.
func Parse(s string) (Rules, error) {
	var r Rules
	if len(s) > maxText {
		return r, fmt.Errorf("rules: longer than %d bytes", maxText)
	}
	if s == noneText {
		return r, nil
	}
	seen := map[string]bool{}
	for _, part := range strings.Split(s, ",") {
		name, value, ok := strings.Cut(part, ":")
		switch {
		case part == "":
			return Rules{}, errors.New("an empty rule; want WORD:VALUE,..., such as loss:5%,delay:50ms±10ms, or none")
		case !ok:
			if err := Known(name); err != nil {
				return Rules{}, err
			}
			return Rules{}, fmt.Errorf("%s: no value; want %s:VALUE", name, name)
		case seen[name]:
			return Rules{}, fmt.Errorf("%s: given twice", name)
		}
		seen[name] = true
		if err := r.Set(name, value); err != nil {
			return Rules{}, err
		}
	}
	return r, r.Check()
}

// Known is an error for what is no word of the rules; it names the nearest one.
func Known(name string) error {
	if slices.ContainsFunc(words, func(w word) bool { return w.name == name }) {
		return nil
	}
	if near := nearest(name); near != "" {
		return fmt.Errorf("no rule %q; the nearest is %s", name, near)
	}
	return fmt.Errorf("no rule %q; there are %s", name, strings.Join(Words(), ", "))
}

// Set changes one rule by its word. What the rules say together is Check's.
func (r *Rules) Set(name, value string) error {
	for _, w := range words {
		if w.name == name {
			if err := w.parse(r, value); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		}
	}
	return Known(name)
}

// Get is the text of one rule, "" when it says nothing.
func (r *Rules) Get(name string) string {
	for _, w := range words {
		if w.name == name {
			return w.text(r)
		}
	}
	return ""
}

// Check reports rules that mean nothing without another one.
func (r *Rules) Check() error {
	switch {
	case r.Loss > 0 && r.GE.P > 0:
		return errors.New("loss: gemodel decides what is lost; leave one of the two out")
	case r.Distribution != Uniform && r.Jitter == 0:
		return fmt.Errorf("distribution: needs a delay with jitter, such as delay:50ms%s10ms", plusMinus)
	case r.Reorder > 0 && r.Delay == 0:
		return errors.New("reorder: needs a delay that a packet can skip, such as delay:10ms")
	case r.Gap > 0 && r.Reorder == 0:
		return errors.New("gap: needs a reorder, such as reorder:25%")
	case (r.Limit > 0 || r.LimitBytes > 0) && !r.waits():
		return errors.New("limit: needs a rate or a delay that packets wait for, such as rate:10mbit")
	case r.Policy != TailDrop && r.Rate == 0:
		return errors.New("policy: needs a rate that packets queue for, such as rate:10mbit")
	case (r.Target > 0 || r.Interval > 0) && r.Policy != CoDelPolicy:
		return errors.New("target: it and interval are CoDel's; add policy:codel")
	}
	return nil
}

// String is the text form; Parse reads it back.
func (r Rules) String() string {
	var parts []string
	for _, w := range words {
		if v := w.text(&r); v != "" {
			parts = append(parts, w.name+":"+v)
		}
	}
	if len(parts) == 0 {
		return noneText
	}
	return strings.Join(parts, ",")
}

// MarshalText gives the text form.
func (r Rules) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText takes it.
func (r *Rules) UnmarshalText(b []byte) (err error) {
	*r, err = Parse(string(b))
	return err
}

// parseDelay takes 50ms, 50ms±10ms and 50ms+-10ms.
func (r *Rules) parseDelay(v string) error {
	mean, jitter, ok := strings.Cut(strings.ReplaceAll(v, keyboardPM, plusMinus), plusMinus)
	d, err := parseTime(mean)
	if err != nil {
		return err
	}
	r.Delay, r.Jitter = d, 0
	if ok {
		if r.Jitter, err = parseTime(jitter); err != nil {
			return fmt.Errorf("jitter: %w", err)
		}
	}
	return nil
}

func (r *Rules) delayText() string {
	switch {
	case r.Delay == 0 && r.Jitter == 0:
		return ""
	case r.Jitter == 0:
		return r.Delay.String()
	}
	return r.Delay.String() + plusMinus + r.Jitter.String()
}

// parse takes P/R/1-H/1-K, of which all but P may be left out: netem's defaults are
// R = 100% - P, 1-H = 100%, 1-K = 0.
func (g *GilbertElliott) parse(v string) error {
	parts := strings.Split(v, "/")
	if len(parts) > 4 {
		return fmt.Errorf("%q has more than the four chances P/R/1-H/1-K", v)
	}
	var p [4]float64
	for i, s := range parts {
		var err error
		if p[i], err = parsePercent(s); err != nil {
			return fmt.Errorf("%s: %w", [...]string{"P, good to bad", "R, bad to good", "1-H, loss while bad", "1-K, loss while good"}[i], err)
		}
	}
	if len(parts) < 2 {
		p[1] = 100 - p[0]
	}
	if len(parts) < 3 {
		p[2] = 100
	}
	*g = GilbertElliott{p[0], p[1], p[2], p[3]}
	if g.P == 0 {
		*g = GilbertElliott{}
	}
	return nil
}

func (g GilbertElliott) String() string {
	switch {
	case g.P == 0:
		return ""
	case g.Good > 0:
		return percent(g.P) + "/" + percent(g.R) + "/" + percent(g.Bad) + "/" + percent(g.Good)
	case g.Bad != 100:
		return percent(g.P) + "/" + percent(g.R) + "/" + percent(g.Bad)
	}
	return percent(g.P) + "/" + percent(g.R)
}
