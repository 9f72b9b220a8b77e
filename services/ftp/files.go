package ftp

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"
)

// Uploads go into the file itself, as FTP users expect: readers see it grow, and
// what came before a broken connection stays, so that REST or APPE can go on.

// maxASCIISize bounds the files that SIZE reads to count line ends in TYPE A.
const maxASCIISize = 8 << 20

const timeFormat = "20060102150405" // RFC 3659, 2.3; always UTC

// path resolves an argument, or replies with code why not.
func (s *session) path(arg string, code int) (string, bool) {
	p, err := resolve(s.cwd, arg)
	if err != nil {
		s.reply(code, "%s: %s.", arg, cause(err))
		return "", false
	}
	return p, true
}

func (s *session) fail(code int, what string, err error) {
	s.reply(code, "%s: %s.", what, cause(err))
}

// quoted is a pathname in a 257 reply (RFC 959, appendix II).
func quoted(p string) string { return `"` + strings.ReplaceAll(p, `"`, `""`) + `"` }

func (s *session) cmdPwd(string) { s.reply(257, "%s is the current directory.", quoted(s.cwd)) }

func (s *session) cmdCdup(string) { s.cmdCwd("..") }

func (s *session) cmdCwd(arg string) {
	p, ok := s.path(arg, 550)
	if !ok {
		return
	}
	info, err := s.acct.fs.Stat(rel(p))
	if err == nil && !info.IsDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		s.fail(550, p, err)
		return
	}
	s.cwd = p
	s.reply(250, "%s is the current directory.", quoted(p))
}

// openPlain opens a plain file for reading.
func (s *session) openPlain(p string) (file, fs.FileInfo, error) {
	f, err := s.acct.fs.Open(rel(p))
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errNotPlain
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

func (s *session) cmdRetr(arg string) {
	offset := s.takeRest()
	p, ok := s.path(arg, 550)
	if !ok {
		return
	}
	f, info, err := s.openPlain(p)
	if err != nil {
		s.fail(550, p, err)
		return
	}
	if !s.offsetFits(offset, info.Size()) {
		f.Close()
		return
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		f.Close()
		s.fail(451, p, err)
		return
	}
	ascii := s.ascii
	note := fmt.Sprintf("(%d bytes)", info.Size())
	if ascii { // the octets on the wire are not known
		note = ""
	}
	s.begin("RETR "+p, note, info.Size(), func(x *transfer) error { return x.send(f, ascii) }, f.Close)
}

// takeRest returns the offset of REST, which is good for one transfer.
func (s *session) takeRest() int64 {
	n := s.rest
	s.rest = 0
	return n
}

// offsetFits replies 554 when a transfer cannot begin there (RFC 3659, 5.4).
func (s *session) offsetFits(offset, size int64) bool {
	switch {
	case offset > 0 && s.ascii:
		s.reply(554, "REST needs TYPE I.")
	case offset > size:
		s.reply(554, "REST %d lies beyond the end at %d.", offset, size)
	default:
		return true
	}
	return false
}

func (s *session) cmdStor(arg string) { s.upload("STOR", arg, s.takeRest(), 0) }

// cmdAppe ignores REST: where it begins is where the file ends.
func (s *session) cmdAppe(arg string) {
	s.takeRest()
	s.upload("APPE", arg, 0, os.O_APPEND)
}

// cmdStou names the file in the 150 reply (RFC 1123, 4.1.2.9). Clients give the name
// that they would like, which RFC 959 does not know: it is used when it is free.
func (s *session) cmdStou(arg string) {
	s.takeRest()
	name := arg
	if name == "" {
		name = "ftp." + strings.ToLower(rand.Text()[:12])
	}
	for i := 1; i < maxStou && !s.free(name); i++ {
		name = fmt.Sprintf("%s.%d", arg, i)
	}
	s.upload("STOU", name, 0, os.O_EXCL)
}

// maxStou bounds the names that STOU tries.
const maxStou = 1000

// free reports whether nothing of this name is there; a name that is not allowed
// is free: upload says what is wrong with it.
func (s *session) free(name string) bool {
	p, err := resolve(s.cwd, name)
	if err != nil {
		return true
	}
	_, err = s.acct.fs.Lstat(rel(p))
	return err != nil
}

func (s *session) upload(verb, arg string, offset int64, flag int) {
	p, ok := s.path(arg, 553)
	if !ok {
		return
	}
	if s.passive == nil && !s.active.IsValid() {
		// Told before the old contents are gone.
		s.begin(verb+" "+p, "", -1, nil, func() error { return nil })
		return
	}
	if offset > 0 && s.ascii {
		s.offsetFits(offset, offset)
		return
	}
	key := busyKey{s.acct.fs, p}
	if !s.srv.claim(key) {
		s.reply(450, "%s: another upload is writing it.", p)
		return
	}
	f, size, err := s.openUpload(p, offset, flag)
	if err != nil {
		s.srv.release(key)
		if errors.Is(err, errOffset) {
			s.offsetFits(offset, size)
			return
		}
		s.fail(storageCode(err, 553), p, err)
		return
	}
	note := ""
	if verb == "STOU" {
		note = "FILE: " + arg
	}
	ascii := s.ascii
	room := int64(s.cfg.MaxFileSize) - size
	s.begin(verb+" "+p, note, -1,
		func(x *transfer) error { return x.receive(f, ascii, max(room, 0)) },
		func() error { defer s.srv.release(key); return f.Close() })
}

var errOffset = errors.New("offset beyond the end")

// openUpload opens p so that writing goes to offset, or to the end with O_APPEND.
// What was in the file from there on is cut off; size is what stays.
func (s *session) openUpload(p string, offset int64, flag int) (f file, size int64, err error) {
	if offset == 0 && flag == 0 {
		flag = os.O_TRUNC
	}
	if offset > 0 { // must not be made by asking
		if _, err := s.acct.fs.Stat(rel(p)); err != nil {
			return nil, 0, err
		}
	}
	if f, err = s.acct.fs.Create(rel(p), flag); err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil {
		size = info.Size()
		if offset > size {
			err = errOffset
		}
	}
	if err == nil && offset > 0 {
		if err = f.Truncate(offset); err == nil {
			size, err = f.Seek(offset, io.SeekStart)
		}
	}
	if err != nil {
		f.Close()
	}
	return f, size, err
}

func (s *session) cmdDele(arg string) { s.remove(arg, false, "Deleted.") }
func (s *session) cmdRmd(arg string)  { s.remove(arg, true, "Directory removed.") }

func (s *session) remove(arg string, dir bool, done string) {
	p, ok := s.path(arg, 550)
	if !ok {
		return
	}
	if p == "/" {
		s.reply(550, "/: the root stays.")
		return
	}
	info, err := s.acct.fs.Lstat(rel(p))
	if err == nil && dir && info.Mode()&fs.ModeSymlink != 0 {
		// Listings show it as what it leads to, so RMD ends it; what it leads to stays.
		if to, e := s.acct.fs.Stat(rel(p)); e == nil {
			info = to
		}
	}
	switch {
	case err != nil:
	case dir && !info.IsDir():
		err = syscall.ENOTDIR
	case !dir && info.IsDir():
		err = syscall.EISDIR
	default:
		err = s.acct.fs.Remove(rel(p))
	}
	if err != nil {
		s.fail(550, p, err)
		return
	}
	s.reply(250, "%s", done)
}

func (s *session) cmdMkd(arg string) {
	p, ok := s.path(arg, 550)
	if !ok {
		return
	}
	if err := s.acct.fs.Mkdir(rel(p)); err != nil {
		s.fail(550, p, err)
		return
	}
	s.reply(257, "%s created.", quoted(p))
}

func (s *session) cmdRnfr(arg string) {
	p, ok := s.path(arg, 550)
	if !ok {
		return
	}
	if p == "/" {
		s.reply(550, "/: the root stays.")
		return
	}
	if _, err := s.acct.fs.Lstat(rel(p)); err != nil {
		s.fail(550, p, err)
		return
	}
	s.renaming = p
	s.reply(350, "Now RNTO.")
}

func (s *session) cmdRnto(arg string) {
	from := s.renaming
	s.renaming = ""
	if from == "" {
		s.reply(503, "Give RNFR just before.")
		return
	}
	p, ok := s.path(arg, 553)
	if !ok {
		return
	}
	if p == "/" {
		s.reply(553, "/: the root stays.")
		return
	}
	if err := s.acct.fs.Rename(rel(from), rel(p)); err != nil {
		s.fail(553, p, err)
		return
	}
	s.reply(250, "Renamed.")
}

// cmdSize gives the octets that RETR would send (RFC 3659, 4.1). In TYPE A they
// must be counted, which is done for files up to maxASCIISize.
func (s *session) cmdSize(arg string) {
	p, ok := s.path(arg, 550)
	if !ok {
		return
	}
	f, info, err := s.openPlain(p)
	if err != nil {
		s.fail(550, p, err)
		return
	}
	defer f.Close()
	size := info.Size()
	if s.ascii {
		if size > maxASCIISize {
			s.reply(550, "%s: too large to count in TYPE A; give TYPE I.", p)
			return
		}
		if size, err = asciiSize(io.LimitReader(f, maxASCIISize)); err != nil {
			s.fail(550, p, err)
			return
		}
	}
	s.reply(213, "%d", size)
}

func asciiSize(r io.Reader) (int64, error) {
	bp := buffers.Get().(*[]byte)
	defer buffers.Put(bp)
	var size int64
	for {
		n, err := r.Read(*bp)
		size += int64(n)
		for _, b := range (*bp)[:n] {
			if b == '\n' {
				size++
			}
		}
		if errors.Is(err, io.EOF) {
			return size, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

func (s *session) cmdMdtm(arg string) {
	p, ok := s.path(arg, 550)
	if !ok {
		return
	}
	info, err := s.acct.fs.Stat(rel(p))
	if err != nil {
		s.fail(550, p, err)
		return
	}
	s.reply(213, "%s", info.ModTime().UTC().Format(timeFormat))
}

// cmdMfmt sets the time that MDTM tells (draft-somers-ftp-mfxx).
func (s *session) cmdMfmt(arg string) {
	stamp, name, _ := strings.Cut(arg, " ")
	at, err := time.Parse(timeFormat, stamp) // takes a fraction, too
	if err != nil || name == "" {
		s.reply(501, "Syntax: MFMT %s", commands["MFMT"].syntax)
		return
	}
	p, ok := s.path(name, 550)
	if !ok {
		return
	}
	if err := s.acct.fs.Chtimes(rel(p), at); err != nil {
		s.fail(550, p, err)
		return
	}
	s.reply(213, "Modify=%s; %s", at.UTC().Format(timeFormat), p)
}
