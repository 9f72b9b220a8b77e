package classic

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"porthole/services"
)

// Echo answers on port 7 with what it gets.
var Echo = services.Service{
	Name:   "echo",
	About:  "Echo (RFC 862), TCP and UDP; no answer to datagrams from ports of other echoing services",
	Ports:  []services.Port{services.TCP(7), services.UDP(7)},
	Config: func() any { c := Default(); return &c },
	Serve:  handlers{"echo", echoStream, echoDatagram}.serve,
	Probe:  probeEcho,
}

// streamBuf is what one TCP connection may hold between reading and writing. A
// client that does not read its echo is not read from either: TCP's own windows
// close, and the memory stays this.
const streamBuf = 16 << 10

// streamBufs are used again: a connection that brings one byte would pay for 16 KiB.
var streamBufs = sync.Pool{New: func() any { return new([streamBuf]byte) }}

// echoStream returns at the client's FIN, after all of it has been sent back
// (RFC 862: "until the calling user terminates the connection").
func echoStream(c net.Conn, timeout time.Duration) (total int64, err error) {
	b := streamBufs.Get().(*[streamBuf]byte)
	defer streamBufs.Put(b)
	buf := b[:]
	for {
		c.SetReadDeadline(time.Now().Add(timeout)) // a deadline is compared with the wall clock
		n, err := c.Read(buf)
		if n > 0 {
			c.SetWriteDeadline(time.Now().Add(timeout))
			m, werr := c.Write(buf[:n])
			total += int64(m)
			if werr != nil {
				return total, werr
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// loopPorts are those of services that answer any datagram with one: echo,
// daytime, quote of the day, chargen, time; and 0, which nobody can be reached
// at. A datagram with such a source port, forged or not, gets no echo: two such
// hosts would keep each other busy for ever (CERT CA-1996-01).
var loopPorts = map[uint16]bool{0: true, 7: true, 9: true, 13: true, 17: true, 19: true, 37: true}

func echoDatagram(datagram []byte, from uint16) ([]byte, string) {
	if loopPorts[from] {
		return nil, "refused"
	}
	return datagram, "echoed"
}

// probeEcho sends a line and wants it back.
func probeEcho(ctx context.Context, env *services.Env, port services.Port) error {
	c, err := env.Net.Dial(ctx, port.Proto, 0, env.Host.AddrPort(port.Number))
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	line := []byte("porthole self-test\r\n")
	if _, err := c.Write(line); err != nil {
		return err
	}
	got := make([]byte, len(line))
	if _, err := io.ReadFull(c, got); err != nil {
		return fmt.Errorf("read echo: %w", err)
	}
	if !bytes.Equal(line, got) {
		return fmt.Errorf("read echo: got %q", got)
	}
	return nil
}
