// Package classic holds the smallest services there are: echo (RFC 862) gives
// back what it gets, discard (RFC 863) throws it away. They are the examples to
// start a service of one's own from: one literal, a Serve that ends with its
// context, a Probe that asks a real question.
//
// Both keep constant memory per connection, limit connections, and end those that
// are idle. UDP echo never answers a datagram that another classic service may
// have sent, because two of them would talk to each other for ever.
package classic

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"time"

	"porthole/services"
)

// Config is what echo and discard can be told.
type Config struct {
	MaxConnections int           `yaml:"max-connections" doc:"TCP connections at a time; more wait in the port's accept queue"`
	IdleTimeout    time.Duration `yaml:"idle-timeout" doc:"longest time in which a TCP connection may bring nothing, or take nothing of its echo"`
}

// Default is the configuration of a service that was told nothing.
func Default() Config {
	return Config{MaxConnections: 256, IdleTimeout: 2 * time.Minute}
}

// Validate reports the first wrong key.
func (c *Config) Validate() error {
	switch {
	case c.MaxConnections < 1 || c.MaxConnections > 1<<20:
		return &services.ConfigError{Key: "max-connections", Err: fmt.Errorf("%d is not 1 to %d", c.MaxConnections, 1<<20)}
	case c.IdleTimeout < time.Millisecond || c.IdleTimeout > 24*time.Hour:
		return &services.ConfigError{Key: "idle-timeout", Err: fmt.Errorf("%v is not 1ms to 24h", c.IdleTimeout)}
	}
	return nil
}

// handlers is what one classic service does with a connection and a datagram.
// Both count what they took; udp returns the answer, nil for none.
type handlers struct {
	name string
	tcp  func(c net.Conn, timeout time.Duration) (bytes int64, err error)
	udp  func(datagram []byte, from uint16) (answer []byte, result string)
}

// serve runs h on all of the service's ports until ctx ends.
func (h handlers) serve(ctx context.Context, env *services.Env) error {
	cfg, ok := env.Config.(*Config)
	if !ok {
		d := Default()
		cfg = &d
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := newServer(h, env, cfg)
	stop := context.AfterFunc(ctx, s.close)
	ended := make(chan error, len(env.TCP)+len(env.UDP))
	for _, ln := range env.TCP {
		go func() { ended <- s.acceptAll(ln) }()
	}
	for _, pc := range env.UDP {
		go func() { ended <- s.answerAll(pc) }()
	}
	var failed error
	for range cap(ended) {
		if err := <-ended; err != nil && failed == nil && ctx.Err() == nil {
			failed = err
		}
		cancel() // one listener that breaks ends all
	}
	<-ctx.Done() // a service without ports
	if stop() {
		s.close()
	}
	s.conns.Wait()
	return failed
}

// isTimeout knows the deadline errors of every kind of socket.
func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// datagramSize is the largest UDP payload: 64 KiB less both headers fit in it.
const datagramSize = math.MaxUint16
