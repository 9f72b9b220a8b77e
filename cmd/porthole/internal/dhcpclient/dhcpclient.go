// Package dhcpclient is the engine of `porthole client dhcp`: a DHCP client
// (RFC 2131) for interfaces with link addresses and without, which stock clients
// refuse. It gets leases, then renews, rebinds, releases, declines or asks for
// parameters as told, one client or many at once, and changes nothing on the
// machine unless Options.Apply says so; even then only the interface's own address.
//
// One reader hands each message that arrives to the client whose transaction it
// belongs to; a client that does not keep up loses messages and asks again, as on
// any network. Time is the time package's, so tests run on testing/synctest's.
//
// Left out: the ARP probe of an address before its use (Then "decline" says what
// it would), routes, resolv.conf, and keeping leases on disk.
package dhcpclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options say what Run does. Only Interface must be set.
type Options struct {
	Interface string // to ask on; it must be up

	Count    int           // clients, 1 to MaxCount (0: 1), each with an identity of its own
	Parallel int           // of them at once, 1 to MaxParallel (0: as many as Count, 64 at most)
	Timeout  time.Duration // to get a lease or an answer, each (0: 1 minute)
	Retry    time.Duration // before the first retransmission, doubling from there (0: RFC 2131's 4 s)

	ClientID    []byte        // option 61; nil makes one (RFC 4361) that stays the same per interface
	Hostname    string        // option 12
	Request     netip.Addr    // option 50 of the discover
	Reboot      netip.Addr    // ask for this address by INIT-REBOOT before discovering
	LeaseTime   time.Duration // option 51
	RapidCommit bool          // RFC 4039
	Broadcast   bool          // ask for broadcast replies; always so without a link address and with Count > 1

	// Apply puts the leased address on the interface, for as long as the lease
	// lasts, and takes it off again on release, decline or NAK. For one client.
	Apply bool
	// Stay keeps the lease, renewing and rebinding in time, until ctx ends. The
	// actions of Then follow. For one client.
	Stay bool
	// Then is done in order with each lease: renew, rebind, inform, decline, release.
	Then []string
	// JSON prints one object per line instead of text.
	JSON bool

	Link Link       // nil opens Interface; Run closes it
	Rand *rand.Rand // nil is seeded at random
}

// Bounds of Options.
const (
	MaxCount    = 1 << 20
	MaxParallel = 4096
)

// Actions are what Options.Then may hold.
var Actions = []string{"renew", "rebind", "inform", "decline", "release"}

// Link carries DHCP messages on one interface.
type Link interface {
	// HW is the interface's hardware type (RFC 1700) and link address, empty where it has none.
	HW() (htype byte, addr []byte)
	// Send sends payload from port 68 of from to to. The payload stays the caller's.
	Send(payload []byte, from netip.Addr, to netip.AddrPort) error
	// Receive waits for a datagram to port 68; os.ErrClosed after Close.
	Receive(buf []byte) (n int, err error)
	// Own has the link answer for a, so that unicasts reach an address that the
	// machine does not have; Disown ends that.
	Own(a netip.Addr)
	Disown(a netip.Addr)
	Close() error
}

// ErrNoAnswer is returned (wrapped) when a server stayed silent for Options.Timeout.
var ErrNoAnswer = errors.New("no answer")

// Run gets the leases, prints them on out, does what Options say and returns when
// that is done or ctx ends. It fails when any client did.
func Run(ctx context.Context, o Options, out io.Writer) error {
	if err := o.complete(); err != nil {
		return err
	}
	link := o.Link
	if link == nil {
		var err error
		if link, err = openLink(o.Interface); err != nil {
			return err
		}
	}
	h := newHub(link, o.Rand)
	defer h.close()
	p := &printer{out: out, json: o.JSON, quiet: o.Count > 1 && !o.JSON}
	base := o.ClientID
	if base == nil {
		_, hw := link.HW()
		base = clientID(o.Interface, hw)
	}
	if o.Count == 1 {
		return runOne(ctx, h, &o, base, p)
	}
	return runMany(ctx, h, &o, base, p)
}

func (o *Options) complete() error {
	if o.Interface == "" && o.Link == nil {
		return errors.New("dhcp client: which interface?")
	}
	set := func(v *int, def, most int, what string) error {
		if *v == 0 {
			*v = def
		}
		if *v < 1 || *v > most {
			return fmt.Errorf("dhcp client: %s %d is not 1 to %d", what, *v, most)
		}
		return nil
	}
	if err := set(&o.Count, 1, MaxCount, "count"); err != nil {
		return err
	}
	if err := set(&o.Parallel, min(o.Count, 64), MaxParallel, "parallel"); err != nil {
		return err
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	if o.Retry == 0 {
		o.Retry = 4 * time.Second
	}
	if o.Timeout < 0 || o.Retry < time.Millisecond {
		return fmt.Errorf("dhcp client: timeout %v, retry %v: want a positive time and at least 1ms", o.Timeout, o.Retry)
	}
	for _, a := range o.Then {
		if !slices.Contains(Actions, a) {
			return fmt.Errorf("dhcp client: no action %q; there are %s", a, strings.Join(Actions, ", "))
		}
	}
	for _, a := range []netip.Addr{o.Request, o.Reboot} {
		if a.IsValid() && !a.Is4() {
			return fmt.Errorf("dhcp client: %v is no IPv4 address", a)
		}
	}
	if n := len(o.ClientID); n == 1 || n > 240 {
		return fmt.Errorf("dhcp client: client identifier of %d bytes; want 2 to 240", n)
	}
	if len(o.Hostname) > 255 {
		return fmt.Errorf("dhcp client: host name of %d bytes; 255 at most", len(o.Hostname))
	}
	if o.Count > 1 && (o.Apply || o.Stay) {
		return errors.New("dhcp client: apply and stay are for one client")
	}
	return nil
}

// runOne is one client from discover to the last action.
func runOne(ctx context.Context, h *hub, o *Options, id []byte, p *printer) error {
	c := newClient(h, o, id)
	defer c.forget()
	if err := c.acquire(ctx); err != nil {
		return err
	}
	p.lease("lease", c)
	if err := c.apply(); err != nil {
		return err
	}
	if o.Stay {
		if err := c.stay(ctx, p); err != nil {
			return err
		}
	}
	if ctx.Err() != nil { // what follows staying, a release above all, must still be done
		if len(o.Then) == 0 || !o.Stay {
			return nil
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), min(o.Timeout, 5*time.Second))
		defer cancel()
	}
	return c.actions(ctx, p)
}

// runMany runs Count clients, Parallel at once, and sums them up.
func runMany(ctx context.Context, h *hub, o *Options, base []byte, p *printer) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		sum  summary
		next int
	)
	start := time.Now()
	for range min(o.Parallel, o.Count) {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= o.Count || ctx.Err() != nil {
					return
				}
				c := newClient(h, o, numbered(base, i))
				began := time.Now()
				err := c.acquire(ctx)
				took := time.Since(began)
				if err == nil {
					p.lease("lease", c)
					err = c.actions(ctx, p)
				}
				c.forget()
				mu.Lock()
				sum.add(took, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	sum.elapsed = time.Since(start)
	p.summary(&sum)
	if ctx.Err() != nil && sum.failed+len(sum.times) < o.Count {
		return fmt.Errorf("dhcp client: stopped after %d of %d: %w", sum.failed+len(sum.times), o.Count, context.Cause(ctx))
	}
	if sum.failed > 0 {
		return fmt.Errorf("dhcp client: %d of %d failed, first: %w", sum.failed, o.Count, sum.first)
	}
	return nil
}
