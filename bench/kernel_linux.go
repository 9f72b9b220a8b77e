package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"porthole/services"
	"porthole/services/all"
	"porthole/services/http"
)

// probeTimeout is for all services together, which answer in milliseconds.
const probeTimeout = 10 * time.Second

// serveKernel runs the catalogue on the kernel's sockets until ctx ends: what
// porthole is compared with. ready is called when all services were probed.
func serveKernel(ctx context.Context, mtu int, log *slog.Logger, ready func()) error {
	facts := services.Host{
		Name: "porthole", Zone: zone, Addr4: netip.MustParsePrefix(host + "/24"), Peer4: netip.MustParseAddr(client),
		MTU: mtu, Version: "bench", Started: time.Now(),
	}
	var ports []services.PortInfo
	for _, s := range all.Services() {
		for _, p := range s.Ports {
			ports = append(ports, services.PortInfo{Port: p, Service: s.Name, About: s.About})
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // who returns an error does not wait for services that go on
	var envs []*services.Env
	for _, s := range all.Services() {
		env := &services.Env{
			Host: facts, Log: log, Now: time.Now, Net: kernelNet{},
			Ports: func() []services.PortInfo { return ports },
		}
		if s.Config != nil {
			env.Config = s.Config()
		}
		if c, ok := env.Config.(*http.Config); ok {
			c.MaxConnections = 2 * idleConns
		}
		if err := bind(env, s.Ports); err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		envs = append(envs, env)
		wg.Go(func() {
			if err := s.Serve(ctx, env); err != nil {
				fmt.Println("bench:", s.Name, err) // instead of "ready" or "ok": ends the run
			}
		})
	}
	probed, done := context.WithTimeout(ctx, probeTimeout)
	defer done()
	for i, s := range all.Services() {
		for _, p := range s.Ports {
			if err := s.Probe(probed, envs[i], p); err != nil {
				return fmt.Errorf("%s does not answer on %v: %w", s.Name, p, err)
			}
		}
	}
	ready()
	<-ctx.Done()
	return nil
}

func bind(env *services.Env, ports []services.Port) error {
	for _, p := range ports {
		if p.Proto == "tcp" {
			ln, err := env.Net.Listen(p.Number)
			if err != nil {
				return err
			}
			env.TCP = append(env.TCP, ln)
			continue
		}
		pc, err := env.Net.ListenPacket(p.Number)
		if err != nil {
			return err
		}
		env.UDP = append(env.UDP, pc)
	}
	return nil
}

// kernelNet is services.Net on the kernel's own sockets.
type kernelNet struct{}

func (kernelNet) Listen(port uint16) (net.Listener, error) {
	return net.ListenTCP("tcp4", &net.TCPAddr{Port: int(port)})
}

func (kernelNet) ListenPacket(port uint16) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: option(unix.SO_BROADCAST)}
	return lc.ListenPacket(context.Background(), "udp4", fmt.Sprintf(":%d", port))
}

func (kernelNet) Dial(ctx context.Context, network string, localPort uint16, remote netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{Control: option(unix.SO_REUSEADDR)}
	if network == "udp" {
		d.LocalAddr = &net.UDPAddr{Port: int(localPort)}
	} else {
		d.LocalAddr = &net.TCPAddr{Port: int(localPort)}
	}
	return d.DialContext(ctx, network, remote.String())
}

func (kernelNet) SendLink(net.HardwareAddr, netip.AddrPort, netip.AddrPort, []byte) error {
	return errors.ErrUnsupported
}

// option switches a socket option on.
func option(name int) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) (err error) {
		cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, name, 1) })
		return errors.Join(cerr, err)
	}
}
