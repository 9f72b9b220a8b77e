package ftp

import (
	"io"
	"io/fs"
	"slices"
	"strings"
	"syscall"
)

// memFile is an open node. It is used by one goroutine at a time.
type memFile struct {
	m       *memFS
	n       *memNode
	name    string
	off     int64
	write   bool
	atEnd   bool
	closed  bool
	listed  bool
	entries []fs.DirEntry
}

func (f *memFile) Read(b []byte) (int, error) {
	f.m.mu.RLock()
	defer f.m.mu.RUnlock()
	n := f.n
	switch {
	case n.children != nil:
		return 0, syscall.EISDIR
	case f.off >= n.size:
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), n.size-f.off)]
	if n.source != nil {
		k, err := n.source.ReadAt(b, f.off)
		f.off += int64(k)
		return k, err
	}
	total := 0
	for len(b) > 0 {
		k := copy(b, n.chunks[f.off/memChunk][f.off%memChunk:])
		b, f.off, total = b[k:], f.off+int64(k), total+k
	}
	return total, nil
}

func (f *memFile) Write(b []byte) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	m, n := f.m, f.n
	if !f.write {
		return 0, syscall.EBADF
	}
	if f.atEnd {
		f.off = n.size
	}
	total := 0
	for len(b) > 0 {
		i := int(f.off / memChunk)
		for i >= len(n.chunks) {
			if m.used+memChunk > m.limit {
				return total, syscall.ENOSPC
			}
			m.used += memChunk
			n.chunks = append(n.chunks, make([]byte, memChunk))
		}
		k := copy(n.chunks[i][f.off%memChunk:], b)
		b, f.off, total = b[k:], f.off+int64(k), total+k
		n.size = max(n.size, f.off)
	}
	n.modified = m.now()
	return total, nil
}

func (f *memFile) Seek(off int64, whence int) (int64, error) {
	f.m.mu.RLock()
	defer f.m.mu.RUnlock()
	switch whence {
	case io.SeekCurrent:
		off += f.off
	case io.SeekEnd:
		off += f.n.size
	}
	if off < 0 || off > f.n.size {
		return 0, syscall.EINVAL
	}
	f.off = off
	return off, nil
}

// Truncate shortens only: nothing here makes a file longer without bytes.
func (f *memFile) Truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if !f.write || size < 0 || size > f.n.size {
		return syscall.EINVAL
	}
	f.m.truncateLocked(f.n, size)
	return nil
}

func (f *memFile) Stat() (fs.FileInfo, error) {
	f.m.mu.RLock()
	defer f.m.mu.RUnlock()
	return f.n.infoLocked(f.name), nil
}

// ReadDir gives the entries as they were at its first call, n at a time, in order.
func (f *memFile) ReadDir(n int) ([]fs.DirEntry, error) {
	f.m.mu.RLock()
	defer f.m.mu.RUnlock()
	if f.n.children == nil {
		return nil, syscall.ENOTDIR
	}
	if !f.listed {
		f.listed = true
		for name, c := range f.n.children {
			f.entries = append(f.entries, c.infoLocked(name))
		}
		slices.SortFunc(f.entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	}
	if n > 0 && len(f.entries) == 0 {
		return nil, io.EOF
	}
	if n <= 0 || n > len(f.entries) {
		n = len(f.entries)
	}
	out := f.entries[:n]
	f.entries = f.entries[n:]
	return out, nil
}

func (f *memFile) Close() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.closed {
		return fs.ErrClosed
	}
	f.closed = true
	if f.n.open--; f.n.open == 0 && f.n.removed {
		f.m.truncateLocked(f.n, 0)
	}
	return nil
}
