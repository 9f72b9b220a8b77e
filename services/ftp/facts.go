package ftp

import (
	"fmt"
	"io/fs"
	"strings"
	"syscall"
)

// Facts of MLST and MLSD (RFC 3659 section 7.5), in the order in which they are told.
const (
	factType = iota
	factSize
	factModify
	factPerm
	factUnique
	factMode
	factCount
)

var factNames = [factCount]string{"type", "size", "modify", "perm", "unique", "UNIX.mode"}

// factSet is the facts that a session wants; bit 1<<factType and so on.
type factSet uint8

const allFacts factSet = 1<<factCount - 1

// parseFacts takes OPTS MLST's list. Unknown facts are passed over, as section 7.9 says.
func parseFacts(list string) factSet {
	var set factSet
	for name := range strings.SplitSeq(list, ";") {
		for i, known := range factNames {
			if strings.EqualFold(strings.TrimSpace(name), known) {
				set |= 1 << i
			}
		}
	}
	return set
}

// String lists the set: "type;size;".
func (set factSet) String() string { return set.list(false) }

// features lists all facts, those of the set marked: "type*;size;".
func (set factSet) features() string { return set.list(true) }

func (set factSet) list(all bool) string {
	var b strings.Builder
	for i, name := range factNames {
		has := set&(1<<i) != 0
		switch {
		case all && has:
			b.WriteString(name + "*;")
		case all || has:
			b.WriteString(name + ";")
		}
	}
	return b.String()
}

// appendFacts appends the facts of info, which write says is in a tree that the
// user may change. size is told for plain files alone: of others it means nothing.
func (set factSet) appendFacts(b []byte, info fs.FileInfo, write, root bool) []byte {
	for i, name := range factNames {
		if set&(1<<i) == 0 {
			continue
		}
		value := ""
		switch i {
		case factType:
			value = factTypeOf(info)
		case factSize:
			if info.Mode().IsRegular() {
				value = fmt.Sprint(info.Size())
			}
		case factModify:
			value = info.ModTime().UTC().Format(timeFormat)
		case factPerm:
			b = fmt.Appendf(b, "perm=%s;", permOf(info, write, root)) // may be empty
		case factUnique:
			value = unique(info)
		case factMode:
			value = fmt.Sprintf("0%03o", info.Mode().Perm())
		}
		if value != "" {
			b = fmt.Appendf(b, "%s=%s;", name, value)
		}
	}
	return b
}

func factTypeOf(info fs.FileInfo) string {
	switch {
	case info.IsDir():
		return "dir"
	case info.Mode().IsRegular():
		return "file"
	case info.Mode()&fs.ModeSymlink != 0:
		return "OS.unix=symlink"
	}
	return "OS.unix=special"
}

// permOf tells which commands would work (section 7.5.5).
func permOf(info fs.FileInfo, write, root bool) string {
	switch {
	case info.IsDir() && write && root:
		return "celmp"
	case info.IsDir() && write:
		return "cdeflmp"
	case info.IsDir():
		return "el"
	case info.Mode().IsRegular() && write:
		return "adfrw"
	case info.Mode().IsRegular():
		return "r"
	case write:
		return "df"
	}
	return ""
}

func (s *session) factLine(b []byte, info fs.FileInfo, name string, root bool) []byte {
	b = s.facts.appendFacts(b, info, s.acct.write, root)
	return append(append(b, ' '), clean(name)...)
}

// cmdMlst tells the facts of one thing over the control connection, by its full path.
func (s *session) cmdMlst(arg string) {
	p, ok := s.path(arg, 550)
	if !ok {
		return
	}
	info, err := statOrLink(s.acct.fs, p)
	if err != nil {
		s.fail(550, p, err)
		return
	}
	s.replyLines(250, "Listing "+p, []string{string(s.factLine(nil, info, p, p == "/"))}, "End")
}

// cmdMlsd lists a directory's entries and nothing else: the directory itself and
// its parent, which section 7.5.1 leaves to the server, surprise more clients than
// they help.
func (s *session) cmdMlsd(arg string) {
	s.takeRest()
	p, ok := s.path(arg, 550)
	if !ok {
		return
	}
	info, err := s.acct.fs.Stat(rel(p))
	switch {
	case err != nil:
		s.fail(550, p, err)
		return
	case !info.IsDir():
		s.fail(501, p, syscall.ENOTDIR)
		return
	}
	facts, write := s.facts, s.acct.write // as they are now, whatever comes later
	l := &listing{fs: s.acct.fs, path: p, info: info}
	l.line = func(b []byte, info fs.FileInfo, name string) []byte {
		b = append(facts.appendFacts(b, info, write, false), ' ')
		return append(append(b, clean(name)...), '\r', '\n')
	}
	s.sendListing("MLSD", l)
}
