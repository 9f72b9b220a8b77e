package main

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/term"
)

// screen keeps one block of text at the end of a terminal's output and rewrites it
// in place; lines that come meanwhile (the log's) go above it. Every change is one
// write, line by line over the old text, so that nothing flickers. Where standard
// output is no terminal there is no block and lines pass through.
type screen struct {
	tty *os.File // nil: no terminal

	mu    sync.Mutex
	block []string // as shown
}

func newScreen(con *console) *screen {
	if !isTerminal(con.out) {
		return &screen{}
	}
	return &screen{tty: con.out}
}

// logs is where a logger to f writes: around the block when both are terminals.
func (s *screen) logs(f *os.File) io.Writer {
	if s.tty == nil || !isTerminal(f) {
		return f
	}
	return s
}

// show draws what draw writes instead of the last block, cut to the terminal.
func (s *screen) show(draw func(io.Writer)) {
	if s.tty == nil {
		return
	}
	var b bytes.Buffer
	draw(&b)
	width, height, err := term.GetSize(int(s.tty.Fd()))
	if err != nil || width < 20 || height < 4 {
		return
	}
	lines := strings.Split(strings.TrimRight(b.String(), "\n"), "\n")
	if len(lines) > height-1 {
		lines = append(lines[:height-2], "... `porthole ports` shows the rest")
	}
	for i, l := range lines {
		lines[i] = cut(l, width-1)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draw("", lines)
}

// Write puts log lines above the block.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draw(string(p), s.block)
	return len(p), nil
}

// leave lets the last block stand and the output go on below it.
func (s *screen) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.block = nil
}

// draw goes up to the block's first line, writes above, the new lines over the old
// ones, and clears what is left of them. The cursor ends below the block.
func (s *screen) draw(above string, lines []string) {
	var b strings.Builder
	if n := len(s.block); n > 0 {
		b.WriteString("\x1b[" + strconv.Itoa(n) + "A\r")
	}
	for _, l := range strings.SplitAfter(above, "\n") {
		if l != "" {
			b.WriteString(strings.TrimSuffix(l, "\n") + "\x1b[K\n")
		}
	}
	for _, l := range lines {
		b.WriteString(l + "\x1b[K\n")
	}
	b.WriteString("\x1b[J")
	_, _ = io.WriteString(s.tty, b.String()) // a terminal that is gone sends SIGHUP
	s.block = lines
}

func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width])
}
