package ftp

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	memChunk = 16 << 10 // files in memory grow by this much
	memNodes = 65536    // files and directories in memory
)

// memFS is a tree in memory with the semantics of a directory: a file that is
// removed lives on until its last reader closes it. One lock guards all of it; no
// call holds it for longer than a copy of one buffer takes. Contents are bounded
// by limit bytes, in whole chunks, and the tree by memNodes; what would go beyond
// gets ENOSPC. Generated files cost nothing until someone writes to them.
//
// A general in-memory file system that makes missing parents and removes full
// directories would not do: the RFC's 550 could only be had by asking first.
type memFS struct {
	now   func() time.Time
	limit int64

	mu    sync.RWMutex
	root  *memNode
	used  int64
	nodes int
	last  uint64 // id given last
}

// memNode is a file or directory; the fields are guarded by memFS.mu.
type memNode struct {
	id       uint64
	mode     fs.FileMode
	modified time.Time
	children map[string]*memNode // of a directory
	size     int64
	chunks   [][]byte
	source   io.ReaderAt // of a generated file, else nil
	open     int
	removed  bool
}

func newMemFS(limit int64, now func() time.Time) *memFS {
	m := &memFS{now: now, limit: limit}
	m.root = m.nodeLocked(fs.ModeDir | 0o755)
	return m
}

func (m *memFS) nodeLocked(mode fs.FileMode) *memNode {
	m.last++
	m.nodes++
	n := &memNode{id: m.last, mode: mode, modified: m.now()}
	if mode.IsDir() {
		n.children = map[string]*memNode{}
	}
	return n
}

// Generate makes a file whose contents are the first size bytes of source.
func (m *memFS) Generate(name string, size int64, source io.ReaderAt, modified time.Time) error {
	f, err := m.Create(name, os.O_EXCL)
	if err != nil {
		return err
	}
	n := f.(*memFile).n
	m.mu.Lock()
	n.size, n.source, n.modified, n.mode = size, source, modified, 0o644
	m.mu.Unlock()
	return f.Close()
}

// findLocked walks to name. A part that is no directory gives ENOTDIR.
func (m *memFS) findLocked(name string) (*memNode, error) {
	n := m.root
	if name == "." {
		return n, nil
	}
	for part := range strings.SplitSeq(name, "/") {
		if n.children == nil {
			return nil, syscall.ENOTDIR
		}
		if n = n.children[part]; n == nil {
			return nil, fs.ErrNotExist
		}
	}
	return n, nil
}

// parentLocked returns the directory that holds name.
func (m *memFS) parentLocked(name string) (dir *memNode, base string, err error) {
	if name == "." {
		return nil, "", syscall.EBUSY
	}
	dir, err = m.findLocked(path.Dir(name))
	if err == nil && dir.children == nil {
		err = syscall.ENOTDIR
	}
	return dir, path.Base(name), err
}

func (m *memFS) Open(name string) (file, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.findLocked(name)
	if err != nil {
		return nil, err
	}
	n.open++
	return &memFile{m: m, n: n, name: path.Base(name)}, nil
}

func (m *memFS) Create(name string, flag int) (file, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parentLocked(name)
	if err != nil {
		return nil, err
	}
	n := dir.children[base]
	switch {
	case n == nil:
		if m.nodes >= memNodes {
			return nil, syscall.ENOSPC
		}
		n = m.nodeLocked(0o644)
		dir.children[base] = n
		dir.modified = m.now()
	case flag&os.O_EXCL != 0:
		return nil, fs.ErrExist
	case n.children != nil:
		return nil, syscall.EISDIR
	}
	if flag&os.O_TRUNC != 0 {
		m.truncateLocked(n, 0)
	} else if err := m.ownLocked(n); err != nil {
		return nil, err
	}
	n.open++
	return &memFile{m: m, n: n, name: base, write: true, atEnd: flag&os.O_APPEND != 0}, nil
}

func (m *memFS) Stat(name string) (fs.FileInfo, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n, err := m.findLocked(name)
	if err != nil {
		return nil, err
	}
	return n.infoLocked(path.Base(name)), nil
}

func (m *memFS) Lstat(name string) (fs.FileInfo, error) { return m.Stat(name) }

func (m *memFS) Mkdir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if name == "." {
		return fs.ErrExist
	}
	dir, base, err := m.parentLocked(name)
	switch {
	case err != nil:
		return err
	case dir.children[base] != nil:
		return fs.ErrExist
	case m.nodes >= memNodes:
		return syscall.ENOSPC
	}
	dir.children[base] = m.nodeLocked(fs.ModeDir | 0o755)
	dir.modified = m.now()
	return nil
}

func (m *memFS) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parentLocked(name)
	if err != nil {
		return err
	}
	n := dir.children[base]
	switch {
	case n == nil:
		return fs.ErrNotExist
	case len(n.children) > 0:
		return syscall.ENOTEMPTY
	}
	delete(dir.children, base)
	dir.modified = m.now()
	m.unlinkLocked(n)
	return nil
}

// Rename replaces a file by a file and refuses any directory, as os.Root does.
func (m *memFS) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	fromDir, fromBase, err := m.parentLocked(from)
	if err != nil {
		return err
	}
	n := fromDir.children[fromBase]
	if n == nil {
		return fs.ErrNotExist
	}
	toDir, toBase, err := m.parentLocked(to)
	if err != nil {
		return err
	}
	if n.children != nil && strings.HasPrefix(to, from+"/") {
		return syscall.EINVAL
	}
	if old := toDir.children[toBase]; old != nil {
		switch {
		case old.children != nil:
			return fs.ErrExist
		case old == n:
			return nil
		case n.children != nil:
			return syscall.ENOTDIR
		}
		m.unlinkLocked(old)
	}
	delete(fromDir.children, fromBase)
	toDir.children[toBase] = n
	fromDir.modified, toDir.modified = m.now(), m.now()
	return nil
}

func (m *memFS) Chtimes(name string, t time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.findLocked(name)
	if err == nil {
		n.modified = t
	}
	return err
}

// unlinkLocked gives a node's memory back, now or when its last file closes.
func (m *memFS) unlinkLocked(n *memNode) {
	m.nodes--
	n.removed = true
	if n.open == 0 {
		m.truncateLocked(n, 0)
	}
}

// truncateLocked shortens n to size, which is not above its own.
func (m *memFS) truncateLocked(n *memNode, size int64) {
	keep := int((size + memChunk - 1) / memChunk)
	if n.source == nil {
		m.used -= int64(len(n.chunks)-keep) * memChunk
		clear(n.chunks[keep:])
		n.chunks = n.chunks[:keep]
		if tail := size % memChunk; tail != 0 {
			clear(n.chunks[keep-1][tail:])
		}
	} else if size == 0 {
		n.source = nil
	}
	n.size, n.modified = size, m.now()
}

// ownLocked turns a generated file into one that holds its bytes.
func (m *memFS) ownLocked(n *memNode) error {
	if n.source == nil {
		return nil
	}
	source, size := n.source, n.size
	need := (size + memChunk - 1) / memChunk * memChunk
	if m.used+need > m.limit {
		return syscall.ENOSPC
	}
	m.used += need
	n.source = nil
	for off := int64(0); off < size; off += memChunk {
		c := make([]byte, memChunk)
		if _, err := source.ReadAt(c[:min(memChunk, size-off)], off); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		n.chunks = append(n.chunks, c)
	}
	return nil
}

// memInfo is a node's state at one moment.
type memInfo struct {
	id       uint64
	name     string
	size     int64
	mode     fs.FileMode
	modified time.Time
}

func (n *memNode) infoLocked(name string) memInfo {
	return memInfo{n.id, name, n.size, n.mode, n.modified}
}

func (i memInfo) Name() string               { return i.name }
func (i memInfo) Size() int64                { return i.size }
func (i memInfo) Mode() fs.FileMode          { return i.mode }
func (i memInfo) ModTime() time.Time         { return i.modified }
func (i memInfo) IsDir() bool                { return i.mode.IsDir() }
func (i memInfo) Sys() any                   { return i }
func (i memInfo) Type() fs.FileMode          { return i.mode.Type() }
func (i memInfo) Info() (fs.FileInfo, error) { return i, nil }
