package ftp

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

const (
	// listBatch is how many entries are read at once.
	listBatch = 512
	// listSorted bounds the entries that are held to sort them. Of a larger
	// directory the rest follows in the order in which the system gives it.
	listSorted = 8192
)

// A listing is a stream: entries come from the directory in batches, each becomes
// one line, lines are sent when a buffer is full. Memory does not grow with the
// directory, beyond listSorted entries.

// listing is what to list and how.
type listing struct {
	fs    fileSystem
	path  string // a directory, or one thing when single
	match string // list only names of this pattern
	one   bool   // path itself, not what is in it
	names bool   // line needs no info
	info  fs.FileInfo
	line  func(b []byte, info fs.FileInfo, name string) []byte
}

// cmdList takes options of ls, which clients send out of habit; everything is
// listed in long form whatever they say.
func (s *session) cmdList(arg string) {
	now := s.env.Now()
	s.list("LIST", withoutOptions(arg), func(b []byte, info fs.FileInfo, name string) []byte {
		return appendLong(b, now, info, name)
	})
}

// cmdNlst lists names that can be given to RETR as they are (RFC 1123, 4.1.2.7):
// with the directory in front when one was given.
func (s *session) cmdNlst(arg string) {
	arg = withoutOptions(arg)
	prefix := ""
	if i := strings.LastIndexByte(arg, '/'); i >= 0 {
		prefix = arg[:i+1]
	}
	if arg != "" && !hasPattern(arg) {
		if p, err := resolve(s.cwd, arg); err == nil {
			if info, err := s.acct.fs.Stat(rel(p)); err == nil && info.IsDir() {
				prefix = strings.TrimSuffix(arg, "/") + "/"
			}
		}
	}
	s.list("NLST", arg, func(b []byte, _ fs.FileInfo, name string) []byte {
		return append(append(append(b, prefix...), clean(name)...), '\r', '\n')
	})
}

// withoutOptions drops "-la" and the like from the front; "--" ends them.
func withoutOptions(arg string) string {
	for strings.HasPrefix(arg, "-") {
		opt, rest, _ := strings.Cut(arg, " ")
		arg = strings.TrimLeft(rest, " ")
		if opt == "--" {
			break
		}
	}
	return arg
}

func hasPattern(arg string) bool { return strings.ContainsAny(arg, "*?[") }

// find makes a listing of arg: a directory, one thing, or a pattern in the last part.
func (s *session) find(arg string) (*listing, error) {
	p, err := resolve(s.cwd, arg)
	if err != nil {
		return nil, err
	}
	l := &listing{fs: s.acct.fs, path: p}
	if l.info, err = statOrLink(l.fs, p); err == nil {
		l.one = !l.info.IsDir()
		return l, nil
	}
	dir, last := path.Dir(p), path.Base(p)
	if !hasPattern(last) || !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if _, bad := path.Match(last, ""); bad != nil {
		return nil, err
	}
	l.path, l.match = dir, last
	if l.info, err = l.fs.Stat(rel(dir)); err == nil && !l.info.IsDir() {
		err = fs.ErrNotExist
	}
	return l, err
}

// list sends a LIST or NLST. A name that is not there gets 550, as from RETR: the
// 450 of RFC 959's table says "try again", and lftp then tries for ever.
func (s *session) list(verb, arg string, line func([]byte, fs.FileInfo, string) []byte) {
	s.takeRest()
	l, err := s.find(arg)
	if err != nil {
		s.fail(550, arg, err)
		return
	}
	l.line, l.names = line, verb == "NLST"
	s.sendListing(verb, l)
}

func (s *session) sendListing(verb string, l *listing) {
	if l.one {
		s.begin(verb+" "+l.path, "", -1, l.send, func() error { return nil })
		return
	}
	d, err := l.fs.Open(rel(l.path))
	if err != nil {
		s.fail(550, l.path, err)
		return
	}
	s.begin(verb+" "+l.path, "", -1, func(x *transfer) error {
		return l.each(d, x.write)
	}, d.Close)
}

func (l *listing) send(x *transfer) error {
	return x.write(l.line(nil, l.info, path.Base(l.path)))
}

// each formats the entries of d and hands them to write in large pieces.
func (l *listing) each(d file, write func([]byte) error) error {
	bp := buffers.Get().(*[]byte)
	defer buffers.Put(bp)
	out := (*bp)[:0]
	flush := func(least int) error {
		if len(out) < least || len(out) == 0 {
			return nil
		}
		b := out
		out = out[:0]
		return write(b)
	}
	emit := func(entries []fs.DirEntry) error {
		for _, e := range entries {
			name := e.Name()
			if l.match != "" {
				if ok, _ := path.Match(l.match, name); !ok || name[0] == '.' && l.match[0] != '.' {
					continue
				}
			}
			var info fs.FileInfo
			if !l.names {
				var err error
				if info, err = entryInfo(l.fs, l.path, e); err != nil {
					continue // gone since it was listed
				}
			}
			out = l.line(out, info, name)
			if err := flush(bufferSize / 2); err != nil {
				return err
			}
		}
		return nil
	}
	var held []fs.DirEntry
	for sorted := false; ; {
		entries, err := d.ReadDir(listBatch)
		end := errors.Is(err, io.EOF)
		if err != nil && !end {
			return err
		}
		if !sorted {
			held = append(held, entries...)
			entries = nil
			if end || len(held) >= listSorted {
				slices.SortFunc(held, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
				entries, held, sorted = held, nil, true
			}
		}
		if err := emit(entries); err != nil {
			return err
		}
		if end {
			return flush(0)
		}
	}
}

// entryInfo is what an entry leads to. A symbolic link is shown as what it points
// at; one that points nowhere, or out of the root, as itself.
func entryInfo(fsys fileSystem, dir string, e fs.DirEntry) (fs.FileInfo, error) {
	if e.Type()&fs.ModeSymlink != 0 {
		return statOrLink(fsys, path.Join(dir, e.Name()))
	}
	return e.Info()
}

func statOrLink(fsys fileSystem, p string) (fs.FileInfo, error) {
	if info, err := fsys.Stat(rel(p)); err == nil {
		return info, nil
	}
	return fsys.Lstat(rel(p))
}

// appendLong appends the line of `ls -l` that clients parse: mode, links, owner,
// group, size, date (with the year when it is half a year away), name.
func appendLong(b []byte, now time.Time, info fs.FileInfo, name string) []byte {
	at := info.ModTime().UTC()
	date := at.Format("Jan _2 15:04")
	if d := now.Sub(at); d > 180*24*time.Hour || d < -24*time.Hour {
		date = at.Format("Jan _2  2006")
	}
	return fmt.Appendf(b, "%s   1 ftp      ftp      %12d %s %s\r\n", modeText(info.Mode()), info.Size(), date, clean(name))
}

func modeText(m fs.FileMode) string {
	b := []byte("-rwxrwxrwx")
	switch {
	case m.IsDir():
		b[0] = 'd'
	case m&fs.ModeSymlink != 0:
		b[0] = 'l'
	case m&fs.ModeNamedPipe != 0:
		b[0] = 'p'
	case m&fs.ModeSocket != 0:
		b[0] = 's'
	case m&fs.ModeCharDevice != 0:
		b[0] = 'c'
	case m&fs.ModeDevice != 0:
		b[0] = 'b'
	}
	for i := range 9 {
		if m.Perm()&(1<<(8-i)) == 0 {
			b[1+i] = '-'
		}
	}
	return string(b)
}

// statPath lists over the control connection: 213 for one thing, 212 for a
// directory. The session does nothing else meanwhile.
func (s *session) statPath(arg string) {
	l, err := s.find(withoutOptions(arg))
	if err != nil {
		s.fail(450, arg, err)
		return
	}
	now := s.env.Now()
	l.line = func(b []byte, info fs.FileInfo, name string) []byte {
		return appendLong(b, now, info, name)
	}
	code := 212
	if l.one {
		code = 213
	}
	s.line("%d-Status of %s:", code, l.path)
	write := func(b []byte) error {
		for line := range strings.Lines(string(b)) {
			s.line(" %s", strings.TrimSuffix(line, "\r\n"))
		}
		if s.ctx.Err() != nil {
			return s.ctx.Err()
		}
		return s.out.Flush()
	}
	if l.one {
		err = write(l.line(nil, l.info, path.Base(l.path)))
	} else {
		var d file
		if d, err = l.fs.Open(rel(l.path)); err == nil {
			err = l.each(d, write)
			d.Close()
		}
	}
	if err != nil {
		s.line(" listing ends early: %s", cause(err))
	}
	s.reply(code, "End")
}
