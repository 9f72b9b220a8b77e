package classic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"porthole/services"
)

// Discard takes what comes to port 9 and never answers.
var Discard = services.Service{
	Name:   "discard",
	About:  "Discard (RFC 863), TCP and UDP",
	Ports:  []services.Port{services.TCP(9), services.UDP(9)},
	Config: func() any { c := Default(); return &c },
	Serve:  handlers{"discard", discardStream, discardDatagram}.serve,
	Probe:  probeDiscard,
}

func discardStream(c net.Conn, timeout time.Duration) (total int64, err error) {
	var read func() (int, error)
	if d, ok := c.(services.Discarder); ok {
		read = d.Discard
	} else {
		b := streamBufs.Get().(*[streamBuf]byte)
		defer streamBufs.Put(b)
		read = func() (int, error) { return c.Read(b[:]) }
	}
	for {
		c.SetReadDeadline(time.Now().Add(timeout)) // a deadline is compared with the wall clock
		n, err := read()
		total += int64(n)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

func discardDatagram([]byte, uint16) ([]byte, string) { return nil, "discarded" }

// probeDiscard cannot ask for an answer. On TCP it checks that what it sends is
// taken and that its FIN, the end of the conversation, is answered by one and
// nothing else; on UDP, that the datagram can be sent and none comes back at once.
func probeDiscard(ctx context.Context, env *services.Env, port services.Port) error {
	c, err := env.Net.Dial(ctx, port.Proto, 0, env.Host.AddrPort(port.Number))
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if _, err := c.Write([]byte("porthole self-test\r\n")); err != nil {
		return err
	}
	if port.Proto == "udp" {
		return silentFor(c, 20*time.Millisecond)
	}
	cw, ok := c.(interface{ CloseWrite() error })
	if !ok {
		return nil
	}
	if err := cw.CloseWrite(); err != nil {
		return err
	}
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		return fmt.Errorf("read: got %d bytes and %v, want the end", n, err)
	}
	return nil
}

// silentFor fails on an answer, and on the ICMP error of a port that is closed.
func silentFor(c net.Conn, d time.Duration) error {
	if err := c.SetReadDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	n, err := c.Read(make([]byte, 1))
	switch {
	case err == nil:
		return fmt.Errorf("read: got %d bytes, want none", n)
	case isTimeout(err):
		return nil
	case errors.Is(err, net.ErrClosed):
		return fmt.Errorf("read: the probe was cancelled: %w", err)
	}
	return fmt.Errorf("read: %w", err)
}
