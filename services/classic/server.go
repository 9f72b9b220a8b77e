package classic

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"porthole/services"
)

// server owns the connections: one goroutine each, at most MaxConnections, all
// closed and waited for at the end. A slot is taken before a connection is
// accepted, so the surplus waits in the port's accept queue.
type server struct {
	handlers
	env   *services.Env
	cfg   *Config
	slots chan struct{}
	done  chan struct{}
	next  chan net.Conn // to a spare goroutine
	spare atomic.Int32
	conns sync.WaitGroup // goroutines that have one, or are spare

	mu     sync.Mutex
	open   map[net.Conn]struct{}
	closed bool
}

func newServer(h handlers, env *services.Env, cfg *Config) *server {
	return &server{
		handlers: h, env: env, cfg: cfg,
		slots: make(chan struct{}, cfg.MaxConnections),
		next:  make(chan net.Conn),
		done:  make(chan struct{}),
		open:  map[net.Conn]struct{}{},
	}
}

// close closes every socket. Waiting reads, writes and accepts return.
func (s *server) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	close(s.done)
	for _, ln := range s.env.TCP {
		ln.Close()
	}
	for _, pc := range s.env.UDP {
		pc.Close()
	}
	for c := range s.open {
		c.Close()
	}
}

func (s *server) add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.open[c] = struct{}{}
	select {
	case s.next <- c:
	default:
		s.conns.Go(func() { s.work(c) })
	}
	return true
}

func (s *server) remove(c net.Conn) {
	c.Close()
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	<-s.slots
}

// maxSpare goroutines at most wait for another connection when theirs has ended. Their
// stacks have grown to what a write through the host's stack takes: to grow a new one
// each time would be a tenth of what a short connection costs.
const maxSpare = 32

func (s *server) work(c net.Conn) {
	for {
		s.converse(c)
		if s.spare.Add(1) > maxSpare {
			s.spare.Add(-1)
			return
		}
		select {
		case c = <-s.next:
			s.spare.Add(-1)
		case <-s.done:
			return
		}
	}
}

// acceptAll returns nil when the service ends, else why it cannot go on.
func (s *server) acceptAll(ln net.Listener) error {
	for {
		select {
		case s.slots <- struct{}{}:
		case <-s.done:
			return nil
		}
		c, err := ln.Accept()
		if err != nil {
			<-s.slots
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accept: %w", err)
			}
			// Out of descriptors, or the peer was gone before we looked.
			s.env.Log.Debug("accept", "error", err)
			if !s.pause() {
				return nil
			}
			continue
		}
		if !s.add(c) {
			<-s.slots
			c.Close()
			return nil
		}
	}
}

// pause keeps a failing socket from spinning. It reports whether to go on.
func (s *server) pause() bool {
	t := time.NewTimer(10 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.done:
		return false
	}
}

func (s *server) converse(c net.Conn) {
	defer s.remove(c)
	began := s.env.Now()
	n, err := s.tcp(c, s.cfg.IdleTimeout)
	result := "closed"
	switch {
	case isTimeout(err):
		result = "idle"
	case err != nil:
		result = "aborted"
	}
	s.env.Access(c.RemoteAddr(), s.name+"/tcp", result, s.env.Now().Sub(began), slog.Int64("bytes", n))
}

// answerInline has the host answer where it reads, when it can: the handlers wait for
// nothing. answerAll gets the rest.
func (s *server) answerInline(pc net.PacketConn) {
	a, ok := pc.(services.Answerer)
	if !ok {
		return
	}
	a.Answer(func(msg []byte, from netip.AddrPort, reply func([]byte, netip.AddrPort) bool) bool {
		logs, began := s.begin()
		answer, result := s.udp(msg, from.Port())
		if answer != nil && !reply(answer, from) {
			return false
		}
		if logs {
			s.access(from, result, began, len(msg))
		}
		return true
	})
}

// answerAll takes one datagram after another, in one buffer.
func (s *server) answerAll(pc net.PacketConn) error {
	s.answerInline(pc)
	buf := make([]byte, datagramSize)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("read: %w", err)
			}
			if !s.pause() {
				return nil
			}
			continue // an ICMP error of an earlier answer, on some systems
		}
		logs, began := s.begin()
		answer, result := s.udp(buf[:n], portOf(from))
		if answer != nil {
			if _, err := pc.WriteTo(answer, from); err != nil {
				result = "unsent: " + err.Error()
			}
		}
		if logs {
			s.access(from, result, began, n)
		}
	}
}

// begin looks at the clock when a datagram will have its line. A flood pays for lines
// only while somebody reads them.
func (s *server) begin() (logs bool, began time.Time) {
	if logs = s.env.Logged(); logs {
		began = s.env.Now()
	}
	return logs, began
}

// access logs one datagram of n bytes.
func (s *server) access(from fmt.Stringer, result string, began time.Time, n int) {
	s.env.Access(from, s.name+"/udp", result, s.env.Now().Sub(began), slog.Int("bytes", n))
}

// portOf is the port of a socket address, 0 when it has none.
func portOf(a net.Addr) uint16 {
	if u, ok := a.(*net.UDPAddr); ok {
		return u.AddrPort().Port()
	}
	ap, _ := netip.ParseAddrPort(a.String())
	return ap.Port()
}
