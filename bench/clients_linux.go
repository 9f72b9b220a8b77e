package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The own clients are closed loops: each worker does one thing after another, so a
// server is never asked for more than it answers. Each prints one sample.

var ownClients = map[string]func(time.Duration) (sample, error){
	"discard":  discardClient,
	"connects": connectClient,
	"dns":      func(t time.Duration) (sample, error) { return dnsClient(t, 16, 4) },
	"dns-one":  func(t time.Duration) (sample, error) { return dnsClient(t, 1, 1) },
	"dhcp":     dhcpClient,

	"flood-dns":  floodDNS,
	"flood-syn":  floodSYN,
	"flood-none": floodNone,
}

func runClient(name, length string) error {
	f := ownClients[name]
	if f == nil {
		return errors.New("no such client")
	}
	t, err := time.ParseDuration(length)
	if err != nil {
		return err
	}
	s, err := f(t)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(s)
}

// discardClient writes as fast as it may.
func discardClient(t time.Duration) (sample, error) {
	c, err := net.Dial("tcp", host+":9")
	if err != nil {
		return sample{}, err
	}
	defer c.Close()
	began := time.Now()
	if err := c.SetWriteDeadline(began.Add(t)); err != nil {
		return sample{}, err
	}
	b := make([]byte, 64<<10)
	bits := 0.0
	for {
		n, err := c.Write(b)
		bits += float64(n) * 8
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return sample{Value: bits / time.Since(began).Seconds() / 1e9}, nil
		}
		if err != nil {
			return sample{}, err
		}
	}
}

// connectClient opens connections, proves with one byte that the service has them,
// and resets them, so that no TIME-WAIT fills the client's ports.
func connectClient(t time.Duration) (sample, error) {
	const workers = 16
	var good, bad atomic.Int64
	began := time.Now()
	end := began.Add(t)
	var wg sync.WaitGroup
	var last atomic.Value
	for range workers {
		wg.Go(func() {
			for time.Now().Before(end) {
				if err := echoOnce(); err == nil {
					good.Add(1)
				} else {
					bad.Add(1)
					last.Store(err.Error())
				}
			}
		})
	}
	wg.Wait()
	s := sample{Value: float64(good.Load()) / time.Since(began).Seconds(), Errors: int(bad.Load())}
	s.Note, _ = last.Load().(string)
	return s, nil
}

func echoOnce() error {
	c, err := net.DialTimeout("tcp4", host+":7", 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	b := []byte{'.'}
	if _, err := c.Write(b); err != nil {
		return err
	}
	if _, err := c.Read(b); err != nil {
		return err
	}
	return c.(*net.TCPConn).SetLinger(0)
}

// dnsClient keeps a number of queries in flight on each of its sockets, which are
// blocking: nothing of Go's scheduler is in the round trip.
func dnsClient(t time.Duration, sockets, window int) (sample, error) {
	var good, lost atomic.Int64
	errs := make(chan error, sockets)
	began := time.Now()
	end := began.Add(t)
	for range sockets {
		go func() { errs <- dnsSocket(end, window, &good, &lost) }()
	}
	var err error
	for range sockets {
		err = errors.Join(err, <-errs)
	}
	return sample{Value: float64(good.Load()) / time.Since(began).Seconds(), Errors: int(lost.Load())}, err
}

// query is an A query for http.porthole.test; the first two bytes are its id.
var query = []byte("\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04http\x08porthole\x04test\x00\x00\x01\x00\x01")

func dnsSocket(end time.Time, window int, good, lost *atomic.Int64) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 53, Addr: netip.MustParseAddr(host).As4()}); err != nil {
		return err
	}
	wait := unix.NsecToTimeval(int64(500 * time.Millisecond))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return err
	}
	q := append([]byte(nil), query...)
	id := uint16(0)
	send := func() error {
		id++
		binary.BigEndian.PutUint16(q, id)
		_, err := unix.Write(fd, q)
		return err
	}
	for range window {
		if err := send(); err != nil {
			return err
		}
	}
	var b [1500]byte
	for time.Now().Before(end) {
		n, err := unix.Read(fd, b[:])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN: // nothing for long: all in flight are lost
			lost.Add(int64(window))
			for range window - 1 {
				if err := send(); err != nil {
					return err
				}
			}
		case err != nil:
			return err
		case n < 12 || b[3]&15 != 0 || b[7] != 1:
			return fmt.Errorf("dns: unexpected reply % x", b[:max(n, 0)])
		default:
			good.Add(1)
		}
		if err := send(); err != nil {
			return err
		}
	}
	return nil
}

// dhcpClient is a relay agent with eight clients behind it, each of which goes
// through a whole exchange again and again (RFC 2131, 3.1). A relay agent's traffic
// is unicast, so a TUN device and a veth pair carry it alike.
func dhcpClient(t time.Duration) (sample, error) {
	const clients = 8
	relay := netip.MustParseAddrPort(client + ":67")
	c, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(relay), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(host+":67")))
	if err != nil {
		return sample{}, err
	}
	defer c.Close()
	s := sample{}
	began := time.Now()
	end := began.Add(t)
	done := 0
	var xids [clients]uint32
	send := func(i int, kind byte, offer []byte) error {
		if kind == 1 {
			xids[i] += clients
		}
		_, err := c.Write(dhcpMessage(relay.Addr(), uint32(i)+xids[i], byte(i), kind, offer))
		return err
	}
	for i := range clients {
		if err := send(i, 1, nil); err != nil {
			return s, err
		}
	}
	b := make([]byte, 1500)
	for time.Now().Before(end) {
		if err := c.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			return s, err
		}
		n, err := c.Read(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.Errors += clients
			for i := range clients {
				if err := send(i, 1, nil); err != nil {
					return s, err
				}
			}
			continue
		}
		if err != nil {
			return s, err
		}
		if n < 243 || b[240] != 53 {
			return s, fmt.Errorf("dhcp: unexpected reply of %d bytes", n)
		}
		xid := binary.BigEndian.Uint32(b[4:])
		i := int(xid % clients)
		switch kind := b[242]; {
		case xid != uint32(i)+xids[i]: // of an exchange that was given up
		case kind == 2:
			err = send(i, 3, b[16:20])
		case kind == 5:
			done++
			err = send(i, 1, nil)
		default:
			return s, fmt.Errorf("dhcp: message of kind %d", kind)
		}
		if err != nil {
			return s, err
		}
	}
	s.Value = float64(done) / time.Since(began).Seconds()
	return s, nil
}

// dhcpMessage is a discover (1) or a request (3) for the offered address, as a relay
// agent passes it on.
func dhcpMessage(relay netip.Addr, xid uint32, who, kind byte, offer []byte) []byte {
	m := make([]byte, 240, 300)
	m[0], m[1], m[2], m[3] = 1, 1, 6, 1 // request, Ethernet, six bytes, one hop
	binary.BigEndian.PutUint32(m[4:], xid)
	copy(m[24:], relay.AsSlice())
	copy(m[28:], []byte{2, 0, 0, 0, 7, who})
	copy(m[236:], "\x63\x82\x53\x63")
	m = append(m, 53, 1, kind)
	if kind == 3 {
		m = append(m, 50, 4, offer[0], offer[1], offer[2], offer[3])
		m = append(m, 54, 4)
		m = append(m, netip.MustParseAddr(host).AsSlice()...)
	}
	m = append(m, 55, 4, 1, 3, 6, 15, 255)
	return m[:300]
}
