package logqueue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// sink is a handler's writer. Before each line it does what before says.
type sink struct {
	before func(line string) error

	mu sync.Mutex
	b  bytes.Buffer
}

func (s *sink) Write(p []byte) (int, error) {
	if s.before != nil {
		if err := s.before(string(p)); err != nil {
			return 0, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *sink) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Split(strings.TrimSuffix(s.b.String(), "\n"), "\n")
}

// text is a handler that writes to s, without the time.
func text(s *sink) slog.Handler {
	return slog.NewTextHandler(s, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
}

// blocked is a sink whose first line waits until release is called.
func blocked() (s *sink, began <-chan struct{}, release func()) {
	b, r := make(chan struct{}), make(chan struct{})
	var once sync.Once
	return &sink{before: func(string) error {
		once.Do(func() { close(b) })
		<-r
		return nil
	}}, b, func() { close(r) }
}

// TestAllInOrder: what fits is all written, each logger's lines in order, at all levels,
// with the attributes and groups of the handlers that they went to; before Start and
// after the end too.
func TestAllInOrder(t *testing.T) {
	s := &sink{}
	q := New(text(s))
	log := q.Logger()
	log.Info("before")
	require.Equal(t, []string{"level=INFO msg=before"}, s.lines())
	stop := q.Start()
	const loggers, each = 8, MaxLines / 8
	var wg sync.WaitGroup
	for g := range loggers {
		wg.Go(func() {
			log := log.With("g", g).WithGroup("n")
			for i := range each {
				log.Log(context.Background(), []slog.Level{slog.LevelInfo, slog.LevelError}[i%2], "line", "i", i)
			}
		})
	}
	wg.Wait()
	require.NoError(t, stop())
	log.Info("after")
	lines := s.lines()
	require.Equal(t, "level=INFO msg=after", lines[len(lines)-1])
	next := map[string]int{}
	for _, l := range lines[1 : len(lines)-1] {
		var level, g string
		_, err := fmt.Sscanf(l, "level=%s msg=line g=%s", &level, &g)
		require.NoError(t, err, l)
		i := next[g]
		next[g]++
		require.Equal(t, fmt.Sprintf("level=%s msg=line g=%s n.i=%d", []string{"INFO", "ERROR"}[i%2], g, i), l)
	}
	require.Equal(t, Stats{Written: loggers*each + 2}, q.Stats())
}

// TestFull: a writer that does not come back makes nobody wait. What is over the bound
// is lost, counted, and said once all before it is written.
func TestFull(t *testing.T) {
	s, began, release := blocked()
	q := New(text(s))
	stop := q.Start()
	log := q.Logger()
	log.Info("line", "i", 0)
	<-began
	for i := 1; i < MaxLines; i++ {
		log.Info("line", "i", i)
	}
	require.Equal(t, Stats{Waiting: MaxLines}, q.Stats())
	log.Info("one too many")
	log.Error("two too many")
	require.Equal(t, Stats{Waiting: MaxLines, Lost: 2}, q.Stats())
	release()
	require.NoError(t, stop())
	lines := s.lines()
	require.Len(t, lines, MaxLines+1)
	for i, l := range lines[:MaxLines] {
		require.Equal(t, fmt.Sprintf("level=INFO msg=line i=%d", i), l)
	}
	require.Equal(t, `level=WARN msg="log lines lost" lines=2`, lines[MaxLines])
	require.Equal(t, Stats{Written: MaxLines, Lost: 2}, q.Stats())
}

// TestFullBytes: long lines are bounded by their text; a single one may be of any length.
func TestFullBytes(t *testing.T) {
	s, began, release := blocked()
	q := New(text(s))
	stop := q.Start()
	log := q.Logger()
	log.Info(strings.Repeat("x", 2*MaxBytes))
	<-began
	log.Info("no room")
	require.Equal(t, Stats{Waiting: 1, Lost: 1}, q.Stats())
	release()
	require.NoError(t, stop())
	require.Equal(t, Stats{Written: 1, Lost: 1}, q.Stats())

	for _, x := range []any{strings.Repeat("x", 1000), bytes.Repeat([]byte{'x'}, 1000), slog.GroupValue(slog.String("a", strings.Repeat("x", 1000)))} {
		r := slog.NewRecord(time.Now(), slog.LevelInfo, "m", 0)
		r.Add("k", x)
		require.InDelta(t, 1000, sizeOf(&r), 50)
	}
}

// TestSaidUnderLoad: losses are said while lines keep coming, not at the end alone.
func TestSaidUnderLoad(t *testing.T) {
	said := make(chan string, 1)
	s := &sink{before: func(l string) error {
		if strings.Contains(l, "lost") {
			select {
			case said <- l:
			default:
			}
		}
		return nil
	}}
	q := New(text(s))
	stop := q.Start()
	for log := q.Logger(); len(said) == 0; {
		log.Info("line")
	}
	require.NoError(t, stop())
	st := q.Stats()
	require.NotZero(t, st.Lost)
	require.Zero(t, st.Waiting)
}

// TestRefused: a line that the handler does not take is lost, and said when it takes one.
func TestRefused(t *testing.T) {
	bad := errors.New("disk full")
	s := &sink{before: func(string) error { return bad }}
	q := New(text(s))
	log := q.Logger()
	stop := q.Start()
	log.Info("a")
	require.NoError(t, stop())
	require.Equal(t, Stats{Lost: 1}, q.Stats())
	s.before = func(l string) error {
		if strings.Contains(l, "panic") {
			panic(l)
		}
		return nil
	}
	stop = q.Start()
	log.Info("panic")
	log.Info("b")
	require.NoError(t, stop())
	require.Equal(t, []string{"level=INFO msg=b", `level=WARN msg="log lines lost" lines=1`, `level=WARN msg="log lines lost" lines=1`}, s.lines())
	require.Equal(t, Stats{Written: 1, Lost: 2}, q.Stats())
}

// TestErrorsOnly: a logger that wants errors alone is told of lost ones by an error.
func TestErrorsOnly(t *testing.T) {
	s := &sink{}
	s.before = func(l string) error {
		if strings.Contains(l, "gone") {
			return io.ErrShortWrite
		}
		return nil
	}
	q := New(slog.NewTextHandler(s, &slog.HandlerOptions{Level: slog.LevelError}))
	stop := q.Start()
	q.Logger().Error("gone")
	require.NoError(t, stop())
	require.Contains(t, s.lines()[0], `level=ERROR msg="log lines lost" lines=1`)
}

// TestGivenUp: the end waits for a handler as long as it gets on, and no longer.
func TestGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		stuck := make(chan struct{})
		s := &sink{before: func(string) error {
			if n++; n > 10 {
				<-stuck
				return nil
			}
			time.Sleep(patience * 9 / 10) // of the bubble's clock
			return nil
		}}
		q := New(text(s))
		stop := q.Start()
		log := q.Logger()
		for range 15 {
			log.Info("line")
		}
		began := time.Now()
		require.EqualError(t, stop(), "log: 5 lines are lost: who writes them has not returned for 5s")
		require.Equal(t, Stats{Written: 10, Lost: 5}, q.Stats())
		require.Less(t, time.Since(began), 12*patience)
		log.Info("after")
		require.Equal(t, Stats{Written: 10, Lost: 6}, q.Stats())
		close(stuck) // and it ends
	})
}

// TestGathers: lines that come one by one wake the writer once in a while, an urgent
// one at once.
func TestGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{}
		q := New(text(s))
		stop := q.Start()
		log := q.Logger()
		began := time.Now()
		log.Info("a")
		synctest.Wait()
		require.Equal(t, 1, q.Stats().Waiting)
		time.Sleep(gather)
		synctest.Wait()
		require.Equal(t, Stats{Written: 1}, q.Stats())
		log.Info("b")
		log.Warn("c")
		synctest.Wait()
		require.Equal(t, Stats{Written: 3}, q.Stats())
		require.Equal(t, gather, time.Since(began))
		require.NoError(t, stop())
	})
}

func BenchmarkLog(b *testing.B) {
	line := func(b *testing.B, h slog.Handler) {
		b.ReportAllocs()
		for b.Loop() {
			r := slog.NewRecord(time.Time{}, slog.LevelInfo, "access", 0)
			r.AddAttrs(slog.String("client", "10.77.0.2:5000"), slog.String("request", "porthole.test. A"),
				slog.String("result", "NOERROR"), slog.Duration("took", 3*time.Microsecond))
			_ = h.Handle(b.Context(), r)
		}
	}
	b.Run("direct", func(b *testing.B) { line(b, slog.NewTextHandler(io.Discard, nil)) })
	b.Run("queued", func(b *testing.B) {
		q := New(slog.DiscardHandler)
		stop := q.Start()
		line(b, q.Logger().Handler())
		require.NoError(b, stop())
	})
	b.Run("full", func(b *testing.B) {
		s, _, release := blocked()
		q := New(text(s))
		stop := q.Start()
		for range MaxLines {
			q.Logger().Info("fill")
		}
		line(b, q.Logger().Handler())
		release()
		require.NoError(b, stop())
	})
}

// TestStopBesideALogger: somebody who logs on, for each line that is written another one,
// does not keep the end from coming; what was logged before it is written.
func TestStopBesideALogger(t *testing.T) {
	var log *slog.Logger
	s := &sink{before: func(line string) error {
		log.Info("echo")
		return nil
	}}
	q := New(text(s))
	log = q.Logger()
	q.mu.Lock() // nothing is written before all is there
	q.queued = true
	q.mu.Unlock()
	for range 100 {
		log.Info("before the end")
	}
	require.NoError(t, q.Start()())
	n := 0
	for _, l := range s.lines() {
		if strings.Contains(l, "before the end") {
			n++
		}
	}
	require.Equal(t, 100, n)
	require.Zero(t, q.Stats().Waiting)
	require.NotZero(t, q.Stats().Lost)
}
