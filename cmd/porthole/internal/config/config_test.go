package config

import (
	"bytes"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"porthole"
	"porthole/services"
)

// sample has every kind of key that a configuration may be made of.
type sample struct {
	Name     string                       `yaml:"name" doc:"a name"`
	Count    int                          `yaml:"count"`
	Small    uint8                        `yaml:"small"`
	Rate     float64                      `yaml:"rate"`
	On       bool                         `yaml:"on"`
	Wait     time.Duration                `yaml:"wait"`
	Size     services.Size                `yaml:"size"`
	Ports    []services.Port              `yaml:"ports"`
	Addr     netip.Addr                   `yaml:"addr"`
	Net      netip.Prefix                 `yaml:"net"`
	Users    []user                       `yaml:"users" doc:"who may log in"`
	Words    map[string]string            `yaml:"words"`
	Sub      sub                          `yaml:"sub"`
	Services map[string]*porthole.Service `yaml:"services"`
	Hidden   func()                       `yaml:"-"`
}

type sub struct {
	Deep int `yaml:"deep"`
}

type user struct {
	Name  string   `yaml:"name" doc:"login name"`
	Write bool     `yaml:"write" doc:"may change files"`
	Dirs  []string `yaml:"dirs" doc:"where"`
}

type webOptions struct {
	Root  string        `yaml:"root"`
	Limit services.Size `yaml:"limit"`
}

func fresh() *sample {
	return &sample{
		Name: "n", Count: 3, Wait: 30 * time.Second, Size: 64 * services.KiB,
		Ports: []services.Port{services.TCP(80)}, Words: map[string]string{"a": "b"},
		Services: map[string]*porthole.Service{
			"http": {Enabled: true, Ports: []services.Port{services.TCP(80)}, Options: &webOptions{Limit: services.MiB}},
			"echo": {Enabled: true},
		},
	}
}

func decodeSample(text string) (*sample, error) {
	s, f := fresh(), Default()
	f.Name = "p.yaml"
	if ps := f.decode([]byte(text), reflect.ValueOf(s).Elem()); len(ps) > 0 {
		return s, ps
	}
	return s, nil
}

func TestDecodeErrors(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"unknown", "nam: x", `p.yaml:1:1: top level: no key "nam"; did you mean "name"?`},
		{"unknown below", "sub:\n  dep: 1", `p.yaml:2:3: sub: no key "dep"; did you mean "deep"?`},
		{"nothing near", "sub:\n  zzzzzz: 1", `p.yaml:2:3: sub: no key "zzzzzz"; there are deep`},
		{"unknown service", "services:\n  htp: {enabled: false}", `p.yaml:2:3: services: no key "htp"; did you mean "http"?`},
		{"unknown option", "services:\n  http:\n    rot: /srv", `p.yaml:3:5: services.http: no key "rot"; did you mean "root"?`},
		{"twice", "count: 1\nname: a\ncount: 2", `p.yaml:3:1: top level: key "count" again; it stands in line 1 already`},
		{"no number", "count: abc", `p.yaml:1:8: count: "abc" is no whole number`},
		{"too big", "small: 256", `p.yaml:1:8: small: "256" is no whole number from 0 to 255`},
		{"float for int", "count: 1.5", `p.yaml:1:8: count: "1.5" is no whole number`},
		{"yes is no bool", "on: yes", `p.yaml:1:5: on: "yes" is no true or false`},
		{"duration without unit", "wait: 30", `p.yaml:1:7: wait: "30" is no duration, such as 30s or 5m`},
		{"list for text", "name: [a]", `p.yaml:1:7: name: a list is no text`},
		{"text for list", "ports: 80/tcp", `p.yaml:1:8: ports: "80/tcp" is no list (such as [a, b])`},
		{"text for mapping", "sub: 3", `p.yaml:1:6: sub: "3" is no mapping (KEY: VALUE lines)`},
		{"nothing", "name:", `p.yaml:1:6: name: nothing is no text`},
		{"bad port", "ports: [80/tcp, 99999/tcp]", `p.yaml:1:17: ports[1]: port "99999/tcp": the number must be 1 to 65535`},
		{"port without protocol", "services:\n  http:\n    ports: [80]", `p.yaml:3:13: services.http.ports[0]: port "80": want NUMBER/tcp or NUMBER/udp, such as 80/tcp`},
		{"bad size", "size: 64kb", `p.yaml:1:7: size: size "64kb": want a whole number of bytes with an optional unit KiB, MiB or GiB, such as 64KiB`},
		{"bad prefix", "net: 10.0.0.1", `p.yaml:1:6: net: "10.0.0.1" is no address with a prefix length, such as 10.77.0.1/24 or fd77::1/64`},
		{"bad address", "addr: x", `p.yaml:1:7: addr: "x" is no IP address`},
		{"in a list", "users:\n  - name: a\n  - nme: b", `p.yaml:3:5: users[1]: no key "nme"; did you mean "name"?`},
		{"document is a list", "- a", `p.yaml:1:1: top level: a list is no mapping (KEY: VALUE lines)`},
		{"key is a list", "? [a]\n: b", `p.yaml:1:3: top level: a key must be a word`},
		{"two documents", "name: a\n---\nname: b", `p.yaml:2:1: a second document; one file holds one`},
		{"no yaml", "name: 'x", `p.yaml:1:9: no YAML: found unexpected end of stream`},
		{"tab", "sub:\n\tdeep: 1", `p.yaml:2:1: no YAML: found character that cannot start any token`},
		{"alias to itself", "users: &u [*u]", `p.yaml:1:8: users[0]: a list is no mapping (KEY: VALUE lines)`},
		{"all of them, in order", "nam: x\ncount: z\nsub: {deep: q}",
			"p.yaml:1:1: top level: no key \"nam\"; did you mean \"name\"?\n" +
				"p.yaml:2:8: count: \"z\" is no whole number\n" +
				"p.yaml:3:13: sub.deep: \"q\" is no whole number"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := decodeSample(tt.in)
			require.EqualError(t, err, tt.want)
		})
	}
}

func TestDecodeKeepsDefaults(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		change   func(*sample)
	}{
		{"empty", "", func(*sample) {}},
		{"comment", "# nothing\n", func(*sample) {}},
		{"all commented out", "services:\n  # http:\nsub:\n", func(*sample) {}},
		{"one key", "count: 9", func(s *sample) { s.Count = 9 }},
		{"number as text", "name: 007", func(s *sample) { s.Name = "007" }},
		{"list replaced", "ports: [53/udp]", func(s *sample) { s.Ports = []services.Port{services.UDP(53)} }},
		{"list emptied", "ports: []", func(s *sample) { s.Ports = []services.Port{} }},
		{"map replaced", "words: {c: d}", func(s *sample) { s.Words = map[string]string{"c": "d"} }},
		{"service beside its options", "services: {http: {enabled: false, root: /srv}}", func(s *sample) {
			s.Services["http"].Enabled = false
			s.Services["http"].Options.(*webOptions).Root = "/srv"
		}},
		{"anchor", "users:\n- &a {name: x, write: true}\n- *a", func(s *sample) {
			s.Users = []user{{Name: "x", Write: true}, {Name: "x", Write: true}}
		}},
		{"none", "net: none", func(*sample) {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decodeSample(tt.in)
			require.NoError(t, err)
			want := fresh()
			tt.change(want)
			require.Equal(t, want, got)
		})
	}
}

func TestCheckNamesThePlace(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"value", "link:\n  mtu: 100", "p.yaml:2:8: link.mtu: 100 is not 1280 to 65520 (IPv6 needs 1280)"},
		{"nearest that stands in the file", "link:\n  address: none\n  address6: none", "p.yaml:2:12: link.address: the host needs an IPv4 or an IPv6 address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := Decode("p.yaml", strings.NewReader(tt.in))
			require.NoError(t, err)
			require.EqualError(t, f.Check(), tt.want)
		})
	}
	f := Default()
	require.EqualError(t, f.Set("link.mtu", "--mtu", "x"), `--mtu: "x" is no whole number`)
	require.NoError(t, f.Set("link.mtu", "--mtu", "100"))
	require.True(t, f.IsSet("link.mtu"))
	require.False(t, f.IsSet("link.address"))
	require.EqualError(t, f.Check(), "--mtu: 100 is not 1280 to 65520 (IPv6 needs 1280)")
}

func TestDefaultRoundTrip(t *testing.T) {
	want := porthole.DefaultConfig()
	var out bytes.Buffer
	require.NoError(t, Print(&out, &want))
	got, err := Decode("default", bytes.NewReader(out.Bytes()))
	require.NoError(t, err, out.String())
	require.Equal(t, want, got.Config, out.String())
	var again bytes.Buffer
	require.NoError(t, Print(&again, &got.Config))
	require.Equal(t, out.String(), again.String())
	for key := range got.at {
		require.NotContains(t, key, " ")
	}
	for _, l := range strings.Split(out.String(), "\n") {
		require.LessOrEqual(t, len(strings.TrimRight(l, " ")), 160, l)
	}
}

// TestRoundTrip prints whatever can be configured and reads it back.
func TestRoundTrip(t *testing.T) {
	text := rapid.StringOfN(rapid.Rune(), 0, 12, -1)
	port := rapid.Custom(func(t *rapid.T) services.Port {
		return services.Port{Proto: rapid.SampledFrom([]string{"tcp", "udp"}).Draw(t, "proto"), Number: rapid.Uint16Min(1).Draw(t, "n")}
	})
	rapid.Check(t, func(t *rapid.T) {
		want := &sample{
			Name: text.Draw(t, "name"), Count: rapid.Int().Draw(t, "count"), Small: rapid.Uint8().Draw(t, "small"),
			Rate: rapid.Float64().Draw(t, "rate"), On: rapid.Bool().Draw(t, "on"),
			Wait:  time.Duration(rapid.Int64().Draw(t, "wait")),
			Size:  services.Size(rapid.Int64Range(0, 1<<40).Draw(t, "size")),
			Ports: rapid.SliceOfN(port, 1, 3).Draw(t, "ports"),
			Net:   netip.PrefixFrom(netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "net"))), rapid.IntRange(0, 32).Draw(t, "bits")),
			Words: rapid.MapOfN(text, text, 1, 3).Draw(t, "words"),
			Users: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) user {
				return user{Name: text.Draw(t, "user"), Write: rapid.Bool().Draw(t, "write"), Dirs: rapid.SliceOfN(text, 1, 2).Draw(t, "dirs")}
			}), 1, 3).Draw(t, "users"),
			Services: map[string]*porthole.Service{},
		}
		p := printer{}
		p.structure(0, reflect.ValueOf(want).Elem())
		got, f := &sample{Services: map[string]*porthole.Service{}}, Default()
		ps := f.decode([]byte(p.out.String()), reflect.ValueOf(got).Elem())
		require.Empty(t, ps, p.out.String())
		require.Equal(t, want, got, p.out.String())
	})
}

func TestTooLong(t *testing.T) {
	_, err := Decode("p.yaml", strings.NewReader(strings.Repeat("#", LimitBytes+1)))
	require.EqualError(t, err, "p.yaml: longer than 1048576 bytes")
}

func FuzzDecode(f *testing.F) {
	var out bytes.Buffer
	def := porthole.DefaultConfig()
	if err := Print(&out, &def); err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{out.String(), "a: &x [*x]", "? [a]\n: b", "link: {mtu: 9000}", "\xff\xfe", "services: {}\n---\n", "!!null x"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Decode("f", bytes.NewReader(data))
		if err != nil {
			ps, ok := err.(Problems)
			if !ok || len(ps) == 0 {
				t.Fatalf("error %T %v", err, err)
			}
			for _, p := range ps {
				if strings.Contains(p.String(), "\n") {
					t.Fatalf("more than one line: %q", p)
				}
			}
			return
		}
		if file.Check() != nil {
			return
		}
		var out bytes.Buffer
		if err := Print(&out, &file.Config); err != nil {
			t.Fatal(err)
		}
		again, err := Decode("f", &out)
		if err != nil {
			t.Fatalf("printed form: %v", err)
		}
		if !reflect.DeepEqual(file.Config, again.Config) {
			t.Fatalf("round trip:\n%+v\n%+v", file.Config, again.Config)
		}
	})
}
