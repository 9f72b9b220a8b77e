package http

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"porthole/services"
)

// files serves one directory. Every path goes through os.Root, so neither ".."
// nor a symbolic link leaves it, not even one that is changed while it is
// followed. Names that begin with a dot do not exist for clients: they are where
// unfinished uploads live.
type files struct {
	root  *os.Root
	env   *services.Env
	cfg   *Config
	most  int // entries of a listing
	quota quota
	swap  sync.Mutex // held while a finished upload takes its place
}

// listLimit bounds a listing, which is sorted and so made in memory.
const listLimit = 10000

func openFiles(dir string, cfg *Config, env *services.Env) (*files, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	f := &files{root: root, env: env, cfg: cfg, most: listLimit}
	f.quota.limit = int64(cfg.UploadTotal)
	if cfg.Upload {
		if err := f.takeStock(); err != nil {
			root.Close()
			return nil, err
		}
	}
	return f, nil
}

func (s *site) serveFiles(w *response, r *http.Request) {
	if s.files == nil {
		w.fail(http.StatusNotFound, "this host has no files to serve")
		return
	}
	name, dir, ok := fileName(strings.TrimPrefix(r.URL.Path, "/files/"))
	switch {
	case !ok:
		w.fail(http.StatusNotFound, "no such file")
	case r.Method == http.MethodPut:
		s.files.put(w, r, name, dir)
	default:
		s.files.get(w, r, name, dir)
	}
}

// fileName turns the path below /files/ into a name for os.Root, and says whether
// it asks for a directory. ok is false for names that no client may use.
func fileName(p string) (name string, dir, ok bool) {
	dir = p == "" || strings.HasSuffix(p, "/")
	for seg := range strings.SplitSeq(p, "/") {
		if strings.HasPrefix(seg, ".") { // hidden, and "." and ".." with them
			return "", false, false
		}
	}
	name = strings.TrimPrefix(path.Clean("/"+p), "/")
	if name == "" {
		name = "."
	}
	return name, dir, fs.ValidPath(name) && !strings.ContainsRune(name, 0)
}

func (f *files) get(w *response, r *http.Request, name string, dir bool) {
	// Without O_NONBLOCK a FIFO would hold the request until somebody writes to it.
	file, err := f.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		f.refuse(w, err)
		return
	}
	defer file.Close()
	fi, err := file.Stat()
	switch {
	case err != nil:
		f.refuse(w, err)
	case fi.IsDir() && !dir:
		w.redirect(filesURL(name) + "/")
	case fi.IsDir():
		f.list(w, r, file, name)
	case dir, !fi.Mode().IsRegular():
		w.fail(http.StatusNotFound, "no such file")
	default:
		f.send(w, r, file, fi)
	}
}

// send serves one regular file with ranges and conditions.
func (f *files) send(w *response, r *http.Request, file *os.File, fi fs.FileInfo) {
	h := w.Header()
	h["X-Content-Type-Options"] = nosniff
	h["Etag"] = []string{fileTag(fi)}
	if f.cfg.Upload {
		// Anyone may have put this file here: its scripts get no origin to act from.
		h["Content-Security-Policy"] = []string{"sandbox"}
	}
	tameRange(r, fi.Size())
	at := fi.ModTime()
	if now := f.env.Now(); at.After(now) { // RFC 9110, 8.8.2.1: never after Date
		at = now
	}
	http.ServeContent(w, r, fi.Name(), at, file)
}

// fileTag changes with every upload: the time has nanoseconds and the size stands
// beside it.
func fileTag(fi fs.FileInfo) string {
	return `"` + strconv.FormatInt(fi.ModTime().UnixNano(), 36) + "-" + strconv.FormatInt(fi.Size(), 36) + `"`
}

// refuse maps an error of the file system to a status. What lies outside the root
// and what the host may not read is as absent as what is not there.
func (f *files) refuse(w *response, err error) {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ENAMETOOLONG),
		errors.Is(err, syscall.ELOOP), errors.Is(err, fs.ErrInvalid), errors.Is(err, syscall.ENXIO),
		errors.Is(err, fs.ErrPermission), strings.Contains(err.Error(), "path escapes"):
		w.fail(http.StatusNotFound, "no such file")
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		w.fail(http.StatusServiceUnavailable, "too many open files")
	default:
		f.env.Log.Error("files", "error", err)
		w.fail(http.StatusInternalServerError, "the file system failed")
	}
}

func filesURL(name string) string {
	return (&url.URL{Path: "/files/" + name}).EscapedPath()
}

// entry is one line of a listing.
type entry struct {
	Name string
	Href string
	Size string
	Time string
	dir  bool
}

func (f *files) list(w *response, r *http.Request, dir *os.File, name string) {
	if index, err := f.root.OpenFile(path.Join(name, "index.html"), os.O_RDONLY|syscall.O_NONBLOCK, 0); err == nil {
		defer index.Close()
		if fi, err := index.Stat(); err == nil && fi.Mode().IsRegular() {
			f.send(w, r, index, fi)
			return
		}
	}
	ents, err := dir.ReadDir(f.most + 1)
	if err != nil && len(ents) == 0 && !errors.Is(err, io.EOF) {
		f.refuse(w, err)
		return
	}
	more := len(ents) > f.most
	var list []entry
	for _, e := range ents[:min(len(ents), f.most)] {
		if en, ok := f.entry(name, e); ok {
			list = append(list, en)
		}
	}
	slices.SortFunc(list, func(a, b entry) int {
		if a.dir != b.dir {
			if a.dir {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.Name, b.Name)
	})
	page := listing{Path: "/files/", Up: name != ".", List: list, More: more, Limit: f.most}
	if name != "." {
		page.Path += name + "/"
	}
	h := w.Header()
	h.Set("Cache-Control", "no-cache")
	h.Set("Vary", "Accept")
	if prefersText(r.Header) {
		var b strings.Builder
		for _, e := range list {
			fmt.Fprintf(&b, "%s\t%s\t%s\n", printable(e.Name), e.Size, e.Time)
		}
		w.text(http.StatusOK, b.String())
		return
	}
	w.page(listPage, page)
}

// printable keeps a name within its column of its line.
func printable(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, name)
}

// entry describes a directory entry as a client would find it: a symbolic link is
// what it leads to, and one that leads nowhere, or out of the root, is left out.
func (f *files) entry(dir string, e fs.DirEntry) (entry, bool) {
	if strings.HasPrefix(e.Name(), ".") {
		return entry{}, false
	}
	fi, err := e.Info()
	if err == nil && fi.Mode()&fs.ModeSymlink != 0 {
		fi, err = f.root.Stat(path.Join(dir, e.Name()))
	}
	if err != nil || !fi.IsDir() && !fi.Mode().IsRegular() {
		return entry{}, false
	}
	en := entry{Name: e.Name(), Time: fi.ModTime().UTC().Format(time.DateTime), dir: fi.IsDir()}
	if en.dir {
		en.Name += "/"
		en.Size = "-"
	} else {
		en.Size = strconv.FormatInt(fi.Size(), 10)
	}
	// A relative reference whose first segment holds a colon would be a scheme:
	// url.URL writes "./a:b" (RFC 3986, 4.2).
	en.Href = (&url.URL{Path: en.Name}).String()
	return en, true
}

type listing struct {
	Path  string
	Up    bool
	List  []entry
	More  bool
	Limit int
}
