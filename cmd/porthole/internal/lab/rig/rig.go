// Package rig holds the experiments on a running host, and the rig they use: a
// porthole host on a TUN device, and with --vs kernel a server on the kernel's own
// sockets at the far end of a veth pair, both reached by kernel sockets of this
// process.
//
//	this process, first of a private network (lab inside)
//	  client sockets ── ph0 (TUN) ── porthole host, in this process   10.77.0.1
//	                 └─ k0 ── k1 (veth) ── kernel sockets, in a network namespace of
//	                                       their own, held by one thread  10.78.0.1
//
// An experiment asks Up for a rig, goes through its Targets with the same client code,
// and closes it. Whatever it leaves is gone when the process ends: the namespaces are
// the process's own.
package rig

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"porthole"
	"porthole/cmd/porthole/internal/lab"
	"porthole/services"
	"porthole/tun"
)

// Options are what an experiment wants otherwise than usual.
type Options struct {
	// Config changes the host's configuration: as usual, but without any service.
	Config func(*porthole.Config)
	// Wrap puts something around the device, such as a limited rate.
	Wrap func(tun.Device) tun.Device

	lane bool // one of several: UpLanes says what there is
}

// Rig is a running host, and perhaps a kernel server, with the way to both.
type Rig struct {
	Host *porthole.Host
	Dev  string // name of the interface to the host

	targets []Target
	stop    context.CancelFunc
	done    chan error
	capture func() error // completes the file
	far     *far         // nil without --vs kernel
}

// Target is one server that clients can be pointed at.
type Target struct {
	Name   string     // "porthole" or "kernel"
	Addr   netip.Addr // of the server
	Client netip.Addr // of this side
	Kernel bool
	rig    *Rig
}

// Up brings a rig up. r says whether there is a kernel side. The host has no service
// but those that Options.Config enables and Listen binds.
func Up(ctx context.Context, r *lab.Run, o Options) (*Rig, error) {
	cfg := porthole.DefaultConfig()
	for _, s := range cfg.Services {
		s.Enabled = false
	}
	if o.Config != nil {
		o.Config(&cfg)
	}
	peer := func(p porthole.Peer, host netip.Prefix) netip.Prefix {
		a, ok := p.Addr(host)
		if !ok {
			return netip.Prefix{}
		}
		return netip.PrefixFrom(a, host.Bits())
	}
	l := &cfg.Link
	dev, err := tun.Open(tun.Options{
		Kind: l.Device, Name: l.Interface, MTU: l.MTU, Queues: l.Queues,
		Peer4: peer(l.PeerAddress, l.Address), Peer6: peer(l.PeerAddress6, l.Address6),
	})
	if errors.Is(err, tun.ErrNoIPv6) {
		l.Address6 = netip.Prefix{}
		dev, err = tun.Open(tun.Options{Kind: l.Device, Name: l.Interface, MTU: l.MTU, Queues: l.Queues, Peer4: peer(l.PeerAddress, l.Address)})
	}
	if err != nil {
		return nil, err
	}
	g := &Rig{Dev: dev.Facts().Name, done: make(chan error, 1), capture: func() error { return nil }}
	if !o.lane {
		r.Setup("host on %s (%s, mtu %d)", g.Dev, dev.Facts().Kind, l.MTU)
	}
	if o.Wrap != nil {
		dev = o.Wrap(dev)
	}
	if g.Host, err = porthole.New(cfg, dev, slog.New(slog.DiscardHandler)); err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	hctx, stop := context.WithCancel(context.WithoutCancel(ctx)) // the host outlives its clients: Close ends it
	g.stop = stop
	go func() { g.done <- g.Host.Run(hctx) }()
	p4, _ := l.PeerAddress.Addr(l.Address)
	g.targets = append(g.targets, Target{"porthole", l.Address.Addr(), p4, false, g})
	select {
	case <-g.Host.Ready():
	case err := <-g.done:
		stop()
		return nil, fmt.Errorf("host: %w", err)
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), g.Close())
	}
	if g.capture, err = record(r, g.Host); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	if r.Kernel {
		if g.far, err = openFar(l.MTU); err != nil {
			return nil, errors.Join(fmt.Errorf("kernel side: %w", err), g.Close())
		}
		// A veth pair carries nothing until the kernel has looked at its new link, which
		// it does once a second.
		carries := func() bool {
			return probeTCP(ctx, netip.AddrPortFrom(g.far.server, 1), 100*time.Millisecond) == heardNo
		}
		if err := until(ctx, patience, carries, "the veth pair to carry packets"); err != nil {
			return nil, errors.Join(err, g.Close())
		}
		if err := g.FarSysctl("net.ipv4.tcp_syncookies", "0"); err != nil {
			r.Note("the kernel server sends SYN cookies: %v", err)
		}
		g.targets = append(g.targets, Target{"kernel", g.far.server, g.far.client, true, g})
		r.Setup("kernel server behind a veth pair (mtu %d)", l.MTU)
	}
	return g, nil
}

// Targets are the host, and with --vs kernel the kernel's server.
func (g *Rig) Targets() []Target { return g.targets }

// Close ends the rig and waits for it. Listeners of targets end with it.
func (g *Rig) Close() error {
	err := g.capture()
	g.stop()
	err = errors.Join(err, <-g.done)
	g.done <- nil // for a second Close
	if g.far != nil {
		err = errors.Join(err, g.far.close())
	}
	return err
}

// Listen binds a TCP port of the target for a service of the experiment's own, with
// that backlog: listen(2)'s, which is the accept queue's and the SYN queue's.
func (t Target) Listen(port uint16, backlog int) (net.Listener, error) {
	if t.Kernel {
		return t.rig.far.listen(port, backlog)
	}
	ln, err := t.rig.Host.Listen(port, "lab")
	if err != nil {
		return nil, err
	}
	if err := t.rig.Host.Set(services.TCP(port), porthole.Settings{Backlog: &backlog, SynCookies: "never"}); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// ListenPacket binds a UDP port likewise. queue is the port's limit in packets (0: the
// default) and bytes in bytes of charge; the kernel has bytes alone (SO_RCVBUF, which
// it doubles: it gets the half).
func (t Target) ListenPacket(port uint16, queue, bytes int) (net.PacketConn, error) {
	if t.Kernel {
		return t.rig.far.listenPacket(port, bytes)
	}
	pc, err := t.rig.Host.ListenPacket(port, "lab")
	if err != nil {
		return nil, err
	}
	var s porthole.Settings
	if queue > 0 {
		s.Queue = &queue
	}
	if bytes > 0 {
		b := int64(bytes)
		s.QueueBytes = &b
	}
	if !s.IsZero() {
		if err := t.rig.Host.Set(services.UDP(port), s); err != nil {
			return nil, errors.Join(err, pc.Close())
		}
	}
	return pc, nil
}

// At is an address of the target.
func (t Target) At(port uint16) netip.AddrPort { return netip.AddrPortFrom(t.Addr, port) }
