package http

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// response is the http.ResponseWriter that every endpoint gets. It counts for the
// access line, gives a stream of HTTP/2 its write deadline (HTTP/1 has conn's),
// and turns the failure of a handler whose request body was too long or too slow
// into the status that says so.
type response struct {
	http.ResponseWriter
	status   int   // 0 until the header is written
	bytes    int64 // of the body
	body     *body // of the request; nil when it has none
	http2    bool
	upgraded bool                // answered as an HTTP/2 request instead
	moved    func(string) string // what to make of the handler's Location; nil leaves it
	timeout  time.Duration
	armed    time.Time // when the stream's write deadline was set
}

// Unwrap lets http.ResponseController reach what this type does not wrap.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(status int) {
	if w.status != 0 {
		return // net/http would log it; the first header is the one that was sent
	}
	if w.body != nil && status >= 400 {
		var last bool
		if status, last = w.body.status(status); last && !w.http2 {
			w.Header().Set("Connection", "close")
		}
	}
	if to := w.Header().Get("Location"); w.moved != nil && to != "" {
		w.Header().Set("Location", w.moved(to))
	}
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.status = status
	}
	w.arm()
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.arm()
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	if w.body != nil && w.bytes > sentHeader {
		w.body.release()
	}
	return n, err
}

// sentHeader is more than net/http holds back before it sends a header, and with
// it what it skips of an unread request body.
const sentHeader = 8 << 10

// ReadFrom is io.Copy's short way: a blob needs no copy at all, and for files
// 64 KiB at a time halve the number of writes.
func (w *response) ReadFrom(src io.Reader) (int64, error) {
	if lr, ok := src.(*io.LimitedReader); ok {
		if b, ok := lr.R.(*blob); ok {
			n, err := writePattern(w, b.at, min(lr.N, b.size-b.at))
			b.at += n
			lr.N -= n
			return n, err
		}
	}
	buf := copyBufs.Get().(*[copyBuf]byte)
	defer copyBufs.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{src}, buf[:])
}

const copyBuf = 64 << 10

var copyBufs = sync.Pool{New: func() any { return new([copyBuf]byte) }}

// Flush sends what is buffered.
func (w *response) Flush() { w.FlushError() }

// FlushError is Flush for http.ResponseController.
func (w *response) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.arm()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack hands the connection over (WebSocket). HTTP/2 has none to give.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil && w.status == 0 {
		w.status = http.StatusSwitchingProtocols
	}
	return c, rw, err
}

// arm renews the write deadline of an HTTP/2 stream: a peer may keep its
// connection alive and never open the stream's window.
func (w *response) arm() {
	if !w.http2 {
		return
	}
	now := time.Now() // a deadline is compared with the wall clock, whatever env.Now says
	if now.Sub(w.armed) < w.timeout/4 {
		return
	}
	w.armed = now
	if d, ok := w.ResponseWriter.(interface{ SetWriteDeadline(time.Time) error }); ok {
		d.SetWriteDeadline(now.Add(w.timeout))
	}
}

// fail answers with a status and one line of text. It is for what the client did
// wrong or may not have, so the text must not quote the request.
func (w *response) fail(status int, text string) {
	if w.body != nil {
		if s, _ := w.body.status(status); s != status {
			status, text = s, ""
		}
	}
	line := strconv.Itoa(status) + " " + http.StatusText(status)
	if text != "" {
		line += ": " + text
	}
	w.text(status, line+"\n")
}

// text answers with plain text.
func (w *response) text(status int, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	io.WriteString(w, text)
}
