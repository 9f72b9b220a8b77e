package rig

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"porthole/cmd/porthole/internal/pause"
)

// pinged is what came of requests that were sent at a steady rate.
type pinged struct {
	sent int
	took []time.Duration // of those answered, ascending
}

func (p *pinged) answered() float64 { return percent(len(p.took), p.sent) }

// The first byte of a datagram says what it is.
const (
	isPing  = 'p'
	isFlood = 'f'
)

// pingsAtOnce bounds what a client that was late makes up for.
const pingsAtOnce = 8

// ping sends requests of size bytes at a steady rate to a service that sends each one
// back, without waiting for answers, and waits a while for the last.
func ping(ctx context.Context, at netip.AddrPort, rate float64, size int, over, last time.Duration) (*pinged, error) {
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	var mu sync.Mutex // guards left, all and took
	left := map[uint64]time.Time{}
	all := false
	p := &pinged{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for {
			n, err := c.Read(buf)
			switch {
			case errors.Is(err, syscall.ECONNREFUSED):
				continue
			case err != nil:
				return
			case n < 9:
				continue
			}
			seq := binary.BigEndian.Uint64(buf[1:])
			mu.Lock()
			if at, ok := left[seq]; ok {
				p.took = append(p.took, time.Since(at))
				delete(left, seq)
			}
			ready := all && len(left) == 0
			mu.Unlock()
			if ready {
				return
			}
		}
	}()
	b := make([]byte, max(size, 9))
	b[0] = isPing
	err = steadily(ctx, rate, pingsAtOnce, over, func() error {
		binary.BigEndian.PutUint64(b[1:], uint64(p.sent))
		mu.Lock()
		left[uint64(p.sent)] = time.Now()
		mu.Unlock()
		p.sent++
		_, err := c.Write(b)
		return refusedIsFine(err)
	})
	mu.Lock()
	all = true
	ready := len(left) == 0
	mu.Unlock()
	if ready || ctx.Err() != nil {
		last = 0
	}
	_ = c.SetReadDeadline(time.Now().Add(last))
	<-done
	slices.Sort(p.took)
	return p, err
}

// steadily calls send at a steady rate. What is late is made up for, but no more than
// most at once: a client that was asleep shall not come as a burst of its own.
func steadily(ctx context.Context, rate float64, most int, over time.Duration, send func() error) error {
	began := time.Now()
	// Each pause is another. What a flood sends each millisecond keeps step with a service
	// that works for a millisecond, and whoever asks beside it always finds the place that
	// was just left, or never.
	between := min(max(time.Duration(float64(time.Second)/max(rate, 1)), time.Millisecond/5), time.Millisecond)
	for n := 0; ; {
		since := time.Since(began)
		due := int(min(since, over).Seconds() * rate)
		for n = max(n, due-most); n < due; n++ {
			if err := send(); err != nil {
				return fmt.Errorf("send: %w", err)
			}
		}
		if since >= over {
			return ctx.Err()
		}
		if !pause.For(ctx, between/2+rand.N(between)) {
			return ctx.Err()
		}
	}
}

// refusedIsFine takes away the error that tells of an ICMP message for what was sent
// before.
func refusedIsFine(err error) error {
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOBUFS) {
		return nil
	}
	return err
}

// oversleep is how late a timer may wake a service that then makes up for it.
const oversleep = 20 * time.Millisecond

// answer sends pings back and works on everything else, one datagram at a time, until
// the socket is closed.
func answer(pc net.PacketConn, work time.Duration) {
	buf := make([]byte, 2048)
	var free time.Time // when the work so far is done
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		if n > 0 && buf[0] == isPing {
			_, _ = pc.WriteTo(buf[:n], from)
			continue
		}
		now := time.Now()
		if late := now.Add(-oversleep); free.Before(late) {
			free = late
		}
		free = free.Add(work)
		if wait := free.Sub(now); wait > time.Millisecond { // a shorter one is slept with the next
			time.Sleep(wait)
		}
	}
}
