package stack

import (
	"crypto/rand"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"porthole/demux"
	"porthole/demux/packet"
)

// SYN cookies (RFC 4987, 3.6) are made here and taken by netstack: it takes the ACK
// of a cookie at any time, but makes them for all ports or for none, and only for a
// SYN that its own goroutines have come to. What this file makes is exactly what
// netstack would have made. A port's keys are what netstack reads from its source
// of random numbers while the port begins to listen. An update of netstack that
// changes the sum fails TestCookiesPerPort.

// secrets is netstack's source of random numbers. It shows whoever opens a listener
// what was read meanwhile.
type secrets struct {
	opening sync.Mutex // held by who opens a listener

	mu   sync.Mutex
	keys *[][sha1.BlockSize]byte // what was read in this size; nil: nobody wants to know
}

func (r *secrets) Read(b []byte) (int, error) {
	n, err := rand.Read(b)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.keys != nil && len(b) == sha1.BlockSize {
		*r.keys = append(*r.keys, [sha1.BlockSize]byte(b))
	}
	return n, err
}

var errCookieKeys = errors.New("netstack chose its cookie keys in a way that is not known")

// learn runs f, which opens a listener, and returns the listener's cookie keys.
func (r *secrets) learn(f func() tcpip.Error) (*cookieKeys, error) {
	r.opening.Lock()
	defer r.opening.Unlock()
	var got [][sha1.BlockSize]byte
	r.mu.Lock()
	r.keys = &got
	r.mu.Unlock()
	terr := f()
	r.mu.Lock()
	r.keys = nil
	r.mu.Unlock()
	if terr != nil {
		return nil, errno(terr)
	}
	if len(got) != len(cookieKeys{}) {
		return nil, errCookieKeys
	}
	return (*cookieKeys)(got), nil
}

// cookies are the SYN cookies of one listener. A cookie has the tick of its birth
// in the upper 8 bits, and the class of the client's MSS in the lower 24.
type cookies struct {
	clock tcpip.Clock
	port  uint16
	keys  atomic.Pointer[cookieKeys] // nil until the listener listens
}

type cookieKeys [2][sha1.BlockSize]byte

const (
	cookieTicks = 2 // beside the present one
	cookieBits  = 24
	cookieMask  = 1<<cookieBits - 1
)

// cookieMSS are the sizes that a cookie can carry.
var cookieMSS = [...]uint16{536, 1300, 1440, 1460}

func (c *cookies) tick() uint32 {
	return uint32(c.clock.NowMonotonic().Sub(tcpip.MonotonicTime{})/time.Second) >> 6 & 0xff
}

func (c *cookies) hash(k demux.FlowKey, tick uint32, key *[sha1.BlockSize]byte) uint32 {
	var b [8 + sha1.BlockSize + 32]byte
	binary.BigEndian.PutUint16(b[0:], c.port)
	binary.BigEndian.PutUint16(b[2:], k.Remote.Port())
	binary.BigEndian.PutUint32(b[4:], tick)
	n := 8 + copy(b[8:], key[:])
	for _, a := range [2]netip.Addr{k.Local, k.Remote.Addr()} {
		if a.Is4() {
			a4 := a.As4()
			n += copy(b[n:], a4[:])
		} else {
			a16 := a.As16()
			n += copy(b[n:], a16[:])
		}
	}
	sum := sha1.Sum(b[:n])
	return binary.BigEndian.Uint32(sum[:])
}

// make is the cookie for a SYN with that sequence number and MSS.
func (c *cookies) make(k demux.FlowKey, irs uint32, mss uint16) (cookie uint32, ok bool) {
	keys := c.keys.Load()
	if keys == nil {
		return 0, false
	}
	class := uint32(0)
	for i, m := range cookieMSS {
		if mss >= m {
			class = uint32(i)
		}
	}
	t := c.tick()
	return c.hash(k, 0, &keys[0]) + irs + t<<cookieBits + (c.hash(k, t, &keys[1])+class)&cookieMask, true
}

// valid reports whether a segment acknowledges a cookie of the last ticks.
func (c *cookies) valid(k demux.FlowKey, s demux.Segment) bool {
	keys := c.keys.Load()
	if keys == nil {
		return false
	}
	v := s.Ack - 1 - c.hash(k, 0, &keys[0]) - (s.Seq - 1)
	t := v >> cookieBits
	if (c.tick()-t)&0xff > cookieTicks {
		return false
	}
	return (v-c.hash(k, t, &keys[1]))&cookieMask < uint32(len(cookieMSS))
}

// cookieWindow is what a cookie's SYN+ACK offers: no more than netstack will give
// the connection, which is ten segments twice, as a scaled window can say it.
func cookieWindow(mss uint16, buffer int64) uint16 {
	return uint16(min(20*int64(mss), buffer/2, 65535) &^ 0x7f)
}

// sendCookie answers a SYN without keeping anything of it. The cookie carries
// neither window scale nor timestamps nor SACK, so none is offered.
func (s *Stack) sendCookie(ln *Listener, p demux.Packet) {
	i := p.Info()
	k := keyOf(p)
	irs, _, _, opts := i.TCP(p.IP())
	ours := uint16(s.facts.MTU - 40)
	if i.Version == 6 {
		ours -= 20
	}
	cookie, ok := ln.cookies.make(k, irs, header.ParseSynOptions(opts, false).MSS)
	if !ok {
		return // it came while the port was being opened; it comes again
	}
	s.reply(p, packet.TCPHeader{
		Seq: cookie, Ack: irs + 1, Flags: flagSYN | flagACK, Window: cookieWindow(ours, ln.ep.SocketOptions().GetReceiveBufferSize()),
		Options: []byte{packet.OptMSS, 4, byte(ours >> 8), byte(ours)},
	}, demux.FromDoor)
}
