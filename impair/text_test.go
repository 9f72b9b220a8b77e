package impair

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Rules
		text string // when it is not in
	}{
		{"none", Rules{}, ""},
		{"loss:5%", Rules{Loss: 5}, ""},
		{"loss:5", Rules{Loss: 5}, "loss:5%"},
		{"loss:0%", Rules{}, "none"},
		{"loss:5%,delay:50ms±10ms", Rules{Loss: 5, Delay: 50 * time.Millisecond, Jitter: 10 * time.Millisecond}, ""},
		{"delay:50msec+-1500usecs", Rules{Delay: 50 * time.Millisecond, Jitter: 1500 * time.Microsecond}, "delay:50ms±1.5ms"},
		{"delay:1.5s", Rules{Delay: 1500 * time.Millisecond}, ""},
		{"delay:2sec", Rules{Delay: 2 * time.Second}, "delay:2s"},
		{"rate:10mbit", Rules{Rate: 10e6}, ""},
		{"rate:1.5Mbit", Rules{Rate: 1.5e6}, "rate:1500kbit"},
		{"rate:500kbps", Rules{Rate: 4e6}, "rate:4mbit"},
		{"rate:1mibit", Rules{Rate: 1 << 20}, "rate:1048576bit"},
		{"rate:64000", Rules{Rate: 64000}, "rate:64kbit"},
		{"rate:1gbit,limit:100,limit-bytes:64kb,policy:codel,target:10ms,interval:200ms",
			Rules{Rate: 1e9, Limit: 100, LimitBytes: 64 << 10, Policy: CoDelPolicy, Target: 10 * time.Millisecond, Interval: 200 * time.Millisecond}, ""},
		{"gemodel:1%", Rules{GE: GilbertElliott{1, 99, 100, 0}}, "gemodel:1%/99%"},
		{"gemodel:1%/10%/70%/0.5%", Rules{GE: GilbertElliott{1, 10, 70, 0.5}}, ""},
		{"delay:10ms,reorder:25%,gap:5", Rules{Delay: 10 * time.Millisecond, Reorder: 25, Gap: 5}, ""},
		{"duplicate:1%,corrupt:0.1%", Rules{Duplicate: 1, Corrupt: 0.1}, "corrupt:0.1%,duplicate:1%"},
		{"delay:1ms±1ms,distribution:pareto,seed:42", Rules{Delay: time.Millisecond, Jitter: time.Millisecond, Distribution: Pareto, Seed: 42}, ""},
		{"drop-syn:3", Rules{DropSYN: 3}, ""},
	} {
		got, err := Parse(c.in)
		require.NoError(t, err, c.in)
		require.Equal(t, c.want, got, c.in)
		if c.text == "" {
			c.text = c.in
		}
		require.Equal(t, c.text, got.String())
	}
}

// TestParseErrors: each names the word, the value, and its range with its unit.
func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", "empty rule"},
		{"loss:5%,", "empty rule"},
		{"loss", "loss: no value; want loss:VALUE"},
		{"los:5%", `no rule "los"; the nearest is loss`},
		{"jitter:5ms", `no rule "jitter"; the nearest is delay`},
		{"reodrer:5%", `no rule "reodrer"; the nearest is reorder`},
		{"wormhole:5", `no rule "wormhole"; there are drop-syn, loss, gemodel, corrupt, `},
		{"loss:101%", `loss: "101%" is no chance of 0% to 100%`},
		{"loss:-1", `loss: "-1" is no chance of 0% to 100%`},
		{"loss:NaN", `loss: "NaN" is no chance`},
		{"loss:1%,loss:2%", "loss: given twice"},
		{"delay:50", `delay: "50" is no time of 0 to 1m0s; want a number with its unit, such as 50ms`},
		{"delay:2h", `delay: "2h" is no time of 0 to 1m0s`},
		{"delay:50ms±", `delay: jitter: "" is no time`},
		{"rate:10", ""},
		{"rate:1", `rate: "1" is no rate of 8bit to 1tbit a second`},
		{"rate:10mb", `rate: "10mb" is no rate of 8bit to 1tbit a second; want a number with bit, kbit, mbit`},
		{"rate:2tbit", `rate: "2tbit" is no rate of 8bit to 1tbit`},
		{"limit:40000,rate:1mbit", `limit: "40000" is not 0 to 32768 packets`},
		{"limit-bytes:1gb,rate:1mbit", `limit-bytes: "1gb" is no size of 64b to 64mb`},
		{"policy:red,rate:1mbit", `policy: "red" is none of tail-drop, codel`},
		{"distribution:gauss", `distribution: "gauss" is none of uniform, normal, pareto`},
		{"gemodel:1/2/3/4/5", `gemodel: "1/2/3/4/5" has more than the four chances P/R/1-H/1-K`},
		{"gemodel:1%/200%", `gemodel: R, bad to good: "200%" is no chance`},
		{"loss:1%,gemodel:1%", "loss: gemodel decides"},
		{"distribution:normal,delay:5ms", "distribution: needs a delay with jitter"},
		{"reorder:5%", "reorder: needs a delay"},
		{"gap:5", "gap: needs a reorder"},
		{"limit:5", "limit: needs a rate or a delay"},
		{"policy:codel", "policy: needs a rate"},
		{"rate:1mbit,target:5ms", "CoDel's; add policy:codel"},
		{"rate:1mbit,policy:codel,target:5ns", "target: \"5ns\" is below 1us"},
		{"seed:-1", `seed: "-1" is no whole number`},
		{"drop-syn:x", `drop-syn: "x" is not 0 to 1000000 segments`},
		{strings.Repeat("loss:5%,", 100), "rules: longer than 512 bytes"},
	} {
		_, err := Parse(c.in)
		if c.want == "" {
			require.NoError(t, err, c.in)
			continue
		}
		require.ErrorContains(t, err, c.want, c.in)
		require.NotContains(t, err.Error(), "\n")
	}
}

// genRules draws rules that pass Check.
func genRules(t *rapid.T) Rules {
	maybe := func(name string) bool { return rapid.Bool().Draw(t, name) }
	chance := func(name string) float64 {
		return float64(rapid.IntRange(0, 100*chanceParts).Draw(t, name)) / chanceParts
	}
	span := func(name string) time.Duration {
		return time.Duration(rapid.Int64Range(0, int64(maxTime)).Draw(t, name))
	}
	r := Rules{DropSYN: rapid.IntRange(0, 5).Draw(t, "syns"), Seed: rapid.Uint64().Draw(t, "rules seed")}
	if maybe("ge") {
		r.GE = GilbertElliott{chance("p"), chance("r"), chance("1-h"), chance("1-k")}
		if r.GE.P == 0 {
			r.GE = GilbertElliott{}
		}
	} else {
		r.Loss = chance("loss")
	}
	r.Corrupt, r.Duplicate = chance("corrupt"), chance("duplicate")
	if maybe("rate?") {
		r.Rate = Rate(rapid.Int64Range(int64(minRate), int64(maxRate)).Draw(t, "rate"))
		r.Limit = rapid.IntRange(0, 100).Draw(t, "limit")
		r.LimitBytes = rapid.SampledFrom([]int{0, minBytes, 3000, maxBytes}).Draw(t, "limit bytes")
		if maybe("codel") {
			r.Policy = CoDelPolicy
			r.Target, r.Interval = minSpan+span("target")/2, minSpan+span("interval")/2
		}
	}
	if maybe("delay?") {
		r.Delay = max(1, span("delay"))
		if maybe("jitter?") {
			r.Jitter = max(1, span("jitter"))
			r.Distribution = rapid.SampledFrom([]Distribution{Uniform, Normal, Pareto}).Draw(t, "distribution")
		}
		if r.Reorder = chance("reorder"); r.Reorder > 0 {
			r.Gap = rapid.IntRange(0, 10).Draw(t, "gap")
		}
	}
	return r
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := genRules(t)
		back, err := Parse(r.String())
		if err != nil || back != r {
			t.Fatalf("%v\n%+v\n%+v\n%v", r, r, back, err)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"none", "loss:5%,delay:50ms±10ms", "gemodel:1%/10%/70%/0.5%", "rate:1.5mibps,limit:10,limit-bytes:64kb", "delay:1s+-1ms,distribution:normal,reorder:5,gap:3,seed:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse(s)
		if err != nil {
			if strings.Contains(err.Error(), "\n") && !strings.Contains(s, "\n") {
				t.Fatalf("more than one line: %q", err)
			}
			return
		}
		back, err := Parse(r.String())
		if err != nil || back != r {
			t.Fatalf("%q is %+v, printed %q, read as %+v: %v", s, r, r, back, err)
		}
	})
}

func TestFaultNames(t *testing.T) {
	require.Len(t, FaultNames(), 10)
	require.EqualValues(t, 1<<10, lastFault)
	require.Equal(t, "", Segmented.String())
	require.Equal(t, "corrupt+delay", (Corrupted | Delayed | Segmented).String())
	require.Equal(t, Corrupted|Delayed, ParseFault("corrupt+delay"))
	require.Zero(t, ParseFault(""))
	for _, f := range []Fault{Lost, SYNDropped, OverLimit, Aged} {
		require.True(t, (f | Delayed).Dropped())
	}
	require.False(t, (Corrupted | Duplicated | Queued | Delayed | Reordered | Segmented).Dropped())
}
