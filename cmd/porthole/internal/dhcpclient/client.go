package dhcpclient

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"porthole/cmd/porthole/internal/pause"
)

var (
	everybody = netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), 67)
	errNak    = errors.New("the server said no (DHCPNAK)")
)

// client is one DHCP client: its identity and, once bound, its lease.
type client struct {
	h       *hub
	o       *Options
	id      []byte
	htype   byte
	hw      []byte
	lease   *Lease
	started time.Time // of the current acquisition, for the secs field
	owned   netip.Addr
	applied netip.Prefix
}

func newClient(h *hub, o *Options, id []byte) *client {
	c := &client{h: h, o: o, id: id}
	c.htype, c.hw = h.link.HW()
	return c
}

// acquire gets a lease: INIT-REBOOT first where asked, else discover and request
// (RFC 2131, 4.4.1, 4.4.2). A NAK or a silent server starts it over, until Timeout.
func (c *client) acquire(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.o.Timeout, ErrNoAnswer)
	defer cancel()
	c.started = time.Now()
	if c.o.Reboot.IsValid() {
		m := c.message(dhcpv4.MessageTypeRequest)
		m.UpdateOption(dhcpv4.OptRequestedIPAddress(c.o.Reboot.AsSlice()))
		re, err := c.ask(ctx, m, netip.IPv4Unspecified(), everybody, 2, verdict)
		if err == nil {
			return c.bind(re, c.started)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("reboot with %v: %w", c.o.Reboot, err)
		}
	}
	for wait := c.o.Retry / 4; ; wait = min(2*wait, 16*c.o.Retry) {
		err := c.discover(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if !errors.Is(err, errNak) && !errors.Is(err, ErrNoAnswer) {
			return err
		}
		if !pause.For(ctx, wait) { // no loop of NAKs at full speed
			return err
		}
	}
}

func (c *client) discover(ctx context.Context) error {
	m := c.message(dhcpv4.MessageTypeDiscover)
	if c.o.Request.IsValid() {
		m.UpdateOption(dhcpv4.OptRequestedIPAddress(c.o.Request.AsSlice()))
	}
	if c.o.RapidCommit {
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(80), nil))
	}
	offer, err := c.ask(ctx, m, netip.IPv4Unspecified(), everybody, 0, func(re *dhcpv4.DHCPv4) (bool, error) {
		if re.MessageType() == dhcpv4.MessageTypeAck {
			return c.o.RapidCommit && re.Options.Has(dhcpv4.GenericOptionCode(80)), nil
		}
		return re.MessageType() == dhcpv4.MessageTypeOffer, nil
	})
	if err != nil {
		return fmt.Errorf("discover: %w", err)
	}
	if offer.MessageType() == dhcpv4.MessageTypeAck {
		return c.bind(offer, c.started)
	}
	began := time.Now()
	r := c.message(dhcpv4.MessageTypeRequest)
	r.TransactionID, r.NumSeconds = m.TransactionID, m.NumSeconds // of the discover (4.4.1)
	r.UpdateOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr))
	r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionServerIdentifier, offer.Options.Get(dhcpv4.OptionServerIdentifier)))
	ack, err := c.ask(ctx, r, netip.IPv4Unspecified(), everybody, 4, verdict)
	if err != nil {
		return fmt.Errorf("request %v: %w", offer.YourIPAddr, err)
	}
	return c.bind(ack, began)
}

// renew asks the server that gave the lease, rebind any server (4.4.5).
func (c *client) renew(ctx context.Context, first time.Duration) error {
	return c.extend(ctx, netip.AddrPortFrom(c.lease.Server, 67), first)
}

func (c *client) rebind(ctx context.Context, first time.Duration) error {
	return c.extend(ctx, everybody, first)
}

func (c *client) extend(ctx context.Context, to netip.AddrPort, first time.Duration) error {
	began := time.Now()
	c.started = began
	m := c.message(dhcpv4.MessageTypeRequest)
	m.ClientIPAddr = c.lease.Address.Addr().AsSlice()
	ack, err := c.askFrom(ctx, m, c.lease.Address.Addr(), to, first, 0, verdict)
	if err != nil {
		return err
	}
	return c.bind(ack, began)
}

// inform asks for the parameters that go with the address.
func (c *client) inform(ctx context.Context) (*Lease, error) {
	began := time.Now()
	c.started = began
	m := c.message(dhcpv4.MessageTypeInform)
	m.ClientIPAddr = c.lease.Address.Addr().AsSlice()
	m.DeleteOption(dhcpv4.OptionIPAddressLeaseTime)
	re, err := c.ask(ctx, m, c.lease.Address.Addr(), netip.AddrPortFrom(c.lease.Server, 67), 0, verdict)
	if err != nil {
		return nil, err
	}
	l := leaseOf(re, began)
	l.Address = c.lease.Address
	return l, nil
}

// release and decline give the address back; neither has an answer (4.4.4, 4.4.6).
func (c *client) release() error {
	m := c.message(dhcpv4.MessageTypeRelease)
	m.ClientIPAddr = c.lease.Address.Addr().AsSlice()
	return c.giveBack(m, c.lease.Address.Addr(), netip.AddrPortFrom(c.lease.Server, 67))
}

func (c *client) decline() error {
	m := c.message(dhcpv4.MessageTypeDecline)
	m.UpdateOption(dhcpv4.OptRequestedIPAddress(c.lease.Address.Addr().AsSlice()))
	return c.giveBack(m, netip.IPv4Unspecified(), everybody)
}

func (c *client) giveBack(m *dhcpv4.DHCPv4, from netip.Addr, to netip.AddrPort) error {
	m.UpdateOption(dhcpv4.OptServerIdentifier(c.lease.Server.AsSlice()))
	for _, o := range []dhcpv4.OptionCode{dhcpv4.OptionParameterRequestList, dhcpv4.OptionMaximumDHCPMessageSize, dhcpv4.OptionIPAddressLeaseTime, dhcpv4.OptionHostName} {
		m.DeleteOption(o) // table 5: MUST NOT
	}
	m.SetUnicast()
	m.TransactionID = c.h.transaction()
	err := c.h.link.Send(m.ToBytes(), from, to)
	return errors.Join(err, c.unbind())
}

// actions does what Options.Then says with the lease.
func (c *client) actions(ctx context.Context, p *printer) error {
	for _, a := range c.o.Then {
		if c.lease == nil {
			return fmt.Errorf("%s: there is no lease any more", a)
		}
		within, cancel := context.WithTimeoutCause(ctx, c.o.Timeout, ErrNoAnswer)
		err := c.act(within, a, p)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", a, err)
		}
	}
	return nil
}

func (c *client) act(ctx context.Context, action string, p *printer) error {
	switch action {
	case "renew", "rebind":
		ask := c.renew
		if action == "rebind" {
			ask = c.rebind
		}
		if err := ask(ctx, c.o.Retry); err != nil {
			if errors.Is(err, errNak) {
				err = errors.Join(err, c.unbind())
			}
			return err
		}
		p.lease(action, c)
		return c.apply()
	case "inform":
		l, err := c.inform(ctx)
		if err == nil {
			p.one(action, c.id, l)
		}
		return err
	case "decline", "release":
		l, give := c.lease, c.release
		if action == "decline" {
			give = c.decline
		}
		err := give()
		if err == nil {
			p.done(action, c.id, l)
		}
		return err
	}
	return errors.New("no such action")
}

// stay renews at T1, rebinds at T2, and starts over when the lease ends or is
// refused, until ctx ends (4.4.5).
func (c *client) stay(ctx context.Context, p *printer) error {
	for {
		l := c.lease
		t1, t2, end := l.began.Add(l.t1), l.began.Add(l.t2), l.began.Add(l.lease)
		if !pause.For(ctx, time.Until(t1)) {
			return nil
		}
		err := c.until(ctx, t2, c.renew)
		action := "renew"
		if err != nil && !errors.Is(err, errNak) && ctx.Err() == nil {
			action = "rebind"
			err = c.until(ctx, end, c.rebind)
		}
		for err != nil && ctx.Err() == nil { // refused or over: from the beginning
			if uerr := c.unbind(); uerr != nil {
				return uerr
			}
			action = "lease"
			p.lost(c.id, l)
			if err = c.acquire(ctx); err != nil && !errors.Is(err, ErrNoAnswer) {
				return err
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		p.lease(action, c)
		if err := c.apply(); err != nil {
			return err
		}
	}
}

// until asks again and again before t, each time after half of what is left, a
// minute at least.
func (c *client) until(ctx context.Context, t time.Time, ask func(context.Context, time.Duration) error) error {
	ctx, cancel := context.WithDeadlineCause(ctx, t, ErrNoAnswer)
	defer cancel()
	err := fmt.Errorf("too late: %w", ErrNoAnswer)
	for ctx.Err() == nil {
		wait := max(time.Until(t)/2, min(time.Minute, time.Until(t)))
		once, stop := context.WithTimeoutCause(ctx, wait, ErrNoAnswer)
		err = ask(once, 2*wait) // once: the next time is ours to choose
		stop()
		if err == nil || errors.Is(err, errNak) {
			return err
		}
	}
	return err
}

// ask is askFrom with the first retransmission after Retry.
func (c *client) ask(ctx context.Context, m *dhcpv4.DHCPv4, from netip.Addr, to netip.AddrPort, tries int, accept func(*dhcpv4.DHCPv4) (bool, error)) (*dhcpv4.DHCPv4, error) {
	return c.askFrom(ctx, m, from, to, c.o.Retry, tries, accept)
}

// askFrom sends m and waits for the answer that accept takes, sending again after
// wait, twice that, and so on up to 16 times Retry, each a quarter of Retry more
// or less (4.1). tries 0 is until ctx ends.
func (c *client) askFrom(ctx context.Context, m *dhcpv4.DHCPv4, from netip.Addr, to netip.AddrPort, wait time.Duration, tries int, accept func(*dhcpv4.DHCPv4) (bool, error)) (*dhcpv4.DHCPv4, error) {
	ch, err := c.h.expect(m)
	if err != nil {
		return nil, err
	}
	defer c.h.forget(m)
	for n := 1; ; n++ {
		if err := c.h.link.Send(m.ToBytes(), from, to); err != nil {
			return nil, err
		}
		timer := time.NewTimer(wait + c.h.jitter(c.o.Retry/4))
		for waiting := true; waiting; {
			select {
			case re := <-ch:
				if !c.mine(re) {
					continue
				}
				if ok, err := accept(re); ok || err != nil {
					timer.Stop()
					return re, err
				}
			case <-timer.C:
				waiting = false
			case <-ctx.Done():
				timer.Stop()
				return nil, context.Cause(ctx)
			case <-c.h.dead:
				timer.Stop()
				return nil, c.h.err
			}
		}
		if n == tries {
			return nil, ErrNoAnswer
		}
		wait = max(wait, min(2*wait, 16*c.o.Retry))
		if m.MessageType() == dhcpv4.MessageTypeDiscover || !m.ClientIPAddr.IsUnspecified() {
			m.NumSeconds = c.secs()
		}
	}
}

// verdict takes an ACK, and turns a NAK into an error.
func verdict(re *dhcpv4.DHCPv4) (bool, error) {
	switch re.MessageType() {
	case dhcpv4.MessageTypeAck:
		return true, nil
	case dhcpv4.MessageTypeNak:
		if msg := re.Message(); msg != "" {
			return false, fmt.Errorf("%w: %q", errNak, msg)
		}
		return false, errNak
	}
	return false, nil
}

// bind makes an ACK the lease.
func (c *client) bind(ack *dhcpv4.DHCPv4, began time.Time) error {
	l := leaseOf(ack, began)
	l.TookNS = int64(time.Since(c.started))
	if !l.Address.IsValid() || l.lease <= 0 || !l.Server.IsValid() {
		return fmt.Errorf("ack names address %v, lease %v, server %v: not a lease", ack.YourIPAddr, l.lease, l.Server)
	}
	if a := l.Address.Addr(); a != c.owned && !c.o.Apply {
		if c.owned.IsValid() {
			c.h.link.Disown(c.owned)
		}
		c.h.link.Own(a)
		c.owned = a
	}
	c.lease = l
	return nil
}

// unbind forgets the lease and takes its address off the interface.
func (c *client) unbind() error {
	c.forget()
	c.lease = nil
	if !c.applied.IsValid() {
		return nil
	}
	p := c.applied
	c.applied = netip.Prefix{}
	return removeAddress(c.o.Interface, p)
}

func (c *client) forget() {
	if c.owned.IsValid() {
		c.h.link.Disown(c.owned)
		c.owned = netip.Addr{}
	}
}

func (c *client) apply() error {
	if !c.o.Apply {
		return nil
	}
	if c.applied.IsValid() && c.applied != c.lease.Address {
		if err := removeAddress(c.o.Interface, c.applied); err != nil {
			return err
		}
	}
	c.applied = c.lease.Address
	return addAddress(c.o.Interface, c.lease.Address, c.lease.lease)
}
