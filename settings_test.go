package porthole_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"porthole"
	"porthole/services"
)

func TestParseSettingsErrors(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"queue=-1", `queue: "-1" is not 1 to 32768 packets`},
		{"queue=0", `queue: "0" is not 1 to 32768 packets`},
		{"queue=64k", `queue: "64k" is not 1 to 32768 packets`},
		{"queue=99999999999999999999", `queue: "99999999999999999999" is not 1 to 32768 packets`},
		{"queue-bytes=64kb", `queue-bytes: "64kb" is not 1KiB to 128MiB (bytes, or with a unit KiB or MiB)`},
		{"queue-bytes=512", `queue-bytes: "512" is not 1KiB to 128MiB (bytes, or with a unit KiB or MiB)`},
		{"policy=fast", `policy: "fast" is none of ` + strings.Join(porthole.Policies(), ", ")},
		{"codel-target=5", `codel-target: "5" is not 1µs to 1m0s, such as 5ms`},
		{"codel-interval=2m", `codel-interval: "2m" is not 1µs to 1m0s, such as 5ms`},
		{"backlog=-1", `backlog: "-1" is not 0 to 65535 connections`},
		{"syn-queue=x", `syn-queue: "x" is not 0 to 65535 half-open connections`},
		{"accept-queue=65536", `accept-queue: "65536" is not 0 to 65535 connections`},
		{"syn-cookies=yes", `syn-cookies: "yes" is none of auto, never, always`},
		{"abort-on-overflow=1", `abort-on-overflow: "1" is neither true nor false`},
		{"receive-buffer=1GiB", `receive-buffer: "1GiB" is not 4KiB to 4MiB (bytes, or with a unit KiB or MiB), or auto`},
		{"service-delay=2", `service-delay: "2" is no delay of 0 to 1h; want a duration such as 2s, fixed(1ms) or exp(10ms)`},
		{"service-delay=2h", `service-delay: "2h" is no delay of 0 to 1h; want a duration such as 2s, fixed(1ms) or exp(10ms)`},
		{"accept=maybe", `accept: "maybe" is none of normal, never`},
		{"size=4", `no setting "size"; there are queue, queue-bytes, policy, codel-target, codel-interval, backlog, syn-queue, accept-queue, syn-cookies, abort-on-overflow, receive-buffer, service-delay, accept, impair, impair-out`},
		{"quue=4", `no setting "quue"; the nearest is queue`},
		{"queue", "queue: no value; want queue=VALUE"},
		{"queue=", `queue: "" is not 1 to 32768 packets`},
		{"queue=1 queue=2", "queue: given twice"},
		{"impair=los:5%", `impair: no rule "los"; the nearest is loss`},
		{"impair-out=delay:50", `impair-out: delay: "50" is no time of 0 to 1m0s; want a number with its unit, such as 50ms, 200us or 1.5s`},
		{strings.Repeat("queue=1 ", 200), "settings: longer than 1024 bytes"},
	} {
		s, err := porthole.ParseSettings(tt.in)
		require.EqualError(t, err, tt.want)
		require.True(t, s.IsZero(), "%v", s)
	}
}

func TestParseSettings(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"  \t", ""},
		{"accept=never queue=64", "queue=64 accept=never"},
		{"queue-bytes=262144", "queue-bytes=256KiB"},
		{"receive-buffer=auto", "receive-buffer=auto"},
		{"receive-buffer=64KiB backlog=0", "backlog=0 receive-buffer=64KiB"},
		{"service-delay=fixed(1ms)", "service-delay=1ms"},
		{"service-delay=exp(10ms)", "service-delay=exp(10ms)"},
		{"service-delay=0", "service-delay=0"},
		{"codel-interval=1s policy=codel codel-target=5000us", "policy=codel codel-target=5ms codel-interval=1s"},
		{"impair=loss:5,delay:50ms+-10ms impair-out=none", "impair=loss:5%,delay:50ms±10ms impair-out=none"},
		{"abort-on-overflow=false syn-cookies=always policy=tail-drop", "policy=tail-drop syn-cookies=always abort-on-overflow=false"},
	} {
		s, err := porthole.ParseSettings(tt.in)
		require.NoError(t, err, tt.in)
		require.Equal(t, tt.want, s.String())
	}
}

func TestSettingsOfAPort(t *testing.T) {
	for _, tt := range []struct{ port, in, want string }{
		{"80/tcp", "backlog=4 accept-queue=1 receive-buffer=8KiB", ""},
		{"53/udp", "queue=64 service-delay=2s accept=never", ""},
		{"53/udp", "policy=codel codel-target=1ms", ""},
		{"53/udp", "policy=head-drop", ""},
		{"80/tcp", "policy=tail-drop", ""},
		{"80/tcp", "policy=codel", `policy: "codel" is for UDP ports; a TCP port's queue has tail-drop`},
		{"80/tcp", "codel-interval=1s", "codel-interval: is for UDP ports; 80/tcp is none"},
		{"53/udp", "syn-queue=4", "syn-queue: is for TCP ports; 53/udp is none"},
		{"53/udp", "abort-on-overflow=false", "abort-on-overflow: is for TCP ports; 53/udp is none"},
	} {
		p, err := services.ParsePort(tt.port)
		require.NoError(t, err)
		s, err := porthole.ParseSettings(tt.in)
		require.NoError(t, err)
		if err = s.Check(p); tt.want == "" {
			require.NoError(t, err)
		} else {
			require.EqualError(t, err, tt.want)
		}
	}
	n := -5
	require.EqualError(t, porthole.Settings{Queue: &n}.Check(services.UDP(53)), `queue: "-5" is not 1 to 32768 packets`)
}

func anySettings() *rapid.Generator[porthole.Settings] {
	maybe := func(t *rapid.T, what string) bool { return rapid.Bool().Draw(t, what) }
	return rapid.Custom(func(t *rapid.T) (s porthole.Settings) {
		count := func(least, most int) *int {
			if !maybe(t, "has") {
				return nil
			}
			n := rapid.IntRange(least, most).Draw(t, "n")
			return &n
		}
		size := func(least, most int64) *int64 {
			if !maybe(t, "has") {
				return nil
			}
			n := rapid.Int64Range(least, most).Draw(t, "n")
			return &n
		}
		word := func(words ...string) string { return rapid.SampledFrom(append(words, "")).Draw(t, "word") }
		s.Queue, s.QueueBytes = count(1, 32768), size(1024, 128<<20)
		s.Backlog, s.SynQueue, s.AcceptQueue = count(0, 65535), count(0, 65535), count(0, 65535)
		s.ReceiveBuffer = size(4096, 4<<20)
		s.Policy, s.SynCookies, s.Accept = word(porthole.Policies()...), word("auto", "never", "always"), word("normal", "never")
		period := func() *porthole.Duration {
			if !maybe(t, "has") {
				return nil
			}
			d := porthole.Duration(rapid.Int64Range(1000, int64(time.Minute)).Draw(t, "period"))
			return &d
		}
		s.CodelTarget, s.CodelInterval = period(), period()
		if maybe(t, "abort") {
			b := maybe(t, "on")
			s.Abort = &b
		}
		if maybe(t, "delay") {
			s.ServiceDelay = &porthole.Delay{Mean: time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "mean"))}
			s.ServiceDelay.Exponential = s.ServiceDelay.Mean > 0 && maybe(t, "exp")
		}
		return s
	})
}

// TestSettingsRoundTrip: text and JSON give back what went in.
func TestSettingsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anySettings().Draw(t, "settings")
		got, err := porthole.ParseSettings(want.String())
		require.NoError(t, err)
		require.Equal(t, want, got)
		b, err := json.Marshal(want)
		require.NoError(t, err)
		var back porthole.Settings
		require.NoError(t, json.Unmarshal(b, &back), string(b))
		require.Equal(t, want, back)
	})
}

func TestSettingsJSON(t *testing.T) {
	var s porthole.Settings
	require.NoError(t, json.Unmarshal([]byte(`{"queue":64,"service_delay":"exp(10ms)","abort_on_overflow":true}`), &s))
	require.Equal(t, "queue=64 abort-on-overflow=true service-delay=exp(10ms)", s.String())
	require.ErrorContains(t, json.Unmarshal([]byte(`{"queu":64}`), &s), `unknown field "queu"`)
	require.Error(t, json.Unmarshal([]byte(`{"queue":"64"}`), &s))
	require.ErrorContains(t, json.Unmarshal([]byte(`{"service_delay":"soon"}`), &s), "delay")
}

func FuzzParseSettings(f *testing.F) {
	for _, s := range []string{
		"queue=64 queue-bytes=256KiB syn-queue=8 accept-queue=1 backlog=9 receive-buffer=64KiB service-delay=2s accept=never syn-cookies=never abort-on-overflow=true policy=tail-drop",
		"policy=codel codel-target=1ms codel-interval=1m", "queue=-1", "queue=1 queue=2", "=", "service-delay=exp(", "service-delay=exp(1h)", "receive-buffer=auto", "queue-bytes=9223372036854775807GiB",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		s, err := porthole.ParseSettings(in)
		if err != nil {
			if !s.IsZero() || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%q: %v with %q", in, err, s)
			}
			return
		}
		again, err := porthole.ParseSettings(s.String())
		if err != nil || again.String() != s.String() {
			t.Fatalf("%q gave %q, which gave %q, %v", in, s, again, err)
		}
		if tcp, udp := s.Check(services.TCP(80)), s.Check(services.UDP(53)); tcp != nil && udp != nil &&
			!(strings.Contains(tcp.Error(), "is for UDP ports") && strings.Contains(udp.Error(), "is for TCP ports")) {
			t.Fatalf("%q is right, and for no port: %v; %v", in, tcp, udp)
		}
	})
}
