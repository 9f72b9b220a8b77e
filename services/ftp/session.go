package ftp

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"porthole/services"
)

const (
	// maxPending bounds the commands that wait for a transfer to end. While so many
	// wait, the control connection is not read, and its peer's window closes.
	maxPending = 32
	// replyTimeout bounds the wait for a client that does not read its replies.
	replyTimeout = 30 * time.Second
	// lingerTimeout bounds the wait for a client to close after the last reply.
	lingerTimeout = time.Second
)

// session is one control connection. run owns every field; the reader sends it
// lines over in, and a transfer sends it one outcome over its own channel. Commands
// run one at a time, in order. While a transfer runs, NOOP, STAT and ABOR are
// answered at once and every other command waits for its end, QUIT included (RFC
// 959 section 5.4: replies come in the order of their commands).
type session struct {
	srv    *server
	env    *services.Env
	cfg    *Config
	ctx    context.Context
	cancel context.CancelFunc
	conn   net.Conn
	out    *bufio.Writer
	in     chan input
	wg     sync.WaitGroup
	client netip.AddrPort
	local  netip.AddrPort

	pending []input
	hungup  bool // the client closed its side after QUIT was queued
	quit    bool // the last reply is written
	last    int  // code of the last reply
	began   time.Time
	greeted time.Time

	user    string // what USER said; "" before it
	tries   int
	acct    *account // who is logged in, else nil
	waiting *account // whose ACCT is awaited

	cwd      string
	ascii    bool
	rest     int64
	renaming string // from RNFR, for the very next command
	facts    factSet
	epsvAll  bool
	passive  *passive
	active   netip.AddrPort // of PORT or EPRT; zero without
	xfer     *transfer
}

func newSession(ctx context.Context, srv *server, conn net.Conn) *session {
	s := &session{
		srv: srv, env: srv.env, cfg: srv.cfg, conn: conn,
		in:     make(chan input),
		client: addrPort(conn.RemoteAddr()), local: addrPort(conn.LocalAddr()),
	}
	s.ctx, s.cancel = context.WithCancel(ctx)
	s.out = bufio.NewWriterSize(replyWriter{s}, 2048)
	s.reset()
	return s
}

// reset is the state after the greeting, and after REIN.
func (s *session) reset() {
	s.user, s.acct, s.waiting = "", nil, nil
	s.cwd, s.ascii, s.rest, s.renaming = "/", true, 0, ""
	s.facts, s.epsvAll = allFacts, false
	s.dropData()
}

// replyWriter bounds each write; once the service stops it gives little time.
type replyWriter struct{ s *session }

func (w replyWriter) Write(b []byte) (int, error) {
	limit := replyTimeout
	if w.s.ctx.Err() != nil {
		limit = lingerTimeout
	}
	_ = w.s.conn.SetWriteDeadline(w.s.env.Now().Add(limit))
	return w.s.conn.Write(b)
}

func (s *session) run() {
	defer s.end()
	stop := context.AfterFunc(s.ctx, func() { // frees a write that waits
		_ = s.conn.SetWriteDeadline(s.env.Now().Add(lingerTimeout))
	})
	defer stop()
	s.wg.Go(s.read)

	s.greeted = s.env.Now()
	s.reply(220, "%s", s.greeting())
	idle := time.NewTimer(s.patience())
	defer idle.Stop()
	for s.out.Flush() == nil && !s.quit {
		if len(s.pending) > 0 && (s.xfer == nil || isAbor(s.pending[0]) && !s.xfer.aborted) {
			in := s.pending[0]
			s.pending = s.pending[1:]
			s.handle(in, true)
			idle.Reset(s.patience())
			continue
		}
		var done <-chan outcome
		var tooLong <-chan time.Time
		in := s.in
		if s.xfer == nil {
			tooLong = idle.C
		} else {
			done = s.xfer.done
			if len(s.pending) >= maxPending {
				in = nil
			}
		}
		select {
		case next := <-in:
			s.handle(next, false)
		case o := <-done:
			if s.ctx.Err() != nil && o.code != 226 { // the stop ended it, and gets 421
				s.finishQuietly(o)
			} else {
				s.finish(o)
			}
		case <-tooLong:
			s.reply(421, "No command for too long; closing.")
			s.quit = true
		case <-s.ctx.Done():
			s.reply(421, "The service is stopping.")
			s.quit = true
		}
		idle.Reset(s.patience())
	}
}

// patience is how long the session may stay without a command. Before the login
// it counts from the greeting, so that no command prolongs it.
func (s *session) patience() time.Duration {
	if s.acct == nil {
		return min(s.cfg.IdleTimeout, max(0, s.cfg.LoginTimeout-s.env.Now().Sub(s.greeted)))
	}
	return s.cfg.IdleTimeout
}

// read cuts the control connection into inputs until it ends. A token bucket of
// one second's depth holds it to CommandsPerSecond.
func (s *session) read() {
	lr := newLineReader(s.conn)
	gap := time.Second / time.Duration(s.cfg.CommandsPerSecond)
	next := s.env.Now()
	for {
		in := lr.next()
		select {
		case s.in <- in:
		case <-s.ctx.Done():
			return
		}
		if in.err != nil {
			return
		}
		now := s.env.Now()
		if next = next.Add(gap); next.Before(now.Add(-time.Second)) {
			next = now.Add(-time.Second)
		}
		if wait := next.Sub(now); wait > 0 {
			select {
			case <-time.After(wait):
			case <-s.ctx.Done():
				return
			}
		}
	}
}

// end lets go of everything, in the order in which things may still write.
func (s *session) end() {
	if s.xfer != nil {
		s.xfer.cancel()
		s.finishQuietly(<-s.xfer.done)
	}
	s.dropData()
	_ = s.out.Flush()
	if s.quit && !s.hungup {
		// Closing with unread input would reset the connection and could take the
		// last reply with it, so the client gets a moment to close first.
		if cw, ok := s.conn.(interface{ CloseWrite() error }); ok && cw.CloseWrite() == nil {
			late := time.AfterFunc(lingerTimeout, s.cancel)
			for gone := false; !gone; {
				select {
				case in := <-s.in:
					gone = in.err != nil
				case <-s.ctx.Done():
					gone = true
				}
			}
			late.Stop()
		}
	}
	s.cancel()
	s.conn.Close()
	s.wg.Wait()
}

// handle takes one input, from the client or, when its turn has come, from those
// that waited. Nothing but QUIT outlives the client's end of stream.
func (s *session) handle(in input, waited bool) {
	switch {
	case in.telnet != nil:
		_, _ = s.out.Write(in.telnet)
		return
	case in.err != nil:
		if s.xfer != nil && s.queuedQuit() {
			s.pending = append(s.pending, in)
			return
		}
		if in.err == errSkipped {
			s.reply(421, "Too much without a line end; closing.")
		} else {
			s.hungup = true
		}
		s.quit = true
		return
	}
	verb, arg, ok := parseLine(in.line)
	if s.xfer != nil {
		switch {
		case s.xfer.aborted: // ABOR is answered when the transfer has ended, and before this
			s.pending = append(s.pending, in)
			return
		case verb == "ABOR" && (waited || len(s.pending) == 0):
		case verb == "ABOR": // ends the transfer now, but is answered in its turn
			s.xfer.cancel()
			s.pending = append(s.pending, in)
			return
		case len(s.pending) == 0 && (verb == "NOOP" || verb == "STAT" && strings.TrimSpace(arg) == ""):
		default:
			s.pending = append(s.pending, in)
			return
		}
	}
	s.began = s.env.Now()
	s.last = 0
	switch {
	case in.tooLong:
		s.reply(500, "Line longer than %d bytes.", maxLine)
	case !ok:
		s.reply(500, "That is no command; HELP lists them.")
	default:
		s.dispatch(verb, arg)
	}
	if s.last != 0 { // a transfer logs itself when it ends
		s.access(requestText(in.line, verb), fmt.Sprint(s.last))
	}
}

func isAbor(in input) bool {
	verb, _, ok := parseLine(in.line)
	return ok && verb == "ABOR"
}

func (s *session) queuedQuit() bool {
	for _, p := range s.pending {
		if verb, _, ok := parseLine(p.line); ok && verb == "QUIT" {
			return true
		}
	}
	return false
}

// requestText is a command as the log may show it: never a secret, never long.
func requestText(line, verb string) string {
	if verb == "PASS" || verb == "ACCT" {
		return verb + " ***"
	}
	return line[:min(len(line), 256)]
}

func (s *session) access(request, result string, attrs ...slog.Attr) {
	if s.acct != nil {
		attrs = append(attrs, slog.String("user", s.acct.name))
	}
	s.env.Access(s.conn.RemoteAddr(), request, result, s.env.Now().Sub(s.began), attrs...)
}

// reply queues a one-line reply. What a client sent may be in it; see clean.
func (s *session) reply(code int, format string, args ...any) {
	s.last = code
	s.line("%d %s", code, fmt.Sprintf(format, args...))
}

// replyLines queues a reply of several lines. Inner lines begin with a space, so
// that none is taken for the last one (RFC 959, 4.2).
func (s *session) replyLines(code int, first string, inner []string, last string) {
	s.last = code
	s.line("%d-%s", code, first)
	for _, l := range inner {
		s.line(" %s", l)
	}
	s.line("%d %s", code, last)
}

// line writes one line. It keeps line ends out of the middle and doubles IAC.
func (s *session) line(format string, args ...any) {
	b := []byte(clean(fmt.Sprintf(format, args...)))
	if bytes.IndexByte(b, telnetIAC) >= 0 {
		b = bytes.ReplaceAll(b, []byte{telnetIAC}, []byte{telnetIAC, telnetIAC})
	}
	_, _ = s.out.Write(append(b, '\r', '\n')) // an error stays in out, and ends run
}

// clean replaces the characters that would break a line of a reply or a listing.
func clean(text string) string {
	if plain(text) {
		return text
	}
	return strings.NewReplacer("\x00", "?", "\r", "?", "\n", "?").Replace(text)
}

func (s *session) greeting() string {
	if s.cfg.Banner != "" {
		return s.cfg.Banner
	}
	return fmt.Sprintf("%s FTP (porthole %s) ready.", s.env.Host.Name, s.env.Host.Version)
}
