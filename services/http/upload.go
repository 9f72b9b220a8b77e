package http

import (
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"
)

// An upload is written to a hidden temporary file beside its target, which it
// replaces by one rename when it is whole: readers see the old file or the new
// one, and an upload that breaks off leaves nothing. (It is not synced to disk: a
// power cut may lose it.) What is stored is counted against upload-total as it
// arrives, each file by its bytes rounded up to whole blocks, so that empty files
// are not free. What other programs change in the directory is seen at the next
// start.

const (
	tempPrefix = ".porthole-upload-"
	tempAge    = time.Hour // a live upload writes more often than this: body-timeout ends it
	fileBlock  = 4 << 10
)

// quota is the space that files take, and may take.
type quota struct {
	limit int64

	mu   sync.Mutex
	used int64
}

var errQuota = errors.New("upload-total is used up")

func (q *quota) take(n int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n > q.limit-q.used {
		return errQuota
	}
	q.used += n
	return nil
}

func (q *quota) give(n int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.used = max(0, q.used-n)
}

// blocks is what a file of n bytes is charged.
func blocks(n int64) int64 { return (n/fileBlock + 1) * fileBlock }

// takeStock counts what the directory holds and removes what a killed process
// left unfinished.
func (f *files) takeStock() error {
	return fs.WalkDir(f.root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			if name == "." {
				return err
			}
			return nil // unreadable: not served either
		}
		fi, err := e.Info()
		if err != nil || !fi.Mode().IsRegular() {
			return nil
		}
		if strings.HasPrefix(e.Name(), tempPrefix) && f.env.Now().Sub(fi.ModTime()) > tempAge {
			f.root.Remove(name)
			return nil
		}
		f.quota.used += blocks(fi.Size())
		return nil
	})
}

func (f *files) put(w *response, r *http.Request, name string, dir bool) {
	switch ce := r.Header.Get("Content-Encoding"); {
	case r.Header.Get("Content-Range") != "":
		// RFC 9110, 14.4: a PUT that would be partial must not be taken for a whole.
		w.fail(http.StatusBadRequest, "Content-Range in PUT is not served; send the whole file")
		return
	case ce != "" && !strings.EqualFold(ce, "identity"):
		w.fail(http.StatusUnsupportedMediaType, "files are stored without a content coding")
		return
	case dir:
		w.fail(http.StatusConflict, "a directory cannot be uploaded")
		return
	}
	old, err := f.root.Stat(name)
	switch {
	case err == nil && old.IsDir():
		w.fail(http.StatusConflict, "a directory of this name exists")
		return
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		f.refuse(w, err)
		return
	case err != nil:
		old = nil
		if parent, err := f.root.Stat(path.Dir(name)); err != nil || !parent.IsDir() {
			w.fail(http.StatusConflict, "the directory does not exist")
			return
		}
	}
	if !mayReplace(r.Header, old) {
		w.fail(http.StatusPreconditionFailed, "")
		return
	}
	fi, old, err := f.store(r.Body, name, r.Header)
	var body *http.MaxBytesError
	switch {
	case err == nil:
	case errors.As(err, &body):
		w.fail(http.StatusRequestEntityTooLarge, "")
		return
	case errors.Is(err, errPrecondition):
		w.fail(http.StatusPreconditionFailed, "")
		return
	case errors.Is(err, errQuota), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		w.fail(http.StatusInsufficientStorage, "no room left under /files/")
		return
	case errors.As(err, new(bodyError)):
		w.fail(http.StatusBadRequest, "the body ended early")
		return
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		w.fail(http.StatusForbidden, "the host may not write there")
		return
	default:
		f.refuse(w, err)
		return
	}
	h := w.Header()
	h.Set("Etag", fileTag(fi))
	if old != nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	h.Set("Location", filesURL(name))
	w.text(http.StatusCreated, "stored\n")
}

// bodyError marks an error of the request's body, not of the file.
type bodyError struct{ error }

func (e bodyError) Unwrap() error { return e.error }

var errPrecondition = errors.New("the file has changed")

// store writes body to a temporary file and renames it to name, if what is there, old,
// is still what the preconditions in h ask for: they are there so that of two uploads
// at the same time one is told (RFC 9110, 13.1.2). On any error nothing is left of it,
// in the directory or in the quota.
func (f *files) store(body io.Reader, name string, h http.Header) (fi, old fs.FileInfo, err error) {
	temp := path.Join(path.Dir(name), tempPrefix+rand.Text())
	if err := f.quota.take(fileBlock); err != nil {
		return nil, nil, err
	}
	charged := int64(fileBlock)
	file, err := f.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		f.quota.give(charged)
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			file.Close()
			f.root.Remove(temp)
			f.quota.give(charged)
		}
	}()
	buf := copyBufs.Get().(*[copyBuf]byte)
	defer copyBufs.Put(buf)
	var size int64
	for {
		n, rerr := body.Read(buf[:])
		if n > 0 {
			size += int64(n)
			if more := blocks(size) - charged; more > 0 {
				if err := f.quota.take(more); err != nil {
					return nil, nil, err
				}
				charged += more
			}
			if _, err := file.Write(buf[:n]); err != nil {
				return nil, nil, err
			}
		}
		if rerr == io.EOF {
			break
		}
		if rerr != nil {
			return nil, nil, bodyError{rerr}
		}
	}
	if err := file.Close(); err != nil {
		return nil, nil, err
	}
	// A file system's own clock may stand still for milliseconds; the entity tag
	// needs a time that two uploads do not share.
	now := f.env.Now()
	if err := f.root.Chtimes(temp, now, now); err != nil {
		return nil, nil, err
	}
	if fi, err = f.root.Stat(temp); err != nil {
		return nil, nil, err
	}
	// One replacement at a time, so that the space of what is replaced is given
	// back once, and nothing changes behind the preconditions.
	f.swap.Lock()
	defer f.swap.Unlock()
	if old, err = f.root.Stat(name); err != nil {
		old = nil
	}
	if !mayReplace(h, old) {
		return nil, nil, errPrecondition
	}
	var freed int64
	if was, err := f.root.Lstat(name); err == nil && was.Mode().IsRegular() {
		freed = blocks(was.Size())
	}
	if err := f.root.Rename(temp, name); err != nil {
		return nil, nil, err
	}
	f.quota.give(freed)
	return fi, old, nil
}

// mayReplace evaluates the preconditions of a PUT (RFC 9110, 13.2.2) against the
// file that is there, nil when none is.
func mayReplace(h http.Header, old fs.FileInfo) bool {
	tag := ""
	if old != nil {
		tag = fileTag(old)
	}
	if vals, ok := h["If-Match"]; ok {
		if old == nil || !tagListed(vals, tag) {
			return false
		}
	} else if v := h.Get("If-Unmodified-Since"); v != "" && old != nil {
		if t, err := http.ParseTime(v); err == nil && old.ModTime().Truncate(time.Second).After(t) {
			return false
		}
	}
	if vals, ok := h["If-None-Match"]; ok && old != nil && (tagListed(vals, tag) || tagListed(vals, "W/"+tag)) {
		return false // by the weak comparison (13.1.2)
	}
	return true
}

func tagListed(vals []string, tag string) bool {
	for _, v := range vals {
		for t := range strings.SplitSeq(v, ",") {
			if t = strings.TrimSpace(t); t == "*" || t == tag {
				return true
			}
		}
	}
	return false
}
