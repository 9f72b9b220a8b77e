package porthole

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"porthole/demux"
	"porthole/impair"
	"porthole/internal/spell"
	"porthole/services"
	"porthole/stack"
)

// Settings are what can be changed of a port while it runs, and what a
// configuration says of it. A nil field says nothing: the layer below decides.
//
// A port's settings have three layers: what the host takes by default, what the
// configuration says, and on top what Set has changed. Reset takes the top layer
// away; Reload replaces the middle one.
//
// The text form is one line, `queue=64 service-delay=exp(10ms)`: what `porthole set`
// takes, what the configuration holds, what ParseSettings reads.
type Settings struct {
	Queue         *int      `json:"queue,omitempty"`             // packets that the port's queue holds
	QueueBytes    *int64    `json:"queue_bytes,omitempty"`       // of charge that it holds
	Policy        string    `json:"policy,omitempty"`            // what a queue loses: PolicyTailDrop...
	CodelTarget   *Duration `json:"codel_target,omitempty"`      // wait that CoDel tolerates for good
	CodelInterval *Duration `json:"codel_interval,omitempty"`    // how long it gives a queue to come below that
	Backlog       *int      `json:"backlog,omitempty"`           // SYN queue and accept queue at once, as listen(2)
	SynQueue      *int      `json:"syn_queue,omitempty"`         // half-open connections: this many and one more
	AcceptQueue   *int      `json:"accept_queue,omitempty"`      // connections that wait: this many and one more
	SynCookies    string    `json:"syn_cookies,omitempty"`       // "auto", "never" or "always"
	Abort         *bool     `json:"abort_on_overflow,omitempty"` // RST instead of silence when the accept queue is full
	ReceiveBuffer *int64    `json:"receive_buffer,omitempty"`    // bytes of each TCP connection; 0: auto-tuned
	ServiceDelay  *Delay    `json:"service_delay,omitempty"`     // before each accept or datagram
	Accept        string    `json:"accept,omitempty"`            // "normal"; "never" serves nobody

	Impair    *impair.Rules `json:"impair,omitempty"`     // what happens to packets that arrive
	ImpairOut *impair.Rules `json:"impair_out,omitempty"` // and to those that leave
}

// The bounds of Settings. Queue is what the host's packet memory holds in all;
// ReceiveBuffer is what the TCP stack accepts.
const (
	maxQueue       = 32768
	minQueueBytes  = 1 << 10
	maxQueueBytes  = 128 << 20
	maxBacklog     = 65535
	minReceive     = 4 << 10
	maxReceive     = 4 << 20
	minCodel       = time.Microsecond
	maxCodel       = time.Minute
	maxSettingText = 1024 // bytes of a text form
)

// Duration is a time.Duration that is text in JSON: "5ms".
type Duration time.Duration

func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText gives the text form.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText takes it.
func (d *Duration) UnmarshalText(b []byte) error {
	p, err := time.ParseDuration(string(b))
	*d = Duration(p)
	return err
}

// Delay is how long a service works before it takes its next connection or
// datagram: "2s", "fixed(1ms)" or "exp(10ms)".
type Delay stack.Delay

func (d Delay) String() string { return stack.Delay(d).String() }

// MarshalText gives the text form.
func (d Delay) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText takes it.
func (d *Delay) UnmarshalText(b []byte) error {
	p, err := stack.ParseDelay(string(b))
	*d = Delay(p)
	return err
}

// setting is one key of the text form.
type setting struct {
	name  string
	proto string // "tcp" or "udp": means something on those ports only
	parse func(s *Settings, value string) error
	text  func(s *Settings) string // "" when nothing is said
}

// settings is the text form, in the order in which it is printed.
var settings = []setting{
	count("queue", "", 1, maxQueue, "packets", func(s *Settings) **int { return &s.Queue }),
	size("queue-bytes", "", minQueueBytes, maxQueueBytes, "", func(s *Settings) **int64 { return &s.QueueBytes }),
	word("policy", "", Policies(), func(s *Settings) *string { return &s.Policy }),
	period("codel-target", "udp", minCodel, maxCodel, func(s *Settings) **Duration { return &s.CodelTarget }),
	period("codel-interval", "udp", minCodel, maxCodel, func(s *Settings) **Duration { return &s.CodelInterval }),
	count("backlog", "tcp", 0, maxBacklog, "connections", func(s *Settings) **int { return &s.Backlog }),
	count("syn-queue", "tcp", 0, maxBacklog, "half-open connections", func(s *Settings) **int { return &s.SynQueue }),
	count("accept-queue", "tcp", 0, maxBacklog, "connections", func(s *Settings) **int { return &s.AcceptQueue }),
	word("syn-cookies", "tcp", []string{"auto", "never", "always"}, func(s *Settings) *string { return &s.SynCookies }),
	{"abort-on-overflow", "tcp", func(s *Settings, v string) error {
		b := v == "true"
		s.Abort = &b
		if !b && v != "false" {
			return fmt.Errorf("%q is neither true nor false", v)
		}
		return nil
	}, func(s *Settings) string {
		if s.Abort == nil {
			return ""
		}
		return strconv.FormatBool(*s.Abort)
	}},
	size("receive-buffer", "tcp", minReceive, maxReceive, "auto", func(s *Settings) **int64 { return &s.ReceiveBuffer }),
	{"service-delay", "", func(s *Settings, v string) error {
		s.ServiceDelay = new(Delay)
		if s.ServiceDelay.UnmarshalText([]byte(v)) != nil {
			return fmt.Errorf("%q is no delay of 0 to 1h; want a duration such as 2s, fixed(1ms) or exp(10ms)", v)
		}
		return nil
	}, func(s *Settings) string {
		if s.ServiceDelay == nil {
			return ""
		}
		return s.ServiceDelay.String()
	}},
	word("accept", "", []string{"normal", "never"}, func(s *Settings) *string { return &s.Accept }),
	rules("impair", func(s *Settings) **impair.Rules { return &s.Impair }),
	rules("impair-out", func(s *Settings) **impair.Rules { return &s.ImpairOut }),
}

// count is a whole number of things.
func count(name, proto string, least, most int, unit string, at func(*Settings) **int) setting {
	return setting{name, proto, func(s *Settings, v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < least || n > most {
			return fmt.Errorf("%q is not %d to %d %s", v, least, most, unit)
		}
		*at(s) = &n
		return nil
	}, func(s *Settings) string {
		if n := *at(s); n != nil {
			return strconv.Itoa(*n)
		}
		return ""
	}}
}

// size is a number of bytes with its unit. zero, where it is not "", is the word for 0.
func size(name, proto string, least, most services.Size, zero string, at func(*Settings) **int64) setting {
	return setting{name, proto, func(s *Settings, v string) error {
		var n services.Size
		or := ""
		if zero != "" {
			or = ", or " + zero
		}
		if (zero == "" || v != zero) && (n.UnmarshalText([]byte(v)) != nil || n < least || n > most) {
			return fmt.Errorf("%q is not %v to %v (bytes, or with a unit KiB or MiB)%s", v, least, most, or)
		}
		b := int64(n)
		*at(s) = &b
		return nil
	}, func(s *Settings) string {
		n := *at(s)
		switch {
		case n == nil:
			return ""
		case *n == 0 && zero != "":
			return zero
		}
		return services.Size(*n).String()
	}}
}

// period is a length of time.
func period(name, proto string, least, most time.Duration, at func(*Settings) **Duration) setting {
	return setting{name, proto, func(s *Settings, v string) error {
		d, err := time.ParseDuration(v)
		if err != nil || d < least || d > most {
			return fmt.Errorf("%q is not %v to %v, such as 5ms", v, Duration(least), Duration(most))
		}
		*at(s) = (*Duration)(&d)
		return nil
	}, func(s *Settings) string {
		if d := *at(s); d != nil {
			return d.String()
		}
		return ""
	}}
}

// word is one of a few.
func word(name, proto string, words []string, at func(*Settings) *string) setting {
	return setting{name, proto, func(s *Settings, v string) error {
		if !slices.Contains(words, v) {
			return fmt.Errorf("%q is none of %s", v, strings.Join(words, ", "))
		}
		*at(s) = v
		return nil
	}, func(s *Settings) string { return *at(s) }}
}

// rules are what package impair takes.
func rules(name string, at func(*Settings) **impair.Rules) setting {
	return setting{name, "", func(s *Settings, v string) error {
		r, err := impair.Parse(v)
		*at(s) = &r
		return err
	}, func(s *Settings) string {
		if r := *at(s); r != nil {
			return r.String()
		}
		return ""
	}}
}

// ParseSettings reads the text form: KEY=VALUE words. Its error names the key, the
// value and what would have been right.
func ParseSettings(text string) (Settings, error) {
	var s Settings
	if len(text) > maxSettingText {
		return s, fmt.Errorf("settings: longer than %d bytes", maxSettingText)
	}
	seen := map[string]bool{}
	for _, f := range strings.Fields(text) {
		name, value, ok := strings.Cut(f, "=")
		i := slices.IndexFunc(settings, func(k setting) bool { return k.name == name })
		switch {
		case i < 0:
			if near := spell.Nearest(name, SettingNames()); near != "" {
				return Settings{}, fmt.Errorf("no setting %q; the nearest is %s", name, near)
			}
			return Settings{}, fmt.Errorf("no setting %q; there are %s", name, strings.Join(SettingNames(), ", "))
		case !ok:
			return Settings{}, fmt.Errorf("%s: no value; want %s=VALUE", name, name)
		case seen[name]:
			return Settings{}, fmt.Errorf("%s: given twice", name)
		}
		seen[name] = true
		if err := settings[i].parse(&s, value); err != nil {
			return Settings{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	return s, nil
}

// SettingNames lists the keys of the text form.
func SettingNames() []string {
	names := make([]string, len(settings))
	for i, k := range settings {
		names[i] = k.name
	}
	return names
}

// String is the text form, keys in their order; ParseSettings reads it back.
func (s Settings) String() string {
	var words []string
	for _, k := range settings {
		if v := k.text(&s); v != "" {
			words = append(words, k.name+"="+v)
		}
	}
	return strings.Join(words, " ")
}

// IsZero reports whether s says nothing.
func (s Settings) IsZero() bool { return s == Settings{} }

// MarshalText gives the text form: in a configuration, settings are one word. JSON
// has the fields instead.
func (s Settings) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes the text form.
func (s *Settings) UnmarshalText(b []byte) (err error) {
	*s, err = ParseSettings(string(b))
	return err
}

// fields is Settings without methods.
type fields Settings

// MarshalJSON gives an object with the fields that say something.
func (s Settings) MarshalJSON() ([]byte, error) { return json.Marshal(fields(s)) }

// UnmarshalJSON takes such an object; an unknown field is an error. Check tells
// whether the values are in their ranges.
func (s *Settings) UnmarshalJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	*s = Settings{}
	return d.Decode((*fields)(s))
}

// Check reports what is wrong with s for a port: a value out of its range (JSON may
// bring one), or a setting that the port's protocol has not.
func (s Settings) Check(p services.Port) error {
	if _, err := ParseSettings(s.String()); err != nil {
		return err
	}
	for _, k := range settings {
		if k.proto != "" && p.Proto != k.proto && k.text(&s) != "" {
			return fmt.Errorf("%s: is for %s ports; %v is none", k.name, strings.ToUpper(k.proto), p)
		}
	}
	if p.Proto == "tcp" && s.Policy != "" && s.Policy != PolicyTailDrop {
		return fmt.Errorf("policy: %q is for UDP ports; a TCP port's queue has %s", s.Policy, PolicyTailDrop)
	}
	return nil
}

// over lays s over base: what s says stands, and its backlog takes the place of
// the queues that base named one by one.
func (s Settings) over(base Settings) Settings {
	if s.Backlog != nil {
		base.SynQueue, base.AcceptQueue = nil, nil
	}
	lay(&base.Queue, s.Queue)
	lay(&base.QueueBytes, s.QueueBytes)
	lay(&base.CodelTarget, s.CodelTarget)
	lay(&base.CodelInterval, s.CodelInterval)
	lay(&base.Backlog, s.Backlog)
	lay(&base.SynQueue, s.SynQueue)
	lay(&base.AcceptQueue, s.AcceptQueue)
	lay(&base.Abort, s.Abort)
	lay(&base.ReceiveBuffer, s.ReceiveBuffer)
	lay(&base.ServiceDelay, s.ServiceDelay)
	lay(&base.Impair, s.Impair)
	lay(&base.ImpairOut, s.ImpairOut)
	for _, w := range []struct{ to, from *string }{
		{&base.Policy, &s.Policy}, {&base.SynCookies, &s.SynCookies}, {&base.Accept, &s.Accept},
	} {
		if *w.from != "" {
			*w.to = *w.from
		}
	}
	return base
}

func lay[T any](to **T, from *T) {
	if from != nil {
		*to = from
	}
}

// defaults are the settings of a port of which nobody said anything.
func defaults(p services.Port) Settings {
	lim := demux.DefaultUDP
	s := Settings{Policy: PolicyTailDrop, Accept: "normal", ServiceDelay: new(Delay), Impair: new(impair.Rules), ImpairOut: new(impair.Rules)}
	if p.Proto == "tcp" {
		lim = demux.DefaultTCP
		s.SynQueue, s.AcceptQueue = ptr(stack.DefaultBacklog), ptr(stack.DefaultBacklog)
		s.SynCookies, s.Abort, s.ReceiveBuffer = "auto", ptr(false), ptr(int64(0))
	} else {
		s.CodelTarget, s.CodelInterval = ptr(Duration(demux.DefaultTarget)), ptr(Duration(demux.DefaultInterval))
	}
	s.Queue, s.QueueBytes = ptr(lim.Packets), ptr(int64(lim.Bytes))
	return s
}

func ptr[T any](v T) *T { return &v }

// effective gives the backlog to the queues that are not named one by one, and leaves
// out what the policy has no use for.
func (s Settings) effective() Settings {
	if s.Policy != PolicyCoDel {
		s.CodelTarget, s.CodelInterval = nil, nil
	}
	if b := s.Backlog; b != nil {
		s.Backlog = nil
		if s.SynQueue == nil {
			s.SynQueue = b
		}
		if s.AcceptQueue == nil {
			s.AcceptQueue = b
		}
	}
	return s
}

// limits and door are the parts of complete settings, as their owners take them.
func (s *Settings) limits() demux.Limits {
	return demux.Limits{Packets: *s.Queue, Bytes: int(*s.QueueBytes)}
}

func (s *Settings) door() demux.DoorConfig {
	c := demux.DoorConfig{Backlog: *s.AcceptQueue, SynQueue: *s.SynQueue, AbortOnOverflow: *s.Abort}
	for _, m := range []demux.Cookies{demux.CookiesAuto, demux.CookiesNever, demux.CookiesAlways} {
		if m.String() == s.SynCookies {
			c.Cookies = m
		}
	}
	return c
}
