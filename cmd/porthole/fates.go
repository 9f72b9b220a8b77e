package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"porthole"
	"porthole/cmd/porthole/internal/columns"
	"porthole/cmd/porthole/internal/control"
)

type fatesCmd struct {
	askFlags
	Of       string        `arg:"" optional:"" name:"port" help:"One port (80/tcp) or lane (closed, link, icmp, host-lane); the whole host otherwise."`
	Follow   bool          `short:"f" help:"Again each interval, until Ctrl-C."`
	Interval time.Duration `default:"1s" placeholder:"TIME" help:"Between two looks; rates are over it (1s)."`
	All      bool          `help:"Show the fates that nothing has met, too."`
}

// Help is shown under `porthole fates --help`.
func (fatesCmd) Help() string {
	return "Law: arrived = sum of fates + queued, at every look. The exit code is 1 when it does not hold. " +
		"What the kernel lost before the host, in the queue of its own interface, stands below."
}

// fatesLine is a ledger with its rates.
type fatesLine struct {
	porthole.Ledger
	Rates map[string]float64 `json:"rates,omitempty"` // packets a second, by fate and "arrived"
}

// Run shows what became of every packet.
func (c *fatesCmd) Run(con *console) error {
	var last *porthole.Ledger
	broken := false
	err := looks(con, &c.askFlags, c.Follow, c.Interval, func(ctx context.Context, client *control.Client) (func(io.Writer) error, error) {
		l, err := client.Fates(ctx, c.Of)
		if err != nil {
			return nil, err
		}
		line := fatesLine{Ledger: l, Rates: rates(last, &l)}
		last, broken = &l, broken || !l.LawOK
		return func(w io.Writer) error {
			if c.JSON {
				return json.NewEncoder(w).Encode(&line)
			}
			return c.table(w, &line)
		}, nil
	})
	if err == nil && broken {
		return codeError(1)
	}
	return err
}

// unlessDone: what fails because of Ctrl-C has not failed.
func unlessDone(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

func rates(last, now *porthole.Ledger) map[string]float64 {
	if last == nil {
		return nil
	}
	s := now.At.Sub(last.At).Seconds()
	if s <= 0 {
		return nil
	}
	r := map[string]float64{"arrived": float64(now.Arrived-last.Arrived) / s}
	for f, n := range now.Fates {
		r[f] = float64(n-last.Fates[f]) / s
	}
	return r
}

// table writes one look: arrived, the fates in the order in which a packet meets
// them, the law, and the device.
func (c *fatesCmd) table(w io.Writer, l *fatesLine) error {
	rate := func(name string) string {
		if l.Rates == nil {
			return ""
		}
		return fmt.Sprintf("%.0f/s", l.Rates[name])
	}
	kinds := ""
	for _, k := range slices.Sorted(maps.Keys(l.Kinds)) {
		if kinds != "" {
			kinds += ", "
		}
		kinds += fmt.Sprintf("%d %s", l.Kinds[k], k)
	}
	rows := [][]string{{"FATE", "PACKETS", "RATE", "LOST", "MEANING"}, {"arrived", fmt.Sprint(l.Arrived), rate("arrived"), "", kinds}}
	for _, f := range porthole.Fates() {
		n := l.Fates[f.Name]
		if n == 0 && !c.All {
			continue
		}
		lost := ""
		if f.Lost {
			lost = "lost"
		}
		rows = append(rows, []string{f.Name, fmt.Sprint(n), rate(f.Name), lost, f.Doc})
	}
	rows = append(rows, []string{"queued", fmt.Sprint(l.Queued), "", "", "No fate yet."})
	var b strings.Builder
	b.WriteString(columns.Text(rows, 1, 2))
	law := fmt.Sprintf("law: %s holds: every packet is accounted for", l.Of)
	if !l.LawOK {
		law = "LAW BROKEN: " + l.Broken
	}
	b.WriteString(law + "\n")
	if d := l.Device; d != nil {
		fmt.Fprintf(&b, "device: %d frames in, %d lost before the host (the kernel's queue was full), %d errors; %d out, %d lost, %d errors\n",
			d.InPackets, d.InDropped, d.InErrors, d.OutPackets, d.OutDropped, d.OutErrors)
	}
	if s := l.Stack; s != nil {
		fmt.Fprintf(&b, "stack: %d segments dropped after to-stack (a full segment queue, an ACK of nothing), %d invalid; %d connections left TIME-WAIT early, there were too many\n",
			s.Dropped, s.Invalid, s.TimeWaitOverflow)
		fmt.Fprintf(&b, "orphans: %d connections reset as their service closed them (too many, or too much, waited for peers), %d since their peer acknowledged nothing more\n",
			s.AbortOnMemory, s.AbortOnTimeout)
	}
	if o := l.Out; o != nil {
		fmt.Fprintf(&b, "out: %d frames sent, %d lost as device-full, %d refused by the device; %d resets of closed ports not sent, they were too many\n",
			o.Sent, o.DeviceFull, o.Refused, o.Limited)
	}
	if l.Link != nil {
		b.WriteString(impairmentLines("link", l.Link.In, l.Link.Out))
	}
	b.WriteString(impairmentLines(l.Of, l.ImpairIn, l.ImpairOut))
	b.WriteString(knockLine(l.Knocks))
	if l.Knocked > 0 {
		fmt.Fprintf(&b, "knocked: %d packets came for %s while nobody had it, and are counted at the lane closed; `porthole flows %s` shows whose\n", l.Knocked, l.Of, l.Of)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// knockLine says what came for ports that nobody has, "" when nothing did.
func knockLine(k *porthole.Knocks) string {
	if k == nil || k.Ports == 0 {
		return ""
	}
	var most []string
	for _, o := range k.Most {
		most = append(most, fmt.Sprintf("%v %d", o.Port, o.Packets))
	}
	rest := ""
	if n := k.Ports - len(k.Most); n > 0 {
		rest = fmt.Sprintf(", and %d more", n)
	}
	return fmt.Sprintf("knocked: %d packets at %d ports that nobody had: %s%s; `porthole flows %v` shows whose\n",
		k.Packets, k.Ports, strings.Join(most, ", "), rest, k.Most[0].Port)
}
