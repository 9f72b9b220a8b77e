package ftp

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"
)

// Bounds of a path, beside maxLine.
const (
	maxDepth = 64  // directories below the root
	maxName  = 255 // bytes of one part
)

// fileSystem is what a user sees: a directory (diskFS) or the tree in memory
// (memFS). Names are relative, slash-separated and clean; "." is the root.
type fileSystem interface {
	// Open opens a file or directory for reading; never waits for a FIFO.
	Open(name string) (file, error)
	// Create opens a plain file for writing with os.O_TRUNC, O_APPEND, O_EXCL or
	// none of them, and makes it unless it is there.
	Create(name string, flag int) (file, error)
	Stat(name string) (fs.FileInfo, error)
	Lstat(name string) (fs.FileInfo, error)
	Mkdir(name string) error
	Remove(name string) error // a file or an empty directory
	Rename(from, to string) error
	Chtimes(name string, t time.Time) error
}

// file is an open one. *os.File is one.
type file interface {
	io.ReadWriteSeeker
	io.Closer
	Stat() (fs.FileInfo, error)
	ReadDir(n int) ([]fs.DirEntry, error)
	Truncate(size int64) error
}

// diskFS is a directory of the machine. os.Root keeps every name, symbolic links
// included, below it.
type diskFS struct{ root *os.Root }

func (d *diskFS) Open(name string) (file, error) {
	return open(d.root, name, os.O_RDONLY)
}

func (d *diskFS) Create(name string, flag int) (file, error) {
	f, err := open(d.root, name, os.O_WRONLY|os.O_CREATE|flag)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errNotPlain
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// open returns a nil interface, not a nil *os.File in one, on errors. O_NONBLOCK
// keeps a FIFO or a device from holding the session; on plain files it says nothing.
func open(root *os.Root, name string, flag int) (file, error) {
	f, err := root.OpenFile(name, flag|syscall.O_NONBLOCK, 0o666)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (d *diskFS) Stat(name string) (fs.FileInfo, error)  { return d.root.Stat(name) }
func (d *diskFS) Lstat(name string) (fs.FileInfo, error) { return d.root.Lstat(name) }
func (d *diskFS) Mkdir(name string) error                { return d.root.Mkdir(name, 0o777) }
func (d *diskFS) Remove(name string) error               { return d.root.Remove(name) }
func (d *diskFS) Rename(from, to string) error           { return d.root.Rename(from, to) }
func (d *diskFS) Chtimes(name string, t time.Time) error { return d.root.Chtimes(name, t, t) }

var (
	errNotPlain = errors.New("not a plain file")
	errName     = errors.New("name not allowed")
)

// resolve makes a client's pathname absolute and clean: ".." stops at the root
// (RFC 3659 section 6, TVFS: names are resolved as text).
func resolve(cwd, arg string) (string, error) {
	p := arg
	if !strings.HasPrefix(p, "/") {
		p = cwd + "/" + p
	}
	p = path.Clean("/" + p)
	if !plain(p) {
		return "", errName
	}
	if strings.Count(p, "/") > maxDepth || len(p) > maxLine {
		return "", fmt.Errorf("path too long: at most %d directories deep", maxDepth)
	}
	for part := range strings.SplitSeq(p[1:], "/") {
		if len(part) > maxName {
			return "", syscall.ENAMETOOLONG
		}
	}
	return p, nil
}

// rel is the fileSystem's name for an absolute path.
func rel(p string) string {
	if p == "/" {
		return "."
	}
	return p[1:]
}

// cause takes the machine's own paths out of an error: a client learns what went
// wrong, never where the root is.
func cause(err error) string {
	var pe *fs.PathError
	var le *os.LinkError
	var se *os.SyscallError
	switch {
	case errors.As(err, &pe):
		err = pe.Err
	case errors.As(err, &le):
		err = le.Err
	case errors.As(err, &se):
		err = se.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "no such file or directory"
	case errors.Is(err, syscall.ENOTEMPTY): // which is an ErrExist, too
		return "directory not empty"
	case errors.Is(err, fs.ErrExist):
		return "already exists"
	}
	return err.Error()
}

// storageCode is the reply code of a failed write: 452 full, 552 too large.
func storageCode(err error, otherwise int) int {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return 452
	case errors.Is(err, errTooLarge), errors.Is(err, syscall.EFBIG):
		return 552
	}
	return otherwise
}
