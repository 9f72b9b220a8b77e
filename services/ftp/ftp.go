// Package ftp is an FTP server (RFC 959, 1123 section 4.1, 2389, 2428, 2640,
// 3659, 7151) on the sockets of the virtual host. It is our own because public
// servers open kernel sockets for their data connections.
//
// Serve owns the listeners and the sessions. A session (session.go) has one
// goroutine that reads control lines, one that runs commands and writes every
// reply, and, while a file or a listing moves, one that moves it: that is how
// NOOP, STAT and ABOR are answered during a transfer. Each waits for those it
// started, and Serve waits for the sessions.
//
// Left out, on purpose: TLS (RFC 4217; AUTH gets 502), block and compressed mode,
// record and page structure, EBCDIC, server-to-server transfers (PORT goes to the
// client's own address alone, RFC 2577), the default data port (a transfer without
// PORT or PASV gets 425), LIST -R, and patterns in any but the last part of a path.
package ftp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"porthole/services"
)

// Service is the FTP server.
var Service = services.Service{
	Name:  "ftp",
	About: "FTP, RFC 959 with 1123, 2389, 2428, 2640, 3659; no TLS, no block mode, no server-to-server",
	Ports: []services.Port{services.TCP(21)},
	Config: func() any {
		c := DefaultConfig()
		return &c
	},
	Serve: serve,
	Probe: probe,
}

// server is what the sessions of one Serve share.
type server struct {
	env      *services.Env
	cfg      *Config
	accounts map[string]*account // by user name; anonymous under "anonymous" and "ftp"

	mu    sync.Mutex
	total int
	from  map[netip.Addr]int
	busy  map[busyKey]bool // files that an upload writes
}

// busyKey names a file across file systems.
type busyKey struct {
	fs   fileSystem
	name string
}

func serve(ctx context.Context, env *services.Env) error {
	cfg, ok := env.Config.(*Config)
	if !ok {
		c := DefaultConfig()
		cfg = &c
	}
	closeListeners := func() {
		for _, ln := range env.TCP {
			ln.Close()
		}
	}
	defer closeListeners()
	accounts, closeFiles, err := openAccounts(env, cfg)
	if err != nil {
		return err
	}
	defer closeFiles()
	srv := &server{
		env: env, cfg: cfg, accounts: accounts,
		from: map[netip.Addr]int{}, busy: map[busyKey]bool{},
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, closeListeners)
	defer stop()
	var wg sync.WaitGroup
	errs := make(chan error, len(env.TCP))
	for _, ln := range env.TCP {
		wg.Go(func() {
			errs <- srv.accept(ctx, ln, &wg)
			cancel() // one listener gone: the service ends, and says why
		})
	}
	if len(env.TCP) == 0 {
		<-ctx.Done()
	}
	wg.Wait()
	close(errs)
	for e := range errs {
		err = errors.Join(err, e)
	}
	return err
}

// accept starts a session per connection until ctx ends. An error that passes
// (too many open files) is retried after a pause that grows to one second.
func (srv *server) accept(ctx context.Context, ln net.Listener, wg *sync.WaitGroup) error {
	pause := time.Duration(0)
	for {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accept on %v: %w", ln.Addr(), err)
			}
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			srv.env.Log.Warn("accept", "on", ln.Addr().String(), "error", err, "retry_in", pause)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pause):
			}
			continue
		}
		pause = 0
		client := addrPort(conn.RemoteAddr())
		if why := srv.admit(client.Addr()); why != "" {
			// The socket is new, so this write finds room and does not wait.
			_ = conn.SetWriteDeadline(srv.env.Now().Add(time.Second))
			fmt.Fprintf(conn, "421 %s; try again later.\r\n", why)
			conn.Close()
			srv.env.Access(conn.RemoteAddr(), "connect", "421", 0, slog.String("why", why))
			continue
		}
		wg.Go(func() {
			defer srv.leave(client.Addr())
			newSession(ctx, srv, conn).run()
		})
	}
}

// admit counts a connection in, or says why it may not stay.
func (srv *server) admit(a netip.Addr) string {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	switch {
	case srv.total >= srv.cfg.MaxConnections:
		return fmt.Sprintf("All %d connections are in use", srv.cfg.MaxConnections)
	case srv.from[a] >= srv.cfg.MaxPerClient:
		return fmt.Sprintf("All %d connections that one client may have are in use", srv.cfg.MaxPerClient)
	}
	srv.total++
	srv.from[a]++
	return ""
}

func (srv *server) leave(a netip.Addr) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.total--
	if srv.from[a]--; srv.from[a] == 0 {
		delete(srv.from, a)
	}
}

// claim marks a file as being written, so that two uploads never mix in it (450).
func (srv *server) claim(k busyKey) bool {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if srv.busy[k] {
		return false
	}
	srv.busy[k] = true
	return true
}

func (srv *server) release(k busyKey) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	delete(srv.busy, k)
}

// probe expects the greeting, and a farewell to QUIT.
func probe(ctx context.Context, env *services.Env, port services.Port) error {
	conn, err := env.Net.Dial(ctx, "tcp", 0, env.Host.AddrPort(port.Number))
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	for _, step := range []struct{ send, want string }{{"", "220"}, {"QUIT\r\n", "221"}} {
		if _, err := conn.Write([]byte(step.send)); step.send != "" && err != nil {
			return fmt.Errorf("probe %v: %w", port, err)
		}
		got, err := readReply(conn)
		if err != nil {
			return fmt.Errorf("probe %v: %w", port, err)
		}
		if got != step.want {
			return fmt.Errorf("probe %v: got reply %q, want %s", port, got, step.want)
		}
	}
	return nil
}

// readReply reads one single-line reply and returns its code.
func readReply(conn net.Conn) (string, error) {
	var line []byte
	var b [1]byte
	for len(line) < maxLine {
		if _, err := conn.Read(b[:]); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			break
		}
		line = append(line, b[0])
	}
	return string(line[:min(3, len(line))]), nil
}

// addrPort takes the address out of a net.Addr, IPv4 unmapped.
func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	ap, _ := netip.ParseAddrPort(a.String())
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
