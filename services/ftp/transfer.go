package ftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// bufferSize is what one read or write of a transfer moves at most.
const bufferSize = 256 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// transfer is one file or listing on its way over a data connection. Its goroutine
// owns the connection and the file, closes both, and sends one outcome; the session
// only looks at moved, and ends it early with cancel, which closes the connection.
// In stream mode the end of the connection is the end of the file, so a transfer
// that failed resets its connection rather than end it well.
type transfer struct {
	request string // for the log and STAT: "RETR /pub/a"
	size    int64  // of the whole file, -1 when unknown
	started time.Time
	moved   atomic.Int64
	cancel  context.CancelFunc
	aborted bool // by ABOR
	done    chan outcome

	now  func() time.Time
	idle time.Duration
	conn net.Conn
}

// outcome is how a transfer ended: the reply that it gets.
type outcome struct {
	code int
	text string
}

// dataError is a failure of the data connection; every other one is the file's.
type dataError struct{ err error }

func (e dataError) Error() string { return e.err.Error() }
func (e dataError) Unwrap() error { return e.err }

// begin replies 150 and moves in a goroutine of its own. A data connection that is
// there already would allow 125, but clients look for the size in 150 alone. It closes with release
// in any case. note goes into the reply; clients look there for "(N bytes)".
func (s *session) begin(request, note string, size int64, move func(*transfer) error, release func() error) {
	connect := s.connector()
	if connect == nil {
		_ = release()
		s.reply(425, "No data connection is arranged; give EPSV, PASV, EPRT or PORT first.")
		return
	}
	kind := "ASCII"
	if !s.ascii {
		kind = "BINARY"
	}
	switch {
	case note == "":
		s.reply(150, "Opening %s mode data connection.", kind)
	case note[0] == '(':
		s.reply(150, "Opening %s mode data connection %s.", kind, note)
	default:
		s.reply(150, "%s", note)
	}
	s.last = 0 // the outcome is what counts
	ctx, cancel := context.WithCancel(s.ctx)
	x := &transfer{
		request: request, size: size, started: s.began, cancel: cancel,
		done: make(chan outcome, 1), now: s.env.Now, idle: s.cfg.DataIdleTimeout,
	}
	s.xfer = x
	s.wg.Go(func() {
		defer cancel()
		x.done <- x.run(ctx, connect, move, release)
	})
}

func (x *transfer) run(ctx context.Context, connect func(context.Context) (net.Conn, error), move func(*transfer) error, release func() error) outcome {
	conn, err := connect(ctx)
	if err != nil {
		_ = release()
		if ctx.Err() != nil {
			return outcome{426, "Transfer aborted before the data connection was there."}
		}
		return outcome{425, "No data connection: " + dialCause(err) + "."}
	}
	x.conn = conn
	stop := context.AfterFunc(ctx, func() { abortConn(conn) })
	err = move(x)
	if e := release(); err == nil {
		err = e
	}
	if !stop() { // the connection is closed, or about to be
		return outcome{426, "Transfer aborted."}
	}
	if err != nil {
		abortConn(conn)
	} else if e := conn.Close(); e != nil {
		err = dataError{e}
	}
	return x.outcome(err)
}

// abortConn ends a connection so that its peer cannot take what it got for all.
func abortConn(conn net.Conn) {
	if l, ok := conn.(interface{ SetLinger(int) error }); ok {
		_ = l.SetLinger(0)
	}
	conn.Close()
}

func dialCause(err error) string {
	var oe *net.OpError
	if errors.As(err, &oe) && oe.Err != nil {
		err = oe.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "it took too long"
	}
	return cause(err)
}

func (x *transfer) outcome(err error) outcome {
	var de dataError
	switch {
	case err == nil:
		return outcome{226, "Transfer complete."}
	case errors.As(err, &de) && errors.Is(err, os.ErrDeadlineExceeded):
		return outcome{426, fmt.Sprintf("No byte moved for %v; transfer aborted.", x.idle)}
	case errors.As(err, &de):
		return outcome{426, "Data connection closed; transfer aborted."}
	case errors.Is(err, errTooLarge):
		return outcome{552, "The file is " + errTooLarge.Error() + "; what came before is kept."}
	}
	return outcome{storageCode(err, 451), "Transfer aborted: " + cause(err) + "."}
}

// status is the line of STAT.
func (x *transfer) status(now time.Time) string {
	took := now.Sub(x.started).Round(time.Millisecond)
	if x.size >= 0 {
		return fmt.Sprintf("%s: %d of %d bytes in %v", x.request, x.moved.Load(), x.size, took)
	}
	return fmt.Sprintf("%s: %d bytes in %v", x.request, x.moved.Load(), took)
}

// finish replies for a transfer that has ended, and for the ABOR that ended it.
func (s *session) finish(o outcome) {
	x := s.xfer
	s.reply(o.code, "%s", o.text)
	s.finishQuietly(o)
	if x.aborted {
		s.reply(226, "ABOR done.")
		s.access("ABOR", "226")
	}
}

// finishQuietly is finish without replies.
func (s *session) finishQuietly(o outcome) {
	x := s.xfer
	s.xfer = nil
	s.began = x.started
	s.access(x.request, fmt.Sprint(o.code), slog.Int64("bytes", x.moved.Load()))
}

// cmdAbor ends the transfer, if any; finish replies. Without one, it closes what
// was arranged for the next (RFC 959, ABOR).
func (s *session) cmdAbor(string) {
	if s.xfer != nil {
		s.xfer.aborted = true
		s.xfer.cancel()
		return
	}
	s.dropData()
	s.reply(226, "No transfer to abort.")
}

// write sends all of b. The idle time begins anew whenever some of it went out, so
// that a slow client is not taken for one that stopped.
func (x *transfer) write(b []byte) error {
	for {
		_ = x.conn.SetWriteDeadline(x.now().Add(x.idle))
		n, err := x.conn.Write(b)
		x.moved.Add(int64(n))
		if n == len(b) && err == nil {
			return nil
		}
		if b = b[n:]; n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return dataError{err}
		}
	}
}

// send moves f, from where it stands to its end, to the client.
func (x *transfer) send(f file, ascii bool) error {
	if to, ok := x.conn.(io.ReaderFrom); ok && !ascii {
		if from, ok := f.(*os.File); ok {
			return x.sendFile(to, from)
		}
	}
	bp := buffers.Get().(*[]byte)
	defer buffers.Put(bp)
	buf, text := *bp, []byte(nil)
	if ascii { // half is read into, the rest holds it when every octet is LF
		buf, text = (*bp)[:bufferSize/3], (*bp)[bufferSize/3:]
	}
	for {
		n, err := f.Read(buf)
		out := buf[:n]
		if ascii {
			out = appendNVT(text[:0], out)
		}
		if len(out) > 0 {
			if err := x.write(out); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// sendFile lets the kernel copy where the connection is the kernel's, in pieces so
// that the idle time is watched and moved grows.
func (x *transfer) sendFile(to io.ReaderFrom, from *os.File) error {
	off, err := from.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	for {
		_ = x.conn.SetWriteDeadline(x.now().Add(x.idle))
		n, err := to.ReadFrom(&io.LimitedReader{R: from, N: 4 * bufferSize})
		x.moved.Add(n)
		off += n
		var pe *os.PathError
		switch {
		case err == nil && n == 0:
			return nil
		case err == nil:
		case errors.As(err, &pe):
			return err
		case n > 0 && errors.Is(err, os.ErrDeadlineExceeded):
			if _, err := from.Seek(off, io.SeekStart); err != nil {
				return err
			}
		default:
			return dataError{err}
		}
	}
}

// receive moves what the client sends into f, room bytes at most.
func (x *transfer) receive(f file, ascii bool, room int64) error {
	bp := buffers.Get().(*[]byte)
	defer buffers.Put(bp)
	buf, text := *bp, []byte(nil)
	if ascii { // a CR that was held back may add one octet to a piece
		buf, text = (*bp)[:bufferSize/2-1], (*bp)[bufferSize/2-1:]
	}
	held := false
	for {
		_ = x.conn.SetReadDeadline(x.now().Add(x.idle))
		n, err := x.conn.Read(buf)
		x.moved.Add(int64(n))
		end := errors.Is(err, io.EOF)
		in := buf[:n]
		if ascii {
			in, held = appendText(text[:0], in, held)
			if end && held {
				in = append(in, '\r')
			}
		}
		fits := min(int64(len(in)), room)
		if _, werr := f.Write(in[:fits]); werr != nil {
			return werr
		}
		if room -= fits; fits < int64(len(in)) {
			return errTooLarge
		}
		if end {
			return nil
		}
		if err != nil {
			return dataError{err}
		}
	}
}
