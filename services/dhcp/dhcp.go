// Package dhcp is the DHCP server of the virtual host (RFC 2131, 2132): leases
// from a pool or reserved ones, for clients on the host's own link, with link
// addresses or without, and behind relay agents (RFC 3046, 3527, 5107, 3011).
// Clients are known by their client identifier first (RFC 4361, 6842). Rapid
// commit (RFC 4039) is an option.
//
// A datagram is one call: server.handle turns it, the time and the leases into an
// answer. Without a data directory the reader sends the answer itself, or the host's
// own reader does (answer.go). With one,
// answers that change a lease go through one committer, which stores all that wait
// and then sends their replies. When it falls behind, the reader waits for it and
// the port's own queue is the bound.
//
// Left out: BOOTP without a message type; probing an address before it is offered
// (a service cannot send ICMP or ARP, and every host on the link that did not get
// its address here is in the configuration; clients probe, and DECLINE is served);
// lease query (RFC 4388), authentication (RFC 3118), forced renewal (RFC 3203),
// DNS updates (RFC 4702), option overload in replies.
package dhcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"porthole/services"
)

// Service answers DHCP clients on 67/udp.
var Service = services.Service{
	Name:   "dhcp",
	About:  "DHCPv4 server: leases, reservations, relays, renewals; RFC 2131, 2132, 3046, 4361; no BOOTP, no address probing",
	Ports:  []services.Port{services.UDP(serverPort)},
	Config: defaults,
	Serve:  serve,
	Probe:  probe,
}

// most answers that wait for the committer, and that one commit takes.
const pendingLimit = 256

// job is an answer on its way through the committer.
type job struct {
	answer
	conn  net.PacketConn
	from  net.Addr
	start time.Time
}

type run struct {
	*server
	env   *services.Env
	store *store   // nil: memory only
	jobs  chan job // readers send, holding mu; serve closes it when they have ended
}

func serve(ctx context.Context, env *services.Env) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		for _, pc := range env.UDP {
			pc.Close()
		}
	})
	defer func() {
		if stop() {
			for _, pc := range env.UDP {
				pc.Close()
			}
		}
	}()
	cfg := env.Config.(*Config)
	if err := cfg.Validate(); err != nil {
		return err
	}
	if !env.Host.Addr4.IsValid() {
		env.Log.Warn("the host has no IPv4 address; nobody will get a lease")
		<-ctx.Done()
		return nil
	}
	s, err := newServer(env, cfg)
	if err != nil {
		return err
	}
	r := &run{server: s, env: env, jobs: make(chan job, pendingLimit)}
	if env.DataDir != "" {
		if r.store, err = openStore(env.DataDir, cfg.SyncInterval, env.Now(), r.restore); err != nil {
			return err
		}
	}

	var committer, readers sync.WaitGroup
	if r.store != nil {
		committer.Go(r.commits)
	}
	errs := make([]error, len(env.UDP))
	for i, pc := range env.UDP {
		r.answerInline(pc)
		readers.Go(func() {
			if errs[i] = r.read(ctx, pc); errs[i] != nil {
				cancel() // one dead port ends the service
			}
		})
	}
	readers.Wait()
	for _, pc := range env.UDP { // a port that the service has lost, too
		pc.Close()
	}
	close(r.jobs)
	committer.Wait()
	if r.store != nil {
		errs = append(errs, r.store.close())
	}
	return errors.Join(errs...)
}

func (r *run) restore(b binding) bool {
	n := r.containing(b.addr)
	return n != nil && n.pool.restore(b)
}

// read serves one port until it is closed.
func (r *run) read(ctx context.Context, pc net.PacketConn) error {
	buf := make([]byte, 65535)
	for bad := 0; ; {
		k, from, err := pc.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			// An ICMP error may surface here once; a socket that gives nothing else is dead.
			if bad++; bad > 16 || errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("read %v: %w", pc.LocalAddr(), err)
			}
			continue
		}
		bad = 0
		j := job{conn: pc, from: from, start: r.env.Now()}
		r.mu.Lock()
		j.answer = r.handle(buf[:k], addrPort(from), j.start)
		wait := r.store != nil && len(j.changes) > 0
		if wait {
			r.jobs <- j // the committer never takes mu
		}
		r.mu.Unlock()
		if !wait {
			r.finish(&j)
		}
	}
}

// commits stores what waits, all of it in one commit, then sends the replies.
func (r *run) commits() {
	var (
		batch   []job
		changes []change
		due     <-chan time.Time // of the next sync, with an interval
	)
	for {
		batch, changes = batch[:0], changes[:0]
		select {
		case j, ok := <-r.jobs:
			if !ok {
				return
			}
			batch = append(batch, j)
		case <-due:
			due = nil
			if err := r.store.sync(); err != nil {
				r.log.Error("leases may not survive a power loss", "err", err)
			}
			continue
		}
		for more := true; more && len(batch) < pendingLimit; {
			select {
			case j, ok := <-r.jobs:
				if more = ok; ok {
					batch = append(batch, j)
				}
			default:
				more = false
			}
		}
		for i := range batch {
			changes = append(changes, batch[i].changes...)
		}
		if err := r.store.commit(changes); err != nil {
			// A lease that is not stored is not granted: the clients ask again.
			r.log.Error("no lease granted", "err", err)
			for i := range batch {
				batch[i].payload, batch[i].result = nil, "not stored"
			}
		} else if r.store.interval > 0 && due == nil {
			due = time.After(r.store.interval)
		}
		for i := range batch {
			r.finish(&batch[i])
		}
	}
}

// finish sends the reply and logs the request.
func (r *run) finish(j *job) {
	if j.payload != nil {
		if err := r.transmit(j); err != nil && !errors.Is(err, net.ErrClosed) {
			j.result += " not sent: " + err.Error()
		}
	}
	r.say(&j.answer, j.from, j.start)
}

// say logs an answer, and what it wants said besides.
func (r *run) say(a *answer, from fmt.Stringer, start time.Time) {
	if len(a.warning) > 0 {
		r.log.Warn(a.warning[0].(string), a.warning[1:]...)
	}
	if !r.env.Logged() {
		return
	}
	attrs := make([]slog.Attr, 0, 2)
	if a.client != "" {
		attrs = append(attrs, slog.String("id", a.client))
	}
	if a.addr.IsValid() {
		attrs = append(attrs, slog.Any("address", a.addr))
	}
	r.env.Access(from, a.request, a.result, r.env.Now().Sub(start), attrs...)
}

// transmit unicasts at link level where the client has no address yet and the
// device can; whatever stands against it, a broadcast arrives as well.
func (r *run) transmit(j *job) error {
	if j.hw != nil {
		own := netip.AddrPortFrom(r.self, serverPort)
		if err := r.env.Net.SendLink(j.hw, own, j.to, j.payload); err == nil {
			return nil
		}
		j.to = broadcast
	}
	_, err := j.conn.WriteTo(j.payload, net.UDPAddrFromAddrPort(j.to))
	return err
}

func addrPort(a net.Addr) netip.AddrPort {
	if u, ok := a.(*net.UDPAddr); ok {
		ap := u.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
