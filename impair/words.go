package impair

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"porthole/internal/spell"
)

// What follows makes the entries of the table of words that have a common form.

func chance(name string, at func(*Rules) *float64) word {
	return word{name, func(r *Rules, v string) (err error) {
		*at(r), err = parsePercent(v)
		return err
	}, func(r *Rules) string {
		if *at(r) == 0 {
			return ""
		}
		return percent(*at(r))
	}}
}

// choice is one of a few names; the first is what nothing said means.
func choice[T ~uint8](name string, names []string, at func(*Rules) *T) word {
	return word{name, func(r *Rules, v string) error {
		i := slices.Index(names, v)
		if i < 0 {
			return fmt.Errorf("%q is none of %s", v, strings.Join(names, ", "))
		}
		*at(r) = T(i)
		return nil
	}, func(r *Rules) string {
		if *at(r) == 0 {
			return ""
		}
		return names[*at(r)]
	}}
}

type duration time.Duration

// span is a time of CoDel's; 0 takes its default.
func span(name string, at func(*Rules) *duration) word {
	return word{name, func(r *Rules, v string) error {
		d, err := parseTime(v)
		if err == nil && d > 0 && d < minSpan {
			err = fmt.Errorf("%q is below 1us", v)
		}
		*at(r) = duration(d)
		return err
	}, func(r *Rules) string {
		if *at(r) == 0 {
			return ""
		}
		return time.Duration(*at(r)).String()
	}}
}

func count(n *int, v string, least, most int, unit string) error {
	i, err := strconv.Atoi(v)
	if err != nil || i < least || i > most {
		return fmt.Errorf("%q is not %d to %d %s", v, least, most, unit)
	}
	*n = i
	return nil
}

func number0(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// nearest is the word that is at most two letters away, the nearest of them; netem's
// other spellings are known, too.
func nearest(s string) string {
	if w, ok := map[string]string{"random": "loss", "drop": "loss", "jitter": "delay", "latency": "delay", "bandwidth": "rate", "syn": "drop-syn", "dup": "duplicate"}[s]; ok {
		return w
	}
	best, found := 3, ""
	for _, w := range words {
		if d := spell.Distance(s, w.name); d < best {
			best, found = d, w.name
		}
	}
	return found
}
