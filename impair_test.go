package porthole_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/demux"
	"porthole/impair"
	"porthole/services"
	"porthole/stack/stacktest"
	"porthole/tun"
)

// ruledRig is a host whose link is under rules from the start.
func ruledRig(t testing.TB, o tun.PipeOptions, in, out string) *rig {
	t.Helper()
	a, b := tun.Pipe(o, o)
	var rules tun.ImpairOptions
	var err error
	rules.In, err = impair.Parse(in)
	require.NoError(t, err)
	rules.Out, err = impair.Parse(out)
	require.NoError(t, err)
	h, err := porthole.New(porthole.DefaultConfig(), tun.Impair(a, rules), nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	r := &rig{host: h, client: stacktest.New(t, b)}
	tr := &http.Transport{DialContext: r.client.DialContext, DisableKeepAlives: true}
	r.http = &http.Client{Transport: tr, Timeout: time.Minute}
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		require.True(t, h.Health().LedgerOK, "%+v", h.Health())
	})
	<-h.Ready()
	return r
}

// TestDownloadOverBadLink: a mebibyte comes whole over a link that loses, delays,
// reorders, copies and corrupts both ways, and every packet is accounted for.
func TestDownloadOverBadLink(t *testing.T) {
	for name, o := range map[string]tun.PipeOptions{"plain": {}, "gso": {GSO: true}} {
		t.Run(name, func(t *testing.T) {
			const rules = "loss:1%,delay:1ms±0.5ms,reorder:5%,duplicate:2%,corrupt:1%,seed:7"
			r := ruledRig(t, o, rules, rules)
			tellFlows(t, r.host, services.TCP(80))
			resp, err := r.http.Get("http://10.77.0.1/blob/1048576")
			require.NoError(t, err)
			defer resp.Body.Close()
			sum := sha256.New()
			n, err := io.Copy(sum, resp.Body)
			require.NoError(t, err)
			require.EqualValues(t, 1<<20, n)
			require.Equal(t, blobHash(t, 1<<20), hex.EncodeToString(sum.Sum(nil)))

			l := r.host.Ledger()
			require.True(t, l.LawOK, l.Broken)
			require.NotZero(t, l.Kinds["duplicated"])
			require.NotZero(t, l.Fates["bad-checksum"])
			require.NotZero(t, l.Fates["fault-injected"])
			p, ok := r.host.PortLedger("80/tcp")
			require.True(t, ok)
			require.NotZero(t, p.Fates["fault-injected"], "it is known for which port it was")
		})
	}
}

// blobHash is the hash of what a perfect link brings.
func blobHash(t *testing.T, n int) string {
	t.Helper()
	r := newRig(t, tun.PipeOptions{}, nil)
	resp, err := r.http.Get("http://10.77.0.1/blob/1048576")
	require.NoError(t, err)
	defer resp.Body.Close()
	sum := sha256.New()
	got, err := io.Copy(sum, resp.Body)
	require.NoError(t, err)
	require.EqualValues(t, n, got)
	return hex.EncodeToString(sum.Sum(nil))
}

// echoed sends n datagrams to 7/udp and counts the answers.
func echoed(t *testing.T, r *rig, n int, want func(answers int) bool) int {
	t.Helper()
	c := dial(t, r, "udp", 7)
	got, b := 0, make([]byte, 100)
	for range n {
		_, err := c.Write(b[:60])
		require.NoError(t, err)
	}
	for !want(got) {
		if _, err := c.Read(b); err != nil {
			require.NoError(t, err, "%d answers", got)
		}
		got++
	}
	return got
}

// TestImpairPort: rules of a port, each direction, while the host runs; what they did is
// shown, and other ports do not feel it.
func TestImpairPort(t *testing.T) {
	for name, o := range map[string]tun.PipeOptions{"plain": {}, "gso": {GSO: true}, "ethernet": {HW: net.HardwareAddr{2, 0, 0, 0, 0, 1}}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, o, nil)
			before := status(t, r.host, "7/udp")
			set(t, r.host, "7/udp", "impair=loss:100%")
			c := dial(t, r, "udp", 7)
			for range 10 {
				_, err := c.Write([]byte("lost"))
				require.NoError(t, err)
			}
			until(t, "ten lost", func() bool { return status(t, r.host, "7/udp").Fates["fault-injected"] == 10 })
			s := status(t, r.host, "7/udp")
			require.Equal(t, before.Arrived+10, s.Arrived)
			require.Equal(t, "loss:100%", s.ImpairIn.Rules)
			require.EqualValues(t, 10, s.ImpairIn.Lost)
			require.Nil(t, s.ImpairOut)
			require.Equal(t, "impair=loss:100%", s.Changed)

			// A delay is at least that long; what waits is queued.
			set(t, r.host, "7/udp", "impair=delay:40ms")
			start := time.Now()
			_, err := c.Write([]byte("late"))
			require.NoError(t, err)
			until(t, "one waits, or came", func() bool { return status(t, r.host, "7/udp").ImpairIn.Delayed == 1 })
			_, err = c.Read(make([]byte, 10))
			require.NoError(t, err)
			require.GreaterOrEqual(t, time.Since(start), 40*time.Millisecond)

			// What the port sends has rules of its own.
			set(t, r.host, "7/udp", "impair=none impair-out=duplicate:100%")
			require.Equal(t, 10, echoed(t, r, 5, func(n int) bool { return n == 10 }))
			set(t, r.host, "7/udp", "impair-out=delay:40ms")
			start = time.Now()
			echoed(t, r, 1, func(n int) bool { return n == 1 })
			require.GreaterOrEqual(t, time.Since(start), 40*time.Millisecond)
			s = status(t, r.host, "7/udp")
			require.EqualValues(t, 6, s.ImpairOut.Arrived)
			require.EqualValues(t, 5, s.ImpairOut.Duplicated)
			require.EqualValues(t, 1, s.ImpairOut.Delayed)
			require.Zero(t, status(t, r.host, "53/udp").Fates["fault-injected"])

			p, err := services.ParsePort("7/udp")
			require.NoError(t, err)
			require.NoError(t, r.host.Reset(p))
			s = status(t, r.host, "7/udp")
			require.Equal(t, "none", s.ImpairIn.Rules)
			require.Equal(t, "none", s.ImpairOut.Rules)
			require.Equal(t, 5, echoed(t, r, 5, func(n int) bool { return n == 5 }))
		})
	}
}

// TestDownloadFromBadPort: TCP survives what befalls one port, both ways.
func TestDownloadFromBadPort(t *testing.T) {
	for name, o := range map[string]tun.PipeOptions{"plain": {}, "gso": {GSO: true}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, o, nil)
			tellFlows(t, r.host, services.TCP(80))
			set(t, r.host, "80/tcp", "impair=loss:2%,delay:1ms±0.5ms,duplicate:2%,seed:5 impair-out=loss:1%,corrupt:1%,delay:1ms,seed:6")
			resp, err := r.http.Get("http://10.77.0.1/blob/1048576")
			require.NoError(t, err)
			defer resp.Body.Close()
			sum := sha256.New()
			n, err := io.Copy(sum, resp.Body)
			require.NoError(t, err)
			require.EqualValues(t, 1<<20, n)
			require.Equal(t, blobHash(t, 1<<20), hex.EncodeToString(sum.Sum(nil)))
			s := status(t, r.host, "80/tcp")
			require.NotZero(t, s.ImpairIn.Delayed)
			require.NotZero(t, s.ImpairOut.Lost)
			require.NotZero(t, s.ImpairOut.Corrupted)
			require.NotZero(t, r.client.Table.Port(demux.LaneHost).Fates[demux.BadChecksum])
		})
	}
}

// TestSetLink: rules of the link, by layers, both directions or one.
func TestSetLink(t *testing.T) {
	link := func(t *testing.T, text string) porthole.LinkSettings {
		s, err := porthole.ParseLinkSettings(text)
		require.NoError(t, err)
		return s
	}
	r := newRig(t, tun.PipeOptions{GSO: true}, func(c *porthole.Config) { c.Impair = link(t, "in.delay=1ms") })
	h := r.host
	require.Equal(t, "in.delay=1ms", h.Link().Settings.String())
	require.Equal(t, "delay:1ms", h.Link().In.Rules)
	require.Nil(t, h.Link().Out)
	require.NoError(t, h.SetLink(link(t, "loss=100% out.delay=2ms")))
	require.Equal(t, "loss=100% in.delay=1ms out.delay=2ms", h.Link().Settings.String())
	require.Equal(t, "loss=100% out.delay=2ms", h.Link().Changed)
	c := dial(t, r, "udp", 7)
	_, err := c.Write([]byte("lost"))
	require.NoError(t, err)
	until(t, "one lost at its port", func() bool { return status(t, h, "7/udp").Fates["fault-injected"] == 1 })
	require.NotNil(t, h.Ledger().Link)

	// What does not fit together changes nothing.
	err = h.SetLink(link(t, "gap=5"))
	require.EqualError(t, err, "set link: in: gap: needs a reorder, such as reorder:25%")
	require.Equal(t, "loss=100% out.delay=2ms", h.Link().Changed)

	require.NoError(t, h.SetLink(link(t, "impair=rate:100mbit")))
	require.Equal(t, "impair=rate:100mbit", h.Link().Settings.String())
	echoed(t, r, 1, func(n int) bool { return n == 1 })
	require.NotZero(t, h.Link().Out.Passed)
	require.NoError(t, h.ResetLink())
	require.Equal(t, "in.delay=1ms", h.Link().Settings.String())
	require.Equal(t, "none", h.Link().Out.Rules)

	// The middle layer is replaced by a reload, at once, and only if it fits.
	cfg := h.Config()
	cfg.Impair = link(t, "out.rate=1gbit")
	changes, err := h.Reload(t.Context(), cfg)
	require.NoError(t, err)
	require.Equal(t, []string{`link: "out.rate=1gbit", was "in.delay=1ms"`}, changes)
	require.Equal(t, "rate:1gbit", h.Link().Out.Rules)
	cfg.Impair = link(t, "in.gap=3")
	_, err = h.Reload(t.Context(), cfg)
	require.EqualError(t, err, "impair: in: gap: needs a reorder, such as reorder:25%")
	events, _, _ := h.Events(0)
	var said []string
	for _, e := range events {
		if e.Type == "settings-set" && e.Port == "link" {
			said = append(said, e.Who)
		}
	}
	require.Equal(t, []string{"loss=100% out.delay=2ms", "impair=rate:100mbit", "reset"}, said)
}

func TestParseLinkSettings(t *testing.T) {
	for _, c := range []struct{ in, want, err string }{
		{in: "", want: ""},
		{in: "rate=10mbit", want: "rate=10mbit"},
		{in: "in.rate=10mbit out.rate=10000kbit", want: "rate=10mbit"},
		{in: "delay=50ms+-10ms in.loss=5 out.loss=1%", want: "delay=50ms±10ms in.loss=5% out.loss=1%"},
		{in: "impair=loss:1%,delay:5ms", want: "impair=loss:1%,delay:5ms"},
		{in: "impair-in=none impair-out=loss:1%", want: "in.impair=none out.impair=loss:1%"},
		{in: "rate=0 distribution=uniform", want: "rate=0 distribution=uniform"},
		{in: "rat=10mbit", err: `no rule "rat"; the nearest is rate`},
		{in: "in.dealy=5ms", err: `no rule "dealy"; the nearest is delay`},
		{in: "queue=5", err: `no rule "queue"; there are drop-syn, loss, gemodel, corrupt, duplicate, rate, limit, limit-bytes, policy, target, interval, delay, distribution, reorder, gap, seed`},
		{in: "rate", err: "rate: no value; want rate=VALUE"},
		{in: "rate=1mbit in.rate=2mbit", err: "in.rate: given twice"},
		{in: "loss=200%", err: `loss: "200%" is no chance of 0% to 100%, such as 0.5%`},
		{in: "impair=los:1%", err: `impair: no rule "los"; the nearest is loss`},
		{in: strings.Repeat("rate=1mbit ", 100), err: "settings: longer than 1024 bytes"},
	} {
		s, err := porthole.ParseLinkSettings(c.in)
		if c.err != "" {
			require.EqualError(t, err, c.err, c.in)
			require.True(t, s.IsZero())
			continue
		}
		require.NoError(t, err, c.in)
		require.Equal(t, c.want, s.String(), c.in)
		back, err := porthole.ParseLinkSettings(s.String())
		require.NoError(t, err)
		require.Equal(t, s, back)
	}
}

func FuzzParseLinkSettings(f *testing.F) {
	for _, s := range []string{"rate=10mbit", "in.delay=50ms±10ms out.loss=5", "impair=loss:1%,delay:5ms out.rate=1gbit", "impair-out=none"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		s, err := porthole.ParseLinkSettings(in)
		if err != nil {
			return
		}
		back, err := porthole.ParseLinkSettings(s.String())
		if err != nil || back.String() != s.String() {
			t.Fatalf("%q: %q, then %q: %v", in, s, back, err)
		}
		_, _, _ = s.Rules()
	})
}

// TestImpairIsTold: a capture and a timeline name the rules that touched a packet.
func TestImpairIsTold(t *testing.T) {
	r := newRig(t, tun.PipeOptions{}, nil)
	c := capture(t, r.host, porthole.CaptureOptions{Ports: []string{"7/udp"}})
	set(t, r.host, "7/udp", "impair=delay:5ms,duplicate:100%")
	echoed(t, r, 1, func(n int) bool { return n == 2 })
	set(t, r.host, "7/udp", "impair=loss:100%")
	conn := dial(t, r, "udp", 7)
	_, err := conn.Write([]byte("lost"))
	require.NoError(t, err)
	until(t, "one lost", func() bool { return status(t, r.host, "7/udp").Fates["fault-injected"] == 1 })
	_, err = r.host.StopCapture(c.id)
	require.NoError(t, err)
	var got []string
	for _, p := range c.file(t) {
		if !p.outbound {
			got = append(got, p.word["fate"]+" "+p.word["kind"]+" "+p.word["rules"])
		}
	}
	require.Equal(t, []string{"to-service  delay", "to-service duplicated duplicate+delay", "fault-injected  loss"}, got)

	port := services.UDP(7)
	var told []string
	for _, f := range r.host.Flows(&port, 10) {
		for _, rung := range f.Ladder {
			if rules := rung.Rules.String(); rules != "" {
				told = append(told, rung.Fate.String()+" "+rules)
			}
		}
	}
	require.Contains(t, told, "fault-injected loss")
	require.Contains(t, told, "none delay")
}
