package rig

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"porthole"
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

// Lane is one of several rigs that run beside each other, each with a wire of its own.
type Lane struct {
	*Rig
	Link *Link
}

// UpLanes brings up n rigs: ph0 with 10.77.0.1, ph1 with 10.77.1.1, and so on. It takes
// them down again when one fails; the caller closes them with CloseLanes.
func UpLanes(ctx context.Context, r *lab.Run, n int) ([]Lane, error) {
	var all []Lane
	for i := range n {
		g, l, err := UpLink(ctx, r, Options{lane: true, Config: func(c *porthole.Config) {
			c.Link.Interface = fmt.Sprintf("ph%d", i)
			c.Link.Address = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, byte(i), 1}), 24)
			c.Link.Address6 = netip.Prefix{}
		}})
		if err != nil {
			return nil, errors.Join(err, CloseLanes(all))
		}
		all = append(all, Lane{g, l})
	}
	r.Setup("%d hosts with a wire each, on %s to %s", n, all[0].Dev, all[n-1].Dev)
	return all, nil
}

// CloseLanes closes them all.
func CloseLanes(all []Lane) (err error) {
	for _, l := range all {
		err = errors.Join(err, l.Close())
	}
	return err
}
