package dns

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// DNS over TCP (RFC 7766). Each connection has one goroutine, which answers the
// queries that are there, in their order, and flushes before it waits: a client
// that sends many at once gets many replies in one segment. A reply and its length
// leave in one write. Bounds: connections in all (one more closes the one that was
// idle longest, RFC 7766, section 6.2.3), queries of a connection, time without a
// query, time for the rest of a message begun, time for the client to take a reply.

// conn is one connection. last is when it had answered its latest query.
type conn struct {
	net.Conn
	last time.Time // guarded by server.connMu
}

// responders holds the reply buffers that TCP connections use while they answer.
var responders = sync.Pool{New: func() any { return &responder{buf: make([]byte, 0, 4096)} }}

func (s *server) serveTCP(ctx context.Context, ln net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for failed := 0; ; {
		nc, err := ln.Accept()
		if err == nil {
			failed = 0
			c := s.admit(ctx, nc)
			wg.Go(func() {
				defer s.release(c)
				defer func() { s.contain(recover(), "tcp", c.RemoteAddr()) }()
				s.serveConn(ctx, c)
			})
			continue
		}
		if failed++; !retry(ctx, err, failed) {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("accept on %v: %w", ln.Addr(), err)
		}
	}
}

// admit takes a connection in and, when that is one too many, closes the one that
// was idle longest. The closed one still ends by itself, a moment later.
func (s *server) admit(ctx context.Context, nc net.Conn) *conn {
	s.connMu.Lock()
	defer s.connMu.Unlock()
	if len(s.conns) >= s.cfg.TCPConnections {
		var oldest *conn
		for c := range s.conns {
			if oldest == nil || c.last.Before(oldest.last) {
				oldest = c
			}
		}
		delete(s.conns, oldest)
		oldest.Close()
		s.env.Log.Debug("closed the idlest connection for a new one", "client", oldest.RemoteAddr(), "for", nc.RemoteAddr())
	}
	c := &conn{Conn: nc, last: s.env.Now()}
	s.conns[c] = struct{}{}
	if ctx.Err() != nil { // closeConns was or will be called: either way it is closed
		nc.Close()
	}
	return c
}

func (s *server) release(c *conn) {
	s.connMu.Lock()
	delete(s.conns, c)
	s.connMu.Unlock()
	c.Close()
}

func (s *server) closeConns() {
	s.connMu.Lock()
	defer s.connMu.Unlock()
	for c := range s.conns {
		c.Close()
	}
}

func (s *server) serveConn(ctx context.Context, c *conn) {
	in := bufio.NewReaderSize(c, 4096)
	out := bufio.NewWriterSize(c, 16384)
	var msg []byte
	var err error
	for range s.cfg.TCPQueries {
		if msg, err = s.readMessage(c, in, out, msg); err != nil {
			break
		}
		if len(msg) < headerLen {
			if s.drop() {
				s.logDrop(c.RemoteAddr(), len(msg))
			}
			break // no DNS client sends this
		}
		if err = s.answerTCP(ctx, c, out, msg); err != nil {
			break
		}
	}
	if err == nil || errors.Is(err, io.EOF) { // what was answered before the client's FIN
		err = s.flush(c, out)
	}
	if err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
		s.env.Log.Debug("connection ended", "client", c.RemoteAddr(), "err", err)
	}
}

// readMessage returns the next message, in msg's room where that suffices. It
// flushes and sets a time limit only when it has to wait.
func (s *server) readMessage(c *conn, in *bufio.Reader, out *bufio.Writer, msg []byte) ([]byte, error) {
	if in.Buffered() == 0 {
		s.touch(c) // before the client has its reply: who was answered is not the idlest
		if err := s.flush(c, out); err != nil {
			return msg, err
		}
		c.SetReadDeadline(s.env.Now().Add(s.cfg.TCPIdle))
		if _, err := in.Peek(1); err != nil {
			return msg, err
		}
	}
	if n := in.Buffered(); n < 2 || n < 2+peekLen(in) {
		if err := s.flush(c, out); err != nil {
			return msg, err
		}
		c.SetReadDeadline(s.env.Now().Add(s.cfg.TCPMessage))
	}
	head, err := in.Peek(2)
	if err != nil {
		return msg, err
	}
	n := int(binary.BigEndian.Uint16(head))
	in.Discard(2)
	if cap(msg) < n {
		msg = make([]byte, n)
	}
	msg = msg[:n]
	_, err = io.ReadFull(in, msg)
	s.touch(c) // who is being answered is not the idlest, however long that takes
	return msg, err
}

// touch says that a connection is not idle now.
func (s *server) touch(c *conn) {
	now := s.env.Now()
	s.connMu.Lock()
	c.last = now
	s.connMu.Unlock()
}

func peekLen(in *bufio.Reader) int {
	head, err := in.Peek(2)
	if err != nil {
		return 0
	}
	return int(binary.BigEndian.Uint16(head))
}

func (s *server) flush(c *conn, out *bufio.Writer) error {
	if out.Buffered() == 0 {
		return nil
	}
	c.SetWriteDeadline(s.env.Now().Add(s.cfg.TCPMessage))
	return out.Flush()
}

// send puts one reply behind its length. Replies that do not fit the writer's
// buffer go out at once, so the time limit is set whenever that may happen.
func (s *server) send(c *conn, out *bufio.Writer, reply []byte) error {
	if out.Available() < 2+len(reply) {
		c.SetWriteDeadline(s.env.Now().Add(s.cfg.TCPMessage))
		if err := out.Flush(); err != nil {
			return err
		}
	}
	var head [2]byte
	binary.BigEndian.PutUint16(head[:], uint16(len(reply)))
	if _, err := out.Write(head[:]); err != nil {
		return err
	}
	_, err := out.Write(reply)
	return err
}

func (s *server) answerTCP(ctx context.Context, c *conn, out *bufio.Writer, msg []byte) error {
	r := responders.Get().(*responder)
	defer responders.Put(r)
	r.opts = s.opts
	logged, start := s.begin()
	reply := r.respond(s.zones.Load(), msg, true)
	if reply == nil {
		if s.drop() {
			s.logDrop(c.RemoteAddr(), len(msg))
		}
		return nil
	}
	size := 0
	emit := func(m []byte) error {
		size += len(m)
		return s.send(c, out, m)
	}
	var err error
	if r.xfr != nil {
		err = r.transfer(r.xfr, msg, emit)
	} else {
		err = emit(reply)
	}
	if logged {
		s.access(c.RemoteAddr(), r, size, s.env.Now().Sub(start), "tcp")
	}
	return err
}
