package dhcpclient

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// printer writes what happened, whole lines at a time.
type printer struct {
	json  bool
	quiet bool // only the summary

	mu  sync.Mutex
	out io.Writer
}

// lease prints the client's lease under the name of what led to it.
func (p *printer) lease(event string, c *client) { p.one(event, c.id, c.lease) }

// done and lost print the end of a lease.
func (p *printer) done(event string, id []byte, l *Lease) {
	p.one(event, id, &Lease{Address: l.Address, Server: l.Server})
}

func (p *printer) lost(id []byte, l *Lease) { p.done("lost", id, l) }

func (p *printer) one(event string, id []byte, l *Lease) {
	if p.quiet {
		return
	}
	show := *l
	show.Event, show.ClientID = event, hexID(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.json {
		b, _ := json.Marshal(&show) // of plain values: it cannot fail
		p.out.Write(append(b, '\n'))
		return
	}
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-10s %s\n", name, value)
		}
	}
	if show.Address.IsValid() {
		line(event, show.Address.String())
	}
	line("server", show.Server.String())
	line("router", join(show.Router))
	line("dns", join(show.DNS))
	line("domain", show.Domain)
	line("search", strings.Join(show.Search, " "))
	line("hostname", show.Hostname)
	if show.MTU > 0 {
		line("mtu", fmt.Sprint(show.MTU))
	}
	if show.lease > 0 {
		line("time", fmt.Sprintf("%v, renew after %v, rebind after %v", show.lease, show.t1, show.t2))
	}
	if show.TookNS > 0 {
		line("took", time.Duration(show.TookNS).Round(10*time.Microsecond).String())
	}
	line("client-id", show.ClientID)
	io.WriteString(p.out, b.String())
}

func join(list []netip.Addr) string {
	var s []string
	for _, a := range list {
		s = append(s, a.String())
	}
	return strings.Join(s, " ")
}

// summary counts what became of many clients. It holds a time per lease, so
// MaxCount bounds it.
type summary struct {
	times   []time.Duration // of those that got a lease and did all actions
	failed  int
	first   error // of the failures
	elapsed time.Duration
}

func (s *summary) add(took time.Duration, err error) {
	if err == nil {
		s.times = append(s.times, took)
		return
	}
	if s.failed++; s.first == nil {
		s.first = err
	}
}

func (p *printer) summary(s *summary) {
	slices.Sort(s.times)
	at := func(q float64) time.Duration {
		if len(s.times) == 0 {
			return 0
		}
		return s.times[int(q*float64(len(s.times)-1))]
	}
	rate := float64(len(s.times)) / max(s.elapsed.Seconds(), 1e-9)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.json {
		b, _ := json.Marshal(struct {
			Event     string  `json:"event"`
			Leases    int     `json:"leases"`
			Failed    int     `json:"failed"`
			ElapsedNS int64   `json:"elapsed_ns"`
			PerSecond float64 `json:"per_second"`
			MedianNS  int64   `json:"median_ns"`
			P99NS     int64   `json:"p99_ns"`
		}{"summary", len(s.times), s.failed, int64(s.elapsed), rate, int64(at(.5)), int64(at(.99))})
		p.out.Write(append(b, '\n'))
		return
	}
	fmt.Fprintf(p.out, "%d leases, %d failed, in %v: %.0f per second; median %v, 99%% within %v\n",
		len(s.times), s.failed, s.elapsed.Round(time.Millisecond), rate, at(.5).Round(10*time.Microsecond), at(.99).Round(10*time.Microsecond))
}
