package ftp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"porthole/services"
)

// A data connection is either passive (the client comes to a listener that PASV or
// EPSV opened) or active (we go from the port below the control port, RFC 959
// section 3.2, to where PORT or EPRT said). Both join us with the address that the
// control connection comes from, and no other: an active one to anywhere else would
// make us a tool for scanning (RFC 2577), a passive one from anywhere else is
// somebody who steals a file.

// passive is an open data listener. accept owns ln and closes it after the one
// connection it wants, or when time is up; got holds that connection, or is closed.
type passive struct {
	ln    net.Listener
	got   chan net.Conn
	timer *time.Timer
}

// listenPassive binds a port of the configured range, at random so that ports are
// hard to guess, trying each at most once.
func (s *session) listenPassive() (*passive, error) {
	ln, err := listenRange(s.env.Net, s.cfg.PassivePorts)
	if err != nil {
		return nil, err
	}
	p := &passive{ln: ln, got: make(chan net.Conn, 1)}
	p.timer = time.AfterFunc(s.cfg.DataConnectTimeout, func() { ln.Close() })
	s.wg.Go(func() { p.accept(s) })
	return p, nil
}

func listenRange(n services.Net, r PortRange) (net.Listener, error) {
	if r == (PortRange{}) {
		return n.Listen(0)
	}
	size := int(r.High) - int(r.Low) + 1
	first := rand.IntN(size)
	var err error
	for i := range size {
		var ln net.Listener
		if ln, err = n.Listen(r.Low + uint16((first+i)%size)); err == nil {
			return ln, nil
		}
	}
	return nil, fmt.Errorf("no free port in %v: %w", r, err)
}

func (p *passive) accept(s *session) {
	defer close(p.got)
	defer p.ln.Close()
	defer p.timer.Stop()
	for {
		conn, err := p.ln.Accept()
		if err != nil {
			return
		}
		if from := addrPort(conn.RemoteAddr()).Addr(); from != s.client.Addr() {
			s.env.Log.Warn("foreign data connection refused", "from", from.String(), "session", s.client.String())
			conn.Close()
			continue
		}
		p.got <- conn
		return
	}
}

// close ends the listener and whatever came over it: no client may take that for a file.
func (p *passive) close() {
	p.ln.Close()
	for conn := range p.got {
		abortConn(conn)
	}
}

// dropData forgets PORT and PASV.
func (s *session) dropData() {
	s.active = netip.AddrPort{}
	if s.passive != nil {
		s.passive.close()
		s.passive = nil
	}
}

// connector says how the next transfer gets its data connection. A passive one serves once; PORT stays until replaced.
// It is nil when neither PORT nor PASV was given: the default data port of RFC 959
// is the client's own control port, which no client listens on.
func (s *session) connector() func(context.Context) (net.Conn, error) {
	if p := s.passive; p != nil {
		s.passive = nil
		p.timer.Reset(s.cfg.DataConnectTimeout)
		return p.connect
	}
	to := s.active
	if !to.IsValid() {
		return nil
	}
	return func(ctx context.Context) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, s.cfg.DataConnectTimeout)
		defer cancel()
		conn, err := s.env.Net.Dial(ctx, "tcp", s.local.Port()-1, to)
		if err != nil && s.cfg.ActiveFallback && ctx.Err() == nil {
			conn, err = s.env.Net.Dial(ctx, "tcp", 0, to)
		}
		return conn, err
	}
}

var errNobodyCame = errors.New("nobody connected in time")

func (p *passive) connect(ctx context.Context) (net.Conn, error) {
	select {
	case conn, ok := <-p.got:
		if ok {
			return conn, nil
		}
		return nil, errNobodyCame
	case <-ctx.Done():
		p.close()
		return nil, ctx.Err()
	}
}

func (s *session) cmdPasv(string) {
	if s.epsvAll {
		s.reply(501, "After EPSV ALL only EPSV is allowed.")
		return
	}
	if !s.local.Addr().Is4() {
		s.reply(425, "PASV speaks IPv4 alone; use EPSV.")
		return
	}
	port, ok := s.openPassive()
	if !ok {
		return
	}
	a := s.local.Addr().As4()
	s.reply(227, "Entering Passive Mode (%d,%d,%d,%d,%d,%d).", a[0], a[1], a[2], a[3], port>>8, port&0xff)
}

func (s *session) cmdEpsv(arg string) {
	switch strings.ToUpper(arg) {
	case "ALL":
		s.epsvAll = true
		s.reply(200, "From now on EPSV alone.")
		return
	case "", s.family():
	default:
		if !isNumber(arg) {
			s.reply(501, "Syntax: EPSV %s", commands["EPSV"].syntax)
			return
		}
		s.reply(522, "Network protocol not supported, use (%s)", s.family())
		return
	}
	if port, ok := s.openPassive(); ok {
		s.reply(229, "Entering Extended Passive Mode (|||%d|)", port)
	}
}

// family is RFC 2428's number of the control connection's address family; a data
// connection has the same, for it comes from the same address.
func (s *session) family() string {
	if s.client.Addr().Is4() {
		return "1"
	}
	return "2"
}

// openPassive replaces whatever data connection was arranged before.
func (s *session) openPassive() (port uint16, ok bool) {
	s.dropData()
	p, err := s.listenPassive()
	if err != nil {
		s.env.Log.Warn("passive listen", "error", err)
		s.reply(425, "No port is free for a data connection; try again later.")
		return 0, false
	}
	s.passive = p
	return addrPort(p.ln.Addr()).Port(), true
}

func (s *session) cmdPort(arg string) {
	if s.epsvAll {
		s.reply(501, "After EPSV ALL only EPSV is allowed.")
		return
	}
	to, ok := parsePort(arg)
	if !ok {
		s.reply(501, "Syntax: PORT %s", commands["PORT"].syntax)
		return
	}
	s.setActive(to)
}

func (s *session) cmdEprt(arg string) {
	if s.epsvAll {
		s.reply(501, "After EPSV ALL only EPSV is allowed.")
		return
	}
	proto, to, ok := parseEprt(arg)
	switch {
	case !ok:
		s.reply(501, "Syntax: EPRT %s", commands["EPRT"].syntax)
	case proto != "1" && proto != "2":
		s.reply(522, "Network protocol not supported, use (1,2)")
	case proto != s.family():
		s.reply(522, "Network protocol not supported, use (%s)", s.family())
	default:
		s.setActive(to)
	}
}

func (s *session) setActive(to netip.AddrPort) {
	switch {
	case to.Addr() != s.client.Addr().WithZone(""):
		s.reply(504, "Data connections go to your own address %v alone.", s.client.Addr())
	case to.Port() < 1024:
		s.reply(504, "Data connections go to ports from 1024 up.")
	default:
		s.dropData()
		s.active = netip.AddrPortFrom(s.client.Addr(), to.Port()) // with its zone
		s.reply(200, "Data connections will go to port %d.", to.Port())
	}
}

// parsePort takes six decimal octets with commas between.
func parsePort(arg string) (netip.AddrPort, bool) {
	f := strings.Split(arg, ",")
	if len(f) != 6 {
		return netip.AddrPort{}, false
	}
	var b [6]byte
	for i, t := range f {
		n, err := strconv.ParseUint(t, 10, 8)
		if err != nil {
			return netip.AddrPort{}, false
		}
		b[i] = byte(n)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[:4])), uint16(b[4])<<8|uint16(b[5])), true
}

// parseEprt takes |proto|address|port| with any printable delimiter (RFC 2428
// section 2). Of an unknown protocol only the form is checked.
func parseEprt(arg string) (proto string, to netip.AddrPort, ok bool) {
	if len(arg) < 1 || arg[0] < 33 || arg[0] > 126 {
		return "", to, false
	}
	f := strings.Split(arg, arg[:1])
	if len(f) != 5 || f[0] != "" || f[4] != "" || !isNumber(f[1]) {
		return "", to, false
	}
	port, err := strconv.ParseUint(f[3], 10, 16)
	if err != nil {
		return "", to, false
	}
	proto = f[1]
	if proto != "1" && proto != "2" {
		return proto, to, true
	}
	a, err := netip.ParseAddr(f[2])
	if err != nil || a.Zone() != "" || a.Is4() != (proto == "1") {
		return "", to, false
	}
	return proto, netip.AddrPortFrom(a.Unmap(), uint16(port)), true
}
