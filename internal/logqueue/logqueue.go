// Package logqueue stands before a slog.Handler that may wait, for those who may not.
//
// A record is put into a bounded queue; one goroutine, which Start makes and whose end
// the function that Start returns waits for, hands it to the handler. All loggers that
// derive from one Queue share it, at every level, so that lines keep their order. While
// nothing is wrong the writer lets lines gather for a moment, so that one who answers
// 100,000 requests a second does not wake it as often. A record that finds the queue
// full, by lines or by bytes, is lost, and so is one that the handler fails to write:
// both are counted, and a line says so as soon as the handler takes one again. Before
// Start, and after its end, the handler is called at once: nobody is there who may not wait.
//
// The handler's Enabled, WithAttrs and WithGroup are called by whoever logs. A record is
// resolved later than it is logged: what a LogValue reads must not change, and the context
// is not the caller's.
package logqueue

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// What waits at most. A single line may be longer than MaxBytes.
const (
	MaxLines = 4096
	MaxBytes = 1 << 20 // of text, estimated
)

const (
	gather   = 5 * time.Millisecond // how long lines wait for others
	patience = 5 * time.Second      // of the end, with a handler that does not return
	chunkLen = 64
)

// Queue is the records that wait for one handler.
type Queue struct {
	root slog.Handler

	mu      sync.Mutex
	queued  bool     // between Start and its end; else records go straight to the handler
	ending  bool     // stop waits for what there is: nothing is added to it
	gone    bool     // the writer was given up
	idle    bool     // the writer waits for wake
	chunks  []*chunk // all but the last are full
	spare   *chunk   // free ones
	lines   int      // that wait: in chunks and in the hands of the writer
	bytes   int      // of those
	written uint64
	full    uint64 // lines that found no room, or whose writer was given up
	failed  uint64 // lines that the handler did not write
	unsaid  uint64 // of both, those that no line has told of

	wake  chan struct{} // the first line after idleness
	hurry chan struct{} // many lines, or one that is urgent
	end   chan struct{}
}

// Stats is what became of the lines until now; what is neither written nor lost waits.
type Stats struct {
	Written, Lost uint64
	Waiting       int
}

type chunk struct {
	next *chunk // when it is spare
	n    int
	e    [chunkLen]entry
}

type entry struct {
	to   slog.Handler
	r    slog.Record
	size int
}

// New makes a queue before a handler.
func New(h slog.Handler) *Queue {
	return &Queue{root: h, wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1)}
}

// Logger logs into the queue.
func (q *Queue) Logger() *slog.Logger { return slog.New(&handler{q, q.root}) }

// Stats is a snapshot.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return Stats{q.written, q.full + q.failed, q.lines}
}

// handler is what a logger has: the queue, and who gets its records in the end.
type handler struct {
	q  *Queue
	to slog.Handler
}

func (h *handler) Enabled(ctx context.Context, l slog.Level) bool { return h.to.Enabled(ctx, l) }

func (h *handler) WithAttrs(as []slog.Attr) slog.Handler {
	return &handler{h.q, h.to.WithAttrs(as)}
}

func (h *handler) WithGroup(name string) slog.Handler { return &handler{h.q, h.to.WithGroup(name)} }

// Handle never waits while the queue runs. Its error is the handler's own outside that time.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	size := sizeOf(&r)
	q := h.q
	q.mu.Lock()
	if !q.queued && !q.gone {
		q.mu.Unlock()
		err := h.to.Handle(ctx, r)
		q.mu.Lock()
		q.countLocked(err)
		q.mu.Unlock()
		return err
	}
	if q.ending { // counted, but not said: a handler that logs would have to say it for ever
		q.full++
		q.mu.Unlock()
		return nil
	}
	if q.gone || q.lines > 0 && (q.lines >= MaxLines || q.bytes+size > MaxBytes) {
		q.full++
		q.unsaid++
		q.mu.Unlock()
		return nil
	}
	q.put(entry{h.to, r.Clone(), size})
	wake := q.idle
	q.idle = false
	hurry := q.lines >= MaxLines/4 || r.Level >= slog.LevelWarn
	q.mu.Unlock()
	if wake {
		poke(q.wake)
	}
	if hurry {
		poke(q.hurry)
	}
	return nil
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// sizeOf estimates what a record's text will take.
func sizeOf(r *slog.Record) int {
	n := 32 + len(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		n += attrSize(a)
		return true
	})
	return n
}

func attrSize(a slog.Attr) int {
	switch n := len(a.Key) + 2; a.Value.Kind() {
	case slog.KindString:
		return n + len(a.Value.String())
	case slog.KindAny, slog.KindLogValuer:
		if b, ok := a.Value.Any().([]byte); ok {
			return n + len(b)
		}
		return n + 128
	case slog.KindGroup:
		for _, m := range a.Value.Group() {
			n += attrSize(m)
		}
		return n
	default:
		return n + 16
	}
}

func (q *Queue) put(e entry) {
	last := len(q.chunks) - 1
	if last < 0 || q.chunks[last].n == chunkLen {
		c := q.spare
		if c == nil {
			c = new(chunk)
		} else {
			q.spare, c.next = c.next, nil
		}
		q.chunks = append(q.chunks, c)
		last++
	}
	c := q.chunks[last]
	c.e[c.n] = e
	c.n++
	q.lines++
	q.bytes += e.size
}

// Start has records queued from now on, until stop: it waits until all that was logged
// before is written; what somebody logs meanwhile is lost. A handler that does not
// return for 5 s is given up with what waits for it, and the error says so.
func (q *Queue) Start() (stop func() error) {
	q.mu.Lock()
	q.queued, q.ending, q.idle = true, false, true
	q.end = make(chan struct{})
	q.mu.Unlock()
	over := make(chan struct{})
	go func() {
		defer close(over)
		q.write()
	}()
	return func() error {
		q.mu.Lock()
		q.ending = true
		q.mu.Unlock()
		close(q.end)
		return q.wait(over)
	}
}

// wait waits for the writer as long as it gets on.
func (q *Queue) wait(over <-chan struct{}) error {
	t := time.NewTicker(patience)
	defer t.Stop()
	for seen := q.progress(); ; {
		select {
		case <-over:
			return nil
		case <-t.C:
		}
		if now := q.progress(); now != seen {
			seen = now
			continue
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		if !q.queued { // it has ended just now
			return nil
		}
		n := q.lines
		q.queued, q.gone = false, true
		q.full += uint64(n)
		q.chunks, q.lines, q.bytes = nil, 0, 0
		return fmt.Errorf("log: %d lines are lost: who writes them has not returned for %v", n, patience)
	}
}

func (q *Queue) progress() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.written + q.failed
}

// write hands records on until the end.
func (q *Queue) write() {
	t := time.NewTimer(gather)
	defer t.Stop()
	for ending := false; !ending; {
		select {
		case <-q.wake:
			t.Reset(gather)
			select {
			case <-t.C:
			case <-q.hurry:
			case <-q.end:
				ending = true
			}
		case <-q.end:
			ending = true
		}
		if !q.writeAll(ending) {
			return
		}
	}
}

// writeAll hands on what there is, until there is none: then the writer sleeps, or its
// time is over. It is false when the writer was given up meanwhile.
func (q *Queue) writeAll(ending bool) bool {
	var chunks []*chunk
	for refused := false; ; {
		q.mu.Lock()
		if q.gone {
			q.mu.Unlock()
			return false
		}
		for _, c := range chunks {
			c.next, q.spare = q.spare, c
		}
		unsaid := q.unsaid
		if len(q.chunks) == 0 && (unsaid == 0 || refused) {
			q.idle, q.queued = true, !ending
			q.spare = nil // memory of a burst
			q.mu.Unlock()
			select {
			case <-q.hurry:
			default:
			}
			return true
		}
		chunks, q.chunks = q.chunks, chunks[:0]
		q.mu.Unlock()
		for _, c := range chunks {
			if !q.writeChunk(c) {
				return false
			}
		}
		// What had been lost when they were taken came after the last of them.
		refused = unsaid > 0 && !q.say(unsaid)
	}
}

func (q *Queue) writeChunk(c *chunk) bool {
	for i := range c.e[:c.n] {
		err := handle(c.e[i].to, c.e[i].r)
		size := c.e[i].size
		c.e[i] = entry{}
		q.mu.Lock()
		if q.gone {
			q.mu.Unlock()
			return false
		}
		q.lines--
		q.bytes -= size
		q.countLocked(err)
		q.mu.Unlock()
	}
	c.n = 0
	return true
}

// countLocked counts one line that the handler has had.
func (q *Queue) countLocked(err error) {
	if err == nil {
		q.written++
		return
	}
	q.failed++
	q.unsaid++
}

// say writes the line about lost ones, which is none of those that are counted.
func (q *Queue) say(n uint64) bool {
	level := slog.LevelWarn
	if !q.root.Enabled(context.Background(), level) {
		level = slog.LevelError
	}
	r := slog.NewRecord(time.Now(), level, "log lines lost", 0)
	r.AddAttrs(slog.Uint64("lines", n))
	if handle(q.root, r) != nil {
		return false
	}
	q.mu.Lock()
	q.unsaid -= n
	q.mu.Unlock()
	return true
}

// handle calls the handler. One that panics has failed to write the line.
func handle(h slog.Handler, r slog.Record) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return h.Handle(context.Background(), r)
}
