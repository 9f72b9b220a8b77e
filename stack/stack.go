// Package stack is the TCP/IP stack of the host: gVisor's netstack behind the port
// table of package demux. It is the only package that imports gVisor.
//
// In:  reader.go reads a device queue and hands batches to demux; what demux lets
// through to a worker, or to the reader itself, is injected into netstack by
// inject.go. UDP sockets (udp.go) pop their port's queue and never meet netstack.
// Out: netstack writes through link.go to the device; UDP sockets do so directly.
//
// Goroutines, all started by Run and waited for by it: one reader per device queue,
// GOMAXPROCS workers, one that drains netstack's accept lists into ours (listen.go),
// one that releases ports whose last connection has ended (reap.go), one that bounds
// what services have closed (orphan.go), one that settles the doors' doubts (door.go), one that writes what readers could not (outq.go), one
// for every two processors that writes super-packets and one that writes a crowd's
// answers (bulk.go), one that sends ACKs that nothing else has sent (ack.go).
//
// Stop order: super-packets that were sent have a moment; the device is closed, which
// frees every waiting read and write; then netstack is destroyed and waited for; then
// the lanes of super-packets and of small answers and the workers end.
package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	glog "gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"porthole/demux"
	"porthole/demux/flow"
	"porthole/internal/limit"
	"porthole/tun"
)

const nicID tcpip.NICID = 1

// Netstack logs to standard error by itself, which is the user's: what matters of
// it is in counters.
func init() { glog.SetTarget(glog.GoogleEmitter{Writer: &glog.Writer{Next: io.Discard}}) }

// Config is what a Stack is made from.
type Config struct {
	// Device is the host's side of the link; the Stack owns and closes it.
	Device tun.Device
	// Table is the host's port table.
	Table *demux.Table
	// Addrs are the host's addresses with their prefixes, at most one per family
	// (and scope).
	Addrs []netip.Prefix
	// Gateway4 and Gateway6 are next hops beyond the prefixes on an Ethernet
	// device; a TUN device needs none.
	Gateway4, Gateway6 netip.Addr
	// Flows keeps the timelines; nil keeps none. Now is its clock, and Table's.
	Flows *flow.Table
	Now   func() int64
	Log   *slog.Logger
}

// Stack is a running TCP/IP stack on a device.
type Stack struct {
	dev   tun.Device
	facts tun.Facts
	table *demux.Table
	log   *slog.Logger
	net   *netstack.Stack
	link  *link
	addrs []netip.Prefix
	flows *flow.Table // nil: no timelines
	now   func() int64

	listeners  [65536]atomic.Pointer[Listener]
	sockets    [65536]atomic.Pointer[PacketConn]
	drain      drain
	reap       reaper
	doors      doors
	secrets    secrets
	resets     *limit.Limit // of what closed ports owe
	paths      paths
	recoveries recoveries
	waits      timeWaits
	acks       acks
	lostFINs   lostFINs
	orphans    orphans
	closing    chan struct{} // closed when the stack begins to end
	closeOnce  sync.Once
}

// New makes a stack. Sockets may be opened at once; packets pass once Run runs.
func New(c Config) (*Stack, error) {
	s := &Stack{
		dev: c.Device, facts: c.Device.Facts(), table: c.Table, log: c.Log, addrs: c.Addrs,
		flows: c.Flows, now: c.Now,
		closing: make(chan struct{}), resets: limit.New(resetsPerSecond, resetBurst),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.drain.init()
	s.reap.init(s)
	s.orphans.init(s)
	s.doors.init()
	s.acks.init()
	s.lostFINs.init()
	s.paths.init()
	s.waits.max = maxTimeWait
	s.net = netstack.New(netstack.Options{
		Clock: coarseClock{tcpip.NewStdClock(), &s.waits},
		NetworkProtocols: []netstack.NetworkProtocolFactory{
			ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol,
		},
		TransportProtocols: []netstack.TransportProtocolFactory{
			s.newTCP, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
		SecureRNG: &s.secrets,
	})
	if s.flows != nil {
		s.table.SetTap(s.queued)
	}
	s.link = newLink(s)
	var lower netstack.LinkEndpoint = s.link
	if s.ethernet() {
		lower = ethernet.New(s.link)
	}
	s.initRecovery()
	s.boundTimeWait()
	if err := s.configure(lower, c); err != nil {
		s.net.Destroy()
		return nil, err
	}
	s.table.SetAddrs(demux.NewAddrs(s.addrs...))
	s.table.SetInline(demux.LaneClosed, true)
	return s, nil
}

// boundTimeWait gives TIME-WAIT the length by which the clock knows it.
func (s *Stack) boundTimeWait() {
	length := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	if err := s.net.SetTransportProtocolOption(tcp.ProtocolNumber, &length); err != nil {
		s.log.Warn("TIME-WAIT is not bounded", "error", err) // no such option
	}
}

func (s *Stack) ethernet() bool { return len(s.facts.HW) > 0 }

func (s *Stack) configure(ep netstack.LinkEndpoint, c Config) error {
	if err := s.net.CreateNIC(nicID, ep); err != nil {
		return fmt.Errorf("create interface: %v", err)
	}
	if s.ethernet() {
		s.addrs = append(s.addrs, linkLocal(s.facts.HW))
	}
	var routes []tcpip.Route
	for _, p := range s.addrs {
		pa := tcpip.ProtocolAddress{
			Protocol:          netProto(p.Addr()),
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: address(p.Addr()), PrefixLen: p.Bits()},
		}
		if err := s.net.AddProtocolAddress(nicID, pa, netstack.AddressProperties{}); err != nil {
			return fmt.Errorf("add address %v: %v", p, err)
		}
		routes = append(routes, tcpip.Route{Destination: pa.AddressWithPrefix.Subnet(), NIC: nicID})
		if s.ethernet() { // the host's traffic to itself asks no neighbour
			err := s.net.AddStaticNeighbor(nicID, netProto(p.Addr()), address(p.Addr()), tcpip.LinkAddress(s.facts.HW))
			if err != nil {
				return fmt.Errorf("add own neighbour %v: %v", p, err)
			}
		}
	}
	routes = append(routes,
		tcpip.Route{Destination: header.IPv4EmptySubnet, NIC: nicID, Gateway: gateway(c.Gateway4)},
		tcpip.Route{Destination: header.IPv6EmptySubnet, NIC: nicID, Gateway: gateway(c.Gateway6)})
	s.net.SetRouteTable(routes)
	return nil
}

// linkLocal is the EUI-64 address of an Ethernet host (RFC 4291, appendix A):
// neighbours solicit from theirs, and expect one.
func linkLocal(hw net.HardwareAddr) netip.Prefix {
	a := [16]byte{0: 0xfe, 1: 0x80, 8: hw[0] ^ 2, 9: hw[1], 10: hw[2], 11: 0xff, 12: 0xfe, 13: hw[3], 14: hw[4], 15: hw[5]}
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// Run moves packets until ctx ends or the device fails, then stops everything in
// order. The caller has closed its sockets by then, or they are aborted.
func (s *Stack) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var readers, rest sync.WaitGroup
	for q := range s.facts.Queues {
		readers.Go(func() {
			if err := s.read(q); err != nil && !errors.Is(err, os.ErrClosed) {
				cancel(fmt.Errorf("read %s: %w", s.facts.Name, err))
			}
		})
	}
	for range runtime.GOMAXPROCS(0) {
		rest.Go(func() { s.table.Work(s.inject) })
	}
	rest.Go(s.table.ReleaseDelayed)
	rest.Go(s.drainLoop)
	rest.Go(s.reap.loop)
	rest.Go(s.orphans.loop)
	rest.Go(s.doorLoop)
	rest.Go(s.recoveryLoop)
	rest.Go(s.ackLoop)
	rest.Go(s.link.writeQueued)
	for _, lane := range s.link.bulk.lanes {
		rest.Go(func() { s.link.writeBulk(lane) })
	}
	if small := s.link.bulk.small; small != nil {
		rest.Go(func() { s.link.writeBulk(small) })
	}

	<-ctx.Done()
	s.link.bulk.settle()
	s.closeOnce.Do(func() { close(s.closing) })
	s.dev.Close()
	s.link.ruled.close()
	readers.Wait()
	s.net.Destroy()
	close(s.link.bulk.ended)
	s.table.StopWork()
	s.drain.stop()
	rest.Wait()
	s.table.Drain()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// source picks the address that the host speaks to a peer from: of the peer's
// family, and link-local to link-local.
func (s *Stack) source(peer netip.Addr) (netip.Addr, bool) {
	var found netip.Addr
	near := peer.IsLinkLocalUnicast() || peer.IsLinkLocalMulticast()
	for _, p := range s.addrs {
		a := p.Addr()
		if a.Is4() != peer.Is4() {
			continue
		}
		if a.IsLinkLocalUnicast() == near {
			return a, true
		}
		if !found.IsValid() {
			found = a
		}
	}
	return found, found.IsValid()
}

func netProto(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

func address(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func gateway(a netip.Addr) tcpip.Address {
	if !a.IsValid() {
		return tcpip.Address{}
	}
	return address(a)
}

func addrPort(a tcpip.FullAddress) netip.AddrPort {
	ip, _ := netip.AddrFromSlice(a.Addr.AsSlice())
	return netip.AddrPortFrom(ip.Unmap(), a.Port)
}
