package rig

import (
	"context"

	"porthole/cmd/porthole/internal/lab"
	"porthole/impair"
	"porthole/tun"
)

// Link is the wire to the host, under rules that may change while packets pass.
type Link struct {
	dev *tun.Impaired
}

// UpLink brings up a rig whose wire to the host can be made bad. It has no rules yet.
func UpLink(ctx context.Context, r *lab.Run, o Options) (*Rig, *Link, error) {
	l := &Link{}
	o.Wrap = func(d tun.Device) tun.Device {
		l.dev = tun.Impair(d, tun.ImpairOptions{})
		return l.dev
	}
	g, err := Up(ctx, r, o)
	return g, l, err
}

// Set changes the rules of both directions; in is towards the host. Rules without a
// seed get the run's, so that one seed loses the same packets of the same traffic.
func (l *Link) Set(r *lab.Run, in, out impair.Rules) {
	if in.Seed == 0 {
		in.Seed = r.Rand("link", "in").Uint64() | 1
	}
	if out.Seed == 0 {
		out.Seed = r.Rand("link", "out").Uint64() | 1
	}
	l.dev.SetRules(tun.ImpairOptions{In: in, Out: out})
}
