// Package stacktest is the client's end of a link in memory: a stack of its own on
// the other end of a tun.Pipe, so that tests and `porthole demo` reach a host
// without a kernel device and without root.
package stacktest

import (
	"context"
	"net"
	"net/netip"

	"porthole/demux"
	"porthole/stack"
	"porthole/tun"
)

// Client is a machine at the other end of a host's link.
type Client struct {
	*stack.Stack
	Table *demux.Table
	stop  context.CancelFunc
	done  chan error
}

// NewClient runs a stack with these addresses on dev, which it owns.
func NewClient(dev tun.Device, addrs ...netip.Prefix) (*Client, error) {
	table := demux.New(demux.Options{})
	s, err := stack.New(stack.Config{Device: dev, Table: table, Addrs: addrs})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Client{Stack: s, Table: table, stop: cancel, done: make(chan error, 1)}
	go func() { c.done <- s.Run(ctx) }()
	return c, nil
}

// Close stops the stack and waits for it.
func (c *Client) Close() error {
	c.stop()
	return <-c.done
}

// DialContext connects a TCP or UDP socket: for http.Transport and its like.
// address is ADDRESS:PORT; names are not looked up.
func (c *Client) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	if network[:3] == "udp" {
		return c.DialUDP(to, stack.DialConfig{Owner: "client"})
	}
	return c.DialTCP(ctx, to, stack.DialConfig{Owner: "client"})
}

// Peer4 and Peer6 are the client's usual addresses, Host4 and Host6 the host's.
var (
	Host4 = netip.MustParsePrefix("10.77.0.1/24")
	Peer4 = netip.MustParsePrefix("10.77.0.2/24")
	Host6 = netip.MustParsePrefix("fd77::1/64")
	Peer6 = netip.MustParsePrefix("fd77::2/64")
)

// TB is what New needs of a testing.TB, which commands that use this package do
// not have to link.
type TB interface {
	Helper()
	Fatal(args ...any)
	Errorf(format string, args ...any)
	Cleanup(func())
}

// New runs a client on dev with the usual addresses until the test ends.
func New(t TB, dev tun.Device) *Client {
	t.Helper()
	c, err := NewClient(dev, Peer4, Peer6)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("client stack: %v", err)
		}
	})
	return c
}
