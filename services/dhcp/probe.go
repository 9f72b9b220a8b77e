package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"porthole/services"
)

// probe asks for the link's parameters with a DHCPINFORM from the host's own
// address: the one question that costs no lease.
func probe(ctx context.Context, env *services.Env, port services.Port) error {
	if !env.Host.Addr4.IsValid() {
		return errors.New("the host has no IPv4 address")
	}
	self := env.Host.Addr4.Addr()
	conn, err := env.Net.Dial(ctx, "udp", clientPort, netip.AddrPortFrom(self, port.Number))
	if err != nil {
		return fmt.Errorf("dial %v: %w", port, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()

	m, err := dhcpv4.NewInform(env.Host.HW, self.AsSlice(), dhcpv4.WithGeneric(dhcpv4.OptionClientIdentifier, []byte("\x00porthole probe")))
	if err != nil {
		return fmt.Errorf("make inform: %w", err)
	}
	if _, err := conn.Write(m.ToBytes()); err != nil {
		return fmt.Errorf("send inform: %w", err)
	}
	buf := make([]byte, 1500)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return fmt.Errorf("no answer to inform: %w", errors.Join(ctx.Err(), err))
		}
		re, err := dhcpv4.FromBytes(buf[:n])
		switch {
		case err != nil:
			return fmt.Errorf("answer to inform: %w", err)
		case re.OpCode != dhcpv4.OpcodeBootReply || re.TransactionID != m.TransactionID:
			continue // not for this question
		case re.MessageType() != dhcpv4.MessageTypeAck || re.SubnetMask() == nil:
			return fmt.Errorf("answer to inform: %v, want ACK with a subnet mask", re.MessageType())
		}
		return nil
	}
}
