package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/netutil"
)

// limitConns bounds how many clients one host serves at once; more wait.
const limitConns = 128

// Server answers on one host's socket, and on loopback where that was asked for.
type Server struct {
	path string
	ln   net.Listener
	mine os.FileInfo // of the socket as bound; a path that holds another one is not ours to remove
	loop *Loopback
}

// Busy is the error of Listen when a running host holds the name.
type Busy struct {
	Path   string
	Holder string // what is known of it
}

func (e *Busy) Error() string {
	return fmt.Sprintf("control socket %s: held by %s; stop it or choose another --name", e.Path, e.Holder)
}

// Listen binds the socket of the host called name: mode 0600 in a directory of
// mode 0700. A stale socket is replaced; a live one gives *Busy.
func Listen(dir, name string) (*Server, error) {
	path, err := socketPath(dir, name)
	if err != nil {
		return nil, err
	}
	var s *Server
	var holder net.Conn
	for range 10 {
		if err = ownDir(dir); err != nil {
			return nil, err
		}
		if s, holder, err = bind(dir, path); !errors.Is(err, errGone) {
			break
		}
	}
	if holder != nil {
		defer func() { _ = holder.Close() }()
		return nil, &Busy{Path: path, Holder: holderOf(holder, path)}
	}
	return s, err
}

// bind takes the path with the directory locked, or gives a connection to who has it.
func bind(dir, path string) (s *Server, holder net.Conn, err error) {
	unlock, err := lock(dir)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	switch c, err := net.Dial("unix", path); {
	case err == nil:
		return nil, c, nil
	case errors.Is(err, syscall.EAGAIN): // see dial
		return nil, nil, fmt.Errorf("control socket %s: its host is alive and has no time; choose another --name", path)
	}
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode().Type() != os.ModeSocket {
			return nil, nil, fmt.Errorf("control socket %s: something else is there; remove it", path)
		}
		_ = os.Remove(path) // stale: nobody answers
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, nil, fmt.Errorf("control socket: %w", err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false) // Close does, with the lock held
	s = &Server{path: path, ln: ln}
	if err = os.Chmod(path, 0o600); err == nil {
		s.mine, err = os.Lstat(path)
	}
	if err != nil {
		_ = ln.Close()
		return nil, nil, fmt.Errorf("control socket: %w", err)
	}
	return s, nil, nil
}

// ListenFree binds name, or name-2, name-3... when it is taken. It returns the
// name that it got.
func ListenFree(dir, name string) (*Server, string, error) {
	try := name
	for n := 2; ; n++ {
		s, err := Listen(dir, try)
		var busy *Busy
		if !errors.As(err, &busy) || n > 100 {
			return s, try, err
		}
		try = fmt.Sprintf("%s-%d", name, n)
	}
}

// Path is where the socket is.
func (s *Server) Path() string { return s.path }

// Serve answers until ctx ends, then closes and removes the socket. It returns
// after the last answer has ended, or was cut off after lastWords.
func (s *Server) Serve(ctx context.Context, api *API) error {
	h := api.handler()
	var answers sync.WaitGroup
	counted := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answers.Add(1)
			defer answers.Done()
			h.ServeHTTP(w, r)
		})
	}
	srv := newServer(ctx, counted(h))
	done := make(chan error, 2)
	go func() { done <- srv.Serve(netutil.LimitListener(s.ln, limitConns)) }()
	running := 1
	var loop *http.Server
	if s.loop != nil {
		loop = newServer(ctx, counted(s.loop.guard(h)))
		running++
		go func() { done <- loop.Serve(netutil.LimitListener(s.loop.ln, limitConns)) }()
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-done:
		running--
	}
	end(srv, loop)
	for ; running > 0; running-- {
		<-done
	}
	answers.Wait()
	return errors.Join(err, s.Close())
}

// lastWords is how long answers under way may take when the host has ended: streams
// know it at once, and a capture's has a file to end.
const lastWords = 2 * time.Second

func end(servers ...*http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	for _, s := range servers {
		if s != nil {
			_ = s.Shutdown(ctx)
			_ = s.Close()
		}
	}
}

func newServer(ctx context.Context, h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      limitAnswerTime, // streams extend it as they write
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
}

// limitAnswerTime bounds one answer: opening a port and reloading wait for the
// self-tests, and for services that end.
const limitAnswerTime = 2 * time.Minute

// Close removes the socket, unless another host has replaced it. Serve calls it.
func (s *Server) Close() error {
	_ = s.ln.Close()
	if s.loop != nil {
		s.loop.close()
	}
	unlock, err := lock(filepath.Dir(s.path))
	if errors.Is(err, errGone) {
		return nil // and the socket with it
	}
	if err != nil {
		return err
	}
	defer unlock()
	if now, err := os.Lstat(s.path); err == nil && os.SameFile(now, s.mine) {
		err = os.Remove(s.path)
		if os.Getenv(EnvDir) == "" {
			_ = os.Remove(filepath.Dir(s.path)) // the last host leaves no directory of ours either
		}
		return err
	}
	return nil
}
