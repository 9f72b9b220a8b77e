package stack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// DialConfig says how an outgoing connection is made.
type DialConfig struct {
	Owner     string // shown in the port table
	LocalPort uint16 // 0: ephemeral; else it may serve several peers at once
}

// DialTCP connects to a peer, or to the host itself.
func (s *Stack) DialTCP(ctx context.Context, remote netip.AddrPort, c DialConfig) (*Conn, error) {
	remote = netip.AddrPortFrom(remote.Addr().Unmap().WithZone(""), remote.Port())
	fail := func(err error) error {
		return opError("dial", "tcp", nil, net.TCPAddrFromAddrPort(remote), err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fail(ctxError(err))
	}
	if _, ok := s.source(remote.Addr()); !ok || !remote.IsValid() {
		return nil, fail(syscall.ENETUNREACH)
	}
	port, err := s.reap.dial(c.LocalPort, c.Owner)
	if err != nil {
		return nil, fail(err)
	}
	defer s.reap.dialed(port)
	wq := new(waiter.Queue)
	ep, terr := s.net.NewEndpoint(tcp.ProtocolNumber, netProto(remote.Addr()), wq)
	if terr != nil {
		return nil, fail(errno(terr))
	}
	// One local port to many peers at once, as an FTP server's port 20 needs.
	ep.SocketOptions().SetReuseAddress(true)
	ep.SocketOptions().SetReusePort(true)
	if terr := ep.Bind(tcpip.FullAddress{Port: port}); terr != nil {
		ep.Close()
		return nil, fail(errno(terr))
	}
	entry, connected := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	// The reader may serve the port while netstack only queues its segments: as
	// long as the endpoint is registered. It is not once the port lingers.
	terr = ep.Connect(tcpip.FullAddress{NIC: nicID, Addr: address(remote.Addr()), Port: remote.Port()})
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-connected:
			terr = ep.LastError()
		case <-ctx.Done():
			abort(ep)
			return nil, fail(ctxError(ctx.Err()))
		case <-s.closing:
			abort(ep)
			return nil, fail(net.ErrClosed)
		}
	}
	if terr != nil {
		ep.Close()
		return nil, fail(errno(terr))
	}
	return newConn(s, ep, wq), nil
}

// abort ends an endpoint without waiting for its peer.
func abort(ep tcpip.Endpoint) {
	if a, ok := ep.(interface{ Abort() }); ok {
		a.Abort()
	}
	ep.Close()
}

// ctxError is what net's dialers return for an expired context: a timeout.
func ctxError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return os.ErrDeadlineExceeded
	}
	return err
}

// DialUDP makes a connected UDP socket: it hears its peer alone, and ICMP errors.
func (s *Stack) DialUDP(remote netip.AddrPort, c DialConfig) (*PacketConn, error) {
	remote = netip.AddrPortFrom(remote.Addr().Unmap().WithZone(""), remote.Port())
	fail := func(err error) error {
		return opError("dial", "udp", nil, net.UDPAddrFromAddrPort(remote), err)
	}
	if _, ok := s.source(remote.Addr()); !ok || !remote.IsValid() {
		return nil, fail(syscall.ENETUNREACH)
	}
	pc, err := s.openUDP(c.LocalPort, remote, PacketConfig{Owner: c.Owner})
	if err != nil {
		return nil, fail(err)
	}
	return pc, nil
}
