package servicestest

import (
	"strings"
	"sync"
)

// Log is where a service may log to while the test reads: slog.NewTextHandler(&log, nil).
type Log struct {
	mu sync.Mutex
	b  strings.Builder
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String is all that was logged so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Has reports whether a text was logged.
func (l *Log) Has(text string) bool { return strings.Contains(l.String(), text) }
