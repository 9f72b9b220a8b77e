package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"time"

	mdns "github.com/miekg/dns"

	"porthole/services"
)

// maxQuery is the room for a UDP query. What is longer arrives cut off and is
// answered with FORMERR; a query has one question and an OPT record.
const maxQuery = 4096

// udpReaders is how many goroutines read one UDP socket. A reply takes less time
// than the two system calls (or queue operations) around it, so few are enough.
func udpReaders() int { return min(4, runtime.GOMAXPROCS(0)) }

// addrPortConn is what a socket offers that need not allocate an address for each
// packet, as *net.UDPConn does.
type addrPortConn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
}

// anyConn gives any other socket the same shape.
type anyConn struct{ net.PacketConn }

func (c anyConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	n, from, err := c.ReadFrom(b)
	if err != nil {
		return n, netip.AddrPort{}, err
	}
	if u, ok := from.(*net.UDPAddr); ok {
		return n, u.AddrPort(), nil
	}
	ap, err := netip.ParseAddrPort(from.String())
	if err != nil {
		return n, ap, nil // an address without a port: port 0, never answered
	}
	return n, ap, nil
}

func (c anyConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	return c.WriteTo(b, net.UDPAddrFromAddrPort(to))
}

// serveUDP reads queries of one socket and answers each before it reads the next.
func (s *server) serveUDP(ctx context.Context, pc net.PacketConn) error {
	c, ok := pc.(addrPortConn)
	if !ok {
		c = anyConn{pc}
	}
	for failed := 0; ; {
		err := s.readUDP(ctx, c, &failed)
		if err == nil {
			continue // after a fault
		}
		if failed++; !retry(ctx, err, failed) {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("read %v: %w", pc.LocalAddr(), err)
		}
	}
}

// answer has the host answer queries where it reads them, when it can: a reply comes
// from memory, so it waits for nothing. What the host leaves comes to readUDP.
func (s *server) answer(pc net.PacketConn) {
	a, ok := pc.(services.Answerer)
	if !ok {
		return
	}
	r := &responder{opts: s.opts, buf: make([]byte, 0, 4096)}
	a.Answer(func(msg []byte, from netip.AddrPort, reply func([]byte, netip.AddrPort) bool) bool {
		if len(msg) > maxQuery {
			return false
		}
		logged, start := s.begin()
		b := s.respondUDP(r, msg, from)
		if b != nil && !reply(b, from) {
			return false
		}
		if logged && b != nil {
			s.access(from, r, len(b), s.env.Now().Sub(start), "udp")
		}
		return true
	})
}

// readUDP serves until a read fails.
func (s *server) readUDP(ctx context.Context, c addrPortConn, failed *int) error {
	r := &responder{opts: s.opts, buf: make([]byte, 0, 4096)}
	in := make([]byte, maxQuery)
	var from netip.AddrPort
	defer func() { s.contain(recover(), "udp", net.UDPAddrFromAddrPort(from)) }()
	for {
		n, a, err := c.ReadFromUDPAddrPort(in)
		if err != nil {
			return err
		}
		*failed, from = 0, a
		s.answerUDP(ctx, c, r, in[:n], from)
	}
}

// answerUDP answers one datagram.
func (s *server) answerUDP(ctx context.Context, c addrPortConn, r *responder, msg []byte, from netip.AddrPort) {
	logged, start := s.begin()
	reply := s.respondUDP(r, msg, from)
	if reply == nil {
		return
	}
	if _, err := c.WriteToUDPAddrPort(reply, from); err != nil && ctx.Err() == nil {
		s.env.Log.Debug("reply not sent", "client", from, "err", err)
	}
	if logged {
		s.access(from, r, len(reply), s.env.Now().Sub(start), "udp")
	}
}

// begin looks at the clock when a query will have its line.
func (s *server) begin() (logged bool, start time.Time) {
	if logged = s.env.Logged(); logged {
		start = s.env.Now()
	}
	return logged, start
}

// respondUDP is the reply to one datagram; nil for what no answer is owed. Port 0 is
// nobody's: nothing is sent to it.
func (s *server) respondUDP(r *responder, msg []byte, from netip.AddrPort) (reply []byte) {
	if from.Port() != 0 {
		reply = r.respond(s.zones.Load(), msg, false)
	}
	if reply == nil && s.drop() {
		s.logDrop(from, len(msg))
	}
	return reply
}

// access logs the query that r answered last.
func (s *server) access(client fmt.Stringer, r *responder, size int, took time.Duration, transport string) {
	request := "-"
	if r.q.asked {
		qname, _, err := mdns.UnpackDomainName(r.buf, headerLen)
		if err != nil {
			qname = "?"
		}
		request = qname + " " + mdns.Type(r.q.typ).String()
		if r.q.class != mdns.ClassINET {
			request += " " + mdns.Class(r.q.class).String()
		}
	} else if op := int(r.q.flags & maskOpcode >> 11); op != mdns.OpcodeQuery {
		request = fmt.Sprintf("opcode %d", op)
	}
	result := mdns.RcodeToString[r.rcode]
	if r.rcode == mdns.RcodeBadVers {
		result = "BADVERS"
	}
	s.env.Access(client, request, result, took,
		slog.String("transport", transport), slog.Int("bytes", size), slog.Bool("truncated", r.flags&flagTC != 0))
}
