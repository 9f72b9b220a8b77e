// Package servicestest runs one service for the service's own tests: a real
// services.Env whose sockets are the kernel's, over loopback, on ports it picks; or,
// where a test is about time limits, in memory.
package servicestest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"porthole/services"
)

// Patience is for what comes at once unless something is broken.
const Patience = time.Minute

// Rig is a running service and where its ports really are.
type Rig struct {
	Env *services.Env
	// Addr maps each of the service's ports to where it listens.
	Addr map[services.Port]netip.AddrPort

	stop context.CancelFunc
	done chan error
	once sync.Once
	err  error
}

// Start serves svc on 127.0.0.1 until the test ends. edit may change the Env
// (configuration, clock, data directory, socket rules) before Serve sees it.
func Start(t testing.TB, svc services.Service, edit func(*services.Env)) *Rig {
	t.Helper()
	return StartOn(t, Loopback{}, svc, edit)
}

// StartOn is Start on another network.
func StartOn(t testing.TB, n services.Net, svc services.Service, edit func(*services.Env)) *Rig {
	t.Helper()
	r := &Rig{Addr: map[services.Port]netip.AddrPort{}, done: make(chan error, 1)}
	r.Env = &services.Env{
		Host: services.Host{
			Name: "porthole", Zone: "porthole.test",
			Addr4: netip.MustParsePrefix("127.0.0.1/8"), Addr6: netip.MustParsePrefix("::1/64"),
			Peer4: netip.MustParseAddr("127.0.0.1"), Peer6: netip.MustParseAddr("::1"),
			MTU: 1500, Version: "test", Started: time.Now(),
		},
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Now: time.Now,
		Net: n,
		Ports: func() []services.PortInfo {
			var ps []services.PortInfo
			for _, p := range svc.Ports {
				ps = append(ps, services.PortInfo{Port: p, Service: svc.Name, About: svc.About})
			}
			return ps
		},
	}
	if svc.Config != nil {
		r.Env.Config = svc.Config()
	}
	for _, p := range svc.Ports {
		if p.Proto == "tcp" {
			ln, err := n.Listen(0)
			if err != nil {
				t.Fatal(err)
			}
			r.Env.TCP = append(r.Env.TCP, ln)
			r.Addr[p] = ln.Addr().(*net.TCPAddr).AddrPort()
			continue
		}
		pc, err := n.ListenPacket(0)
		if err != nil {
			t.Fatal(err)
		}
		r.Env.UDP = append(r.Env.UDP, pc)
		r.Addr[p] = pc.LocalAddr().(*net.UDPAddr).AddrPort()
	}
	if edit != nil {
		edit(r.Env)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.done <- svc.Serve(ctx, r.Env) }()
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Errorf("%s: Serve: %v", svc.Name, err)
		}
	})
	return r
}

// Stop ends the service and returns what Serve returned. It may be called again.
func (r *Rig) Stop() error {
	r.once.Do(func() {
		r.stop()
		select {
		case r.err = <-r.done:
		case <-time.After(Patience):
			r.err = fmt.Errorf("did not return within %v of its context's end", Patience)
		}
	})
	return r.err
}

// Loopback is a services.Net on the kernel's 127.0.0.1.
type Loopback struct{}

// Listen binds 127.0.0.1:port.
func (Loopback) Listen(port uint16) (net.Listener, error) {
	return net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)})
}

// ListenPacket binds 127.0.0.1:port.
func (Loopback) ListenPacket(port uint16) (net.PacketConn, error) {
	return net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)})
}

// Dial connects from 127.0.0.1:localPort.
func (Loopback) Dial(ctx context.Context, network string, localPort uint16, remote netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{}
	ip := net.IPv4(127, 0, 0, 1)
	if remote.Addr().Is6() {
		ip = net.IPv6loopback
	}
	if network == "udp" {
		d.LocalAddr = &net.UDPAddr{IP: ip, Port: int(localPort)}
	} else {
		d.LocalAddr = &net.TCPAddr{IP: ip, Port: int(localPort)}
	}
	return d.DialContext(ctx, network, remote.String())
}

// SendLink is not supported on loopback.
func (Loopback) SendLink(net.HardwareAddr, netip.AddrPort, netip.AddrPort, []byte) error {
	return errors.ErrUnsupported
}
