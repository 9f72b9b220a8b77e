package http

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"time"

	"porthole/services"
)

const (
	// stopGrace is how long transfers in flight may go on after the end was asked for.
	stopGrace = 2 * time.Second
	// stopLimit is how long goroutines may take to notice that their connection is
	// closed. net/http itself lingers half a second on some.
	stopLimit = 10 * time.Second
	// pingAfter is how long an HTTP/2 connection with open streams may be silent
	// before it is asked for a sign of life.
	pingAfter = 20 * time.Second
)

// serve answers on every listener until ctx ends. It stops in this order: requests
// that wait for time are cancelled and listeners closed; transfers get a short
// grace; connections are closed; goroutines are waited for.
func serve(ctx context.Context, env *services.Env) error {
	cfg, ok := env.Config.(*Config)
	if !ok {
		d := Default()
		cfg = &d
	}
	defer closeAll(env)
	st, err := newSite(env, cfg)
	if err != nil {
		return err
	}
	defer st.close()

	base, cancel := context.WithCancel(context.Background())
	defer cancel()
	conns := newGate(math.MaxInt)
	srv := newServer(base, env, cfg, st, conns)

	open := newSlots(cfg.MaxConnections)
	lns := []net.Listener{st.back}
	for _, ln := range env.TCP {
		l := newListener(ln, open, cfg.WriteTimeout)
		l.refuse, l.back = st.refuse, st.back
		if cfg.H2C {
			l.h2 = int(cfg.HeaderLimit)
		}
		lns = append(lns, l)
	}
	ended := make(chan error, len(lns))
	for _, ln := range lns {
		go func() { ended <- srv.Serve(ln) }()
	}

	running := len(lns)
	var failed error
	select {
	case <-ctx.Done():
	case failed = <-ended:
		running--
		failed = fmt.Errorf("accept: %w", failed)
	}

	cancel()
	st.back.Close() // before endRests: what wakes now goes on resting
	open.endRests()
	grace, done := context.WithTimeout(context.Background(), stopGrace)
	srv.Shutdown(grace)
	done()
	open.closeAll() // hijacked ones too, which srv forgets, and none of them lingers now
	srv.Close()
	for ; running > 0; running-- {
		<-ended
	}
	return errors.Join(failed, waitEmpty(conns, "connections"), waitEmpty(st.requests, "requests"))
}

func newServer(base context.Context, env *services.Env, cfg *Config, h http.Handler, conns *gate) *http.Server {
	var protos http.Protocols
	protos.SetHTTP1(true)
	protos.SetUnencryptedHTTP2(cfg.H2C)
	return &http.Server{
		Handler:           h,
		Protocols:         &protos,
		ReadHeaderTimeout: cfg.HeaderTimeout,
		IdleTimeout:       cfg.IdleTimeout,
		// net/http reads 4 KiB more than it is told.
		MaxHeaderBytes: int(cfg.HeaderLimit) - 4096,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: cfg.MaxStreams,
			MaxReadFrameSize:     maxFrame,
			SendPingTimeout:      pingAfter,
		},
		DisableGeneralOptionsHandler: true, // ours says Allow
		ErrorLog:                     slog.NewLogLogger(env.Log.Handler(), slog.LevelWarn),
		BaseContext:                  func(net.Listener) context.Context { return base },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if c, ok := c.(*conn); ok {
				ctx = context.WithValue(ctx, connKey{}, c)
			}
			return ctx
		},
		ConnState: followState(conns),
	}
}

// connKey is where a request's context holds its *conn.
type connKey struct{}

func waitEmpty(g *gate, what string) error {
	g.shut()
	t := time.NewTimer(stopLimit)
	defer t.Stop()
	select {
	case <-g.empty:
		return nil
	case <-t.C:
		return fmt.Errorf("stop: %s still open after %v", what, stopLimit)
	}
}

func closeAll(env *services.Env) {
	for _, ln := range env.TCP {
		ln.Close()
	}
	for _, pc := range env.UDP {
		pc.Close()
	}
}
