package servicestest

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"porthole/services"
)

// Answering is a socket of the kernel that takes a service's function for answering
// where the host reads (services.Answerer), for a test to call.
type Answering struct {
	net.PacketConn
	set chan struct{} // closed when the service has given a function

	mu    sync.Mutex // held while the function runs
	f     services.AnswerFunc
	once  sync.Once
	ended bool
}

// NewAnswering wraps a socket.
func NewAnswering(pc net.PacketConn) *Answering {
	return &Answering{PacketConn: pc, set: make(chan struct{})}
}

// Answer implements services.Answerer.
func (a *Answering) Answer(f services.AnswerFunc) {
	a.mu.Lock()
	a.f = f
	a.mu.Unlock()
	a.once.Do(func() { close(a.set) })
}

// Close ends the function, as the host's sockets do.
func (a *Answering) Close() error {
	a.mu.Lock()
	a.f, a.ended = nil, true
	a.mu.Unlock()
	return a.PacketConn.Close()
}

// Ended reports whether the service has closed the socket.
func (a *Answering) Ended() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ended
}

// Func waits for the service's function and returns a caller of it: one call at a
// time, none after Close.
func (a *Answering) Func(t testing.TB) services.AnswerFunc {
	t.Helper()
	select {
	case <-a.set:
	case <-time.After(Patience):
		t.Fatal("the service answers nothing where the host reads")
	}
	return func(msg []byte, from netip.AddrPort, reply func([]byte, netip.AddrPort) bool) bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.f != nil && a.f(msg, from, reply)
	}
}

// Set reports whether the service has given a function.
func (a *Answering) Set() bool {
	select {
	case <-a.set:
		return true
	default:
		return false
	}
}
