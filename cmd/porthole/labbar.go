package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"porthole/cmd/porthole/internal/lab"
)

// labBar is the line that shows how far a run of the lab is: rewritten in place on a
// terminal, else a line for each experiment of several that has ended.
type labBar struct {
	to   *os.File
	tty  bool
	many bool

	mu    sync.Mutex // guards what follows
	shown string
	drawn time.Time
}

func newLabBar(con *console, n int) *labBar {
	return &labBar{to: con.err, tty: isTerminal(con.err), many: n > 1}
}

// barEvery bounds how often the line is drawn.
const barEvery = 100 * time.Millisecond

func (b *labBar) show(s lab.Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.tty {
		if b.many && s.Ended {
			fmt.Fprintf(b.to, "%d/%d %s done, %s\n", s.N, s.Of, s.Now, left(s))
		}
		return
	}
	line := barLine(s, b.many)
	if line == b.shown || time.Since(b.drawn) < barEvery {
		return
	}
	b.drawn, b.shown = time.Now(), line
	fmt.Fprintf(b.to, "\r%s\x1b[K", line)
}

// clear takes the line away.
func (b *labBar) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shown != "" {
		fmt.Fprint(b.to, "\r\x1b[K")
		b.shown, b.drawn = "", time.Time{}
	}
}

func barLine(s lab.Status, many bool) string {
	const width = 24
	n := min(int(s.Done*width), width)
	which := s.Now
	if many {
		which = fmt.Sprintf("%d/%d %s", s.N, s.Of, s.Now)
	}
	return fmt.Sprintf("[%s%s] %3.0f %%  %s, %s", strings.Repeat("#", n), strings.Repeat(".", width-n), 100*s.Done, which, left(s))
}

// left is the remaining time in words.
func left(s lab.Status) string {
	d := s.Remaining.Round(time.Second)
	switch {
	case s.Done >= 1:
		return "all done"
	case d < time.Second:
		return "a moment left"
	case d < time.Minute:
		return fmt.Sprintf("about %.0f s left", d.Seconds())
	}
	return fmt.Sprintf("about %d min %d s left", int(d.Minutes()), int(d.Seconds())%60)
}
