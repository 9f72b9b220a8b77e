package dns

import (
	"io"
	"io/fs"
)

// joined reads a master file for the parser. Inside parentheses a line's end is a
// blank (RFC 1035, section 5.1); the parser takes it for nothing and would read the
// numbers of a SOA that stand one to a line as one. The blank goes before the end of
// the line, or of what stands before its comment, so that columns stay true.
type joined struct {
	r       io.Reader
	buf     [4096]byte
	in      []byte // of buf: not yet handed on
	blank   bool   // the last octet was one of ours
	depth   int
	quote   bool
	comment bool
	escape  bool
}

func (j *joined) Read(p []byte) (n int, err error) {
	if len(j.in) == 0 {
		n, err = j.r.Read(j.buf[:])
		if j.in = j.buf[:n]; n == 0 {
			return 0, err
		}
	}
	for n = 0; n < len(p) && len(j.in) > 0; n++ {
		c := j.in[0]
		ends := c == '\n' || c == ';' && !j.escape
		if p[n] = ' '; ends && j.depth > 0 && !j.quote && !j.comment && !j.blank {
			j.blank = true
			continue
		}
		p[n], j.in, j.blank = c, j.in[1:], false
		j.see(c)
	}
	return n, nil
}

// see follows what the parser does with an octet.
func (j *joined) see(c byte) {
	escaped := j.escape
	j.escape = false
	switch {
	case c == '\n':
		j.comment = false // also after a backslash, as the parser has it
	case j.comment || escaped:
	case c == '\\':
		j.escape = true
	case c == '"':
		j.quote = !j.quote
	case j.quote:
	case c == ';':
		j.comment = true
	case c == '(':
		j.depth++
	case c == ')':
		j.depth--
	}
}

// joinedFS gives $INCLUDE such files.
type joinedFS struct{ fs.FS }

func (f joinedFS) Open(name string) (fs.File, error) {
	file, err := f.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return &joinedFile{File: file, joined: joined{r: file}}, nil
}

type joinedFile struct {
	fs.File
	joined
}

func (f *joinedFile) Read(p []byte) (int, error) { return f.joined.Read(p) }
