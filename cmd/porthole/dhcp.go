package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"porthole/cmd/porthole/internal/dhcpclient"
)

type clientCmd struct {
	DHCP dhcpCmd `cmd:"" name:"dhcp" help:"Get a DHCP lease, on interfaces without link addresses too."`
}

type dhcpCmd struct {
	Interface   string        `default:"ph0" placeholder:"NAME" help:"Interface to ask on; it must be up (ph0)."`
	Count       int           `default:"1" placeholder:"N" help:"Clients, each with an identity of its own."`
	Parallel    int           `placeholder:"N" help:"Of them at once."`
	Timeout     time.Duration `default:"1m" placeholder:"TIME" help:"To get a lease or an answer, each (1m)."`
	Retry       time.Duration `placeholder:"TIME" help:"Before the first retransmission, doubling from there (4s)."`
	ClientID    string        `name:"client-id" placeholder:"HEX" help:"Option 61; the default stays the same per interface (RFC 4361)."`
	Hostname    string        `placeholder:"NAME" help:"Option 12."`
	Request     string        `placeholder:"ADDR" help:"Address to ask for in the discover (option 50)."`
	Reboot      string        `placeholder:"ADDR" help:"Ask for this address by INIT-REBOOT first."`
	LeaseTime   time.Duration `placeholder:"TIME" help:"Lease time to ask for (option 51)."`
	RapidCommit bool          `help:"Lease in two messages (RFC 4039)."`
	Broadcast   bool          `help:"Ask for broadcast replies."`
	Apply       bool          `help:"Put the address on the interface while the lease lasts."`
	Stay        bool          `help:"Keep the lease, renewing it in time, until Ctrl-C."`
	Then        []string      `enum:"renew,rebind,inform,decline,release" placeholder:"ACTION" help:"With each lease, in order: renew, rebind, inform, decline, release."`
	JSON        bool          `name:"json" help:"One JSON object a line."`
}

// Help is shown under `porthole client dhcp --help`.
func (dhcpCmd) Help() string {
	return "It changes nothing on the machine unless --apply says so, and then only the interface's own address."
}

// Run gets the leases and does with them what the flags say.
func (c *dhcpCmd) Run(con *console) error {
	o := dhcpclient.Options{
		Interface: c.Interface, Count: c.Count, Parallel: c.Parallel, Timeout: c.Timeout, Retry: c.Retry,
		Hostname: c.Hostname, LeaseTime: c.LeaseTime, RapidCommit: c.RapidCommit, Broadcast: c.Broadcast,
		Apply: c.Apply, Stay: c.Stay, Then: c.Then, JSON: c.JSON,
	}
	var err error
	if o.ClientID, err = hex.DecodeString(strings.ReplaceAll(c.ClientID, ":", "")); err != nil {
		return usageError{fmt.Errorf("--client-id: %q is not hexadecimal", c.ClientID)}
	}
	if len(o.ClientID) == 0 {
		o.ClientID = nil
	}
	for _, a := range []struct {
		flag, value string
		addr        *netip.Addr
	}{{"--request", c.Request, &o.Request}, {"--reboot", c.Reboot, &o.Reboot}} {
		if a.value == "" {
			continue
		}
		if *a.addr, err = netip.ParseAddr(a.value); err != nil || !a.addr.Is4() {
			return usageError{fmt.Errorf("%s: %q is no IPv4 address", a.flag, a.value)}
		}
	}
	if c.Count < 1 || c.Count > dhcpclient.MaxCount {
		return usageError{fmt.Errorf("--count: %d is not 1 to %d", c.Count, dhcpclient.MaxCount)}
	}
	if c.Parallel < 0 || c.Parallel > dhcpclient.MaxParallel {
		return usageError{fmt.Errorf("--parallel: %d is not 1 to %d", c.Parallel, dhcpclient.MaxParallel)}
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	err = dhcpclient.Run(ctx, o, con.out)
	if c.Stay && errors.Is(err, context.Canceled) {
		return nil // Ctrl-C is how it ends
	}
	return err
}
