package porthole_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"porthole/demux"
	"porthole/demux/packet"
	"porthole/stack"
	"porthole/tun"
)

// The parity tests play one client script twice in the same namespace: against a
// socket of the kernel there, and against a port of ours behind a TUN device. What
// the client saw is noted in words and times, and must be the same, times within
// parityTolerance. Clients are kernel sockets where a stock client is meant, and
// segments written by hand where it must do what no stock client does.

const parityTolerance = 250 * time.Millisecond

// paritySettings are listen(backlog) and the sysctls of one row.
type paritySettings struct {
	backlog int
	cookies int // net.ipv4.tcp_syncookies
	abort   bool
}

// parityServer is the side that differs: a listening port that serves on command.
type parityServer interface {
	listen(backlog int) // again, too
	accept(n int) int   // at most n that come within a moment; returns how many
	read(conn, n int) string
	hangup(conn int)
	close()
}

// saw is one thing that the client saw; at is compared within the tolerance.
type saw struct {
	what string
	at   time.Duration // since the script began; negative: not a matter of time
}

// parityRun is one run of a script.
type parityRun struct {
	t      testing.TB
	ns     string
	server parityServer
	to     netip.AddrPort
	start  time.Time
	end    time.Time
	wire   *wire
	saw    []saw
	gaveUp bool
	known  string // why what is noted now is known to differ; it is not compared
	differ map[int]string
}

func (x *parityRun) note(format string, args ...any) {
	if x.known != "" && x.differ != nil {
		x.differ[len(x.saw)] = x.known
	}
	x.saw = append(x.saw, saw{fmt.Sprintf(format, args...), -1})
}

func (x *parityRun) noteAt(at time.Duration, format string, args ...any) {
	x.note(format, args...)
	x.saw[len(x.saw)-1].at = at
}

// play runs a script on this side, to its end or until it gives up.
func (x *parityRun) play(script func(*parityRun)) {
	defer func() { x.end = time.Now() }()
	x.start = time.Now()
	script(x)
}

// giveUp ends a script, on its own goroutine, that cannot go on.
func (x *parityRun) giveUp(why string) {
	x.note("gave up: %s", why)
	x.gaveUp = true
	runtime.Goexit()
}

// until waits for an instant of the script.
func (x *parityRun) until(d time.Duration) { <-time.After(time.Until(x.start.Add(d))) }

// eventually waits up to half a second for something that should come at once.
func eventually(ok func() bool) bool {
	for deadline := time.Now().Add(500 * time.Millisecond); ; <-time.After(2 * time.Millisecond) {
		if ok() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}

// kclient is one connect of a kernel socket.
type kclient struct {
	x     *parityRun
	fd    int
	start time.Time
	done  chan struct{}
	took  time.Duration
	err   error
}

// connect starts a client and gives it a fifth of a second to get through.
func (x *parityRun) connect() *kclient {
	c := &kclient{x: x, done: make(chan struct{}), err: unix.EINPROGRESS}
	inNamespace(x.t, x.ns, func() (err error) {
		family := unix.AF_INET
		if x.to.Addr().Is6() {
			family = unix.AF_INET6
		}
		c.fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return err
	})
	c.start = time.Now()
	if err := unix.Connect(c.fd, sockaddr(x.to)); err != nil && err != unix.EINPROGRESS {
		require.NoError(x.t, err)
	}
	quit, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	require.NoError(x.t, err)
	go func() {
		defer close(c.done)
		fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLOUT}, {Fd: int32(quit), Events: unix.POLLIN}}
		for {
			if _, err := unix.Poll(fds, -1); err == unix.EINTR {
				continue
			}
			break
		}
		if fds[0].Revents == 0 {
			return
		}
		c.took = time.Since(c.start)
		c.err = nil
		if e, _ := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR); e != 0 {
			c.err = unix.Errno(e)
		}
	}()
	x.t.Cleanup(func() {
		unix.Write(quit, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		<-c.done
		unix.Close(quit)
		unix.Close(c.fd)
	})
	select {
	case <-c.done:
	case <-time.After(200 * time.Millisecond):
	}
	return c
}

func (c *kclient) connected() bool {
	select {
	case <-c.done:
		return c.err == nil
	default:
		return false
	}
}

func (c *kclient) syns() int {
	i, err := unix.GetsockoptTCPInfo(c.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	require.NoError(c.x.t, err)
	return int(i.Total_retrans) + 1
}

// note says how the connect stands.
func (c *kclient) note(name string) {
	select {
	case <-c.done:
		if c.err != nil {
			c.x.noteAt(c.took, "%s %s after %d SYN", name, unix.ErrnoName(c.err.(unix.Errno)), c.syns())
			return
		}
		c.x.noteAt(c.took, "%s connected after %d SYN", name, c.syns())
	default:
		c.x.note("%s waits, %d SYN sent", name, c.syns())
	}
}

// noteEnd says what became of a connection that was established.
func (c *kclient) noteEnd(name string) {
	var b [1]byte
	got := "open"
	eventually(func() bool {
		n, err := unix.Read(c.fd, b[:])
		if err == unix.EAGAIN {
			return false
		}
		got = "end of data"
		if err != nil {
			got = unix.ErrnoName(err.(unix.Errno))
		} else if n > 0 {
			got = "data"
		}
		return true
	})
	c.x.note("%s: %s", name, got)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// wire sends segments of clients that do not exist, and hears what is sent to them.
type wire struct {
	raw4, raw6, tap int

	mu  sync.Mutex
	got []heard
}

type heard struct {
	from, to netip.AddrPort
	seg      rawSegment
	at       time.Time
}

type rawSegment struct {
	flags    uint8
	seq, ack uint32
	options  []byte
	data     string
}

func newWire(t testing.TB, ns string) *wire {
	w := &wire{}
	inNamespace(t, ns, func() (err error) {
		if w.raw4, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
			return err
		}
		if w.raw6, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
			return err
		}
		all := unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
		if w.tap, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(w.tap, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20); err != nil {
			return err
		}
		return unix.SetsockoptTimeval(w.tap, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
	})
	quit := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() { w.read(quit) })
	t.Cleanup(func() {
		close(quit)
		reader.Wait()
		for _, fd := range []int{w.raw4, w.raw6, w.tap} {
			unix.Close(fd)
		}
	})
	return w
}

func (w *wire) read(quit chan struct{}) {
	b := make([]byte, 1<<16)
	for {
		select {
		case <-quit:
			return
		default:
		}
		n, _, err := unix.Recvfrom(w.tap, b, 0)
		if err != nil || n < 20 {
			continue
		}
		now := time.Now()
		i, prob := packet.Parse(b[:n], n)
		if prob != packet.None || i.Kind != packet.TCP || !nobody(i.Dst(b)) {
			continue
		}
		seq, ack, _, _ := i.TCP(b)
		w.mu.Lock()
		w.got = append(w.got, heard{
			netip.AddrPortFrom(i.Src(b), i.SrcPort), netip.AddrPortFrom(i.Dst(b), i.DstPort),
			rawSegment{flags: i.TCPFlags, seq: seq, ack: ack}, now,
		})
		w.mu.Unlock()
	}
}

// Clients that do not exist have addresses from 50 on in the networks of the rows.
func nobody(a netip.Addr) bool {
	b := a.AsSlice()
	last := b[len(b)-1]
	return last >= 50 && last < 250 && (a.Is4() && b[0] == 10 || a.Is6() && b[0] == 0xfd)
}

// rclient is a client played by hand. Its segments have sequence numbers relative
// to its first, and to the server's.
type rclient struct {
	x    *parityRun
	from netip.AddrPort
	irs  uint32
	sent time.Time
}

func (x *parityRun) client(i int) *rclient {
	b := x.to.Addr().AsSlice()
	b[len(b)-1] = byte(50 + i%200)
	a, _ := netip.AddrFromSlice(b)
	return &rclient{x: x, from: netip.AddrPortFrom(a, uint16(20000+i)), irs: uint32(i)*0x10001 + 7}
}

const (
	tFIN = 1 << iota
	tSYN
	tRST
	tPSH
	tACK
	tURG
	tECE
	tCWR
)

func (c *rclient) send(s rawSegment) {
	var b [128]byte
	data := []byte(s.data)
	n := packet.PutTCP(b[:], c.from, c.x.to, 64, 0, packet.TCPHeader{
		Seq: s.seq, Ack: s.ack, Flags: s.flags, Window: 65535, Options: s.options}, data)
	require.NotZero(c.x.t, n)
	pkt := append(b[:n], data...)
	fd := c.x.wire.raw4
	to := netip.AddrPortFrom(c.x.to.Addr(), 0)
	if to.Addr().Is6() {
		fd = c.x.wire.raw6
	}
	for {
		err := unix.Sendto(fd, pkt, 0, sockaddr(to))
		if err == unix.EINTR || err == unix.ENOBUFS {
			continue
		}
		require.NoError(c.x.t, err)
		return
	}
}

// flags sends a bare segment at the client's first sequence number.
func (c *rclient) flags(f uint8) {
	c.send(rawSegment{flags: f, seq: c.irs, ack: 12345, options: []byte{packet.OptMSS, 4, 5, 0xb4}})
}

func (c *rclient) syn() {
	if c.sent.IsZero() {
		c.sent = time.Now()
	}
	c.send(rawSegment{flags: tSYN, seq: c.irs, options: []byte{packet.OptMSS, 4, 5, 0xb4}})
}

// ack answers the server's SYN+ACK.
func (c *rclient) ack(data string) {
	s, ok := c.synAck()
	if !ok {
		c.x.giveUp("no SYN+ACK to acknowledge")
	}
	c.send(rawSegment{flags: tACK, seq: c.irs + 1, ack: s.seq + 1, data: data})
}

func (c *rclient) synAck() (rawSegment, bool) {
	for _, h := range c.heard() {
		if h.seg.flags&(tSYN|tACK) == tSYN|tACK {
			return h.seg, true
		}
	}
	return rawSegment{}, false
}

func (c *rclient) half() bool {
	c.syn()
	return eventually(func() bool { _, ok := c.synAck(); return ok })
}

// heard is what the server has sent to the client.
func (c *rclient) heard() (got []heard) {
	c.x.wire.mu.Lock()
	defer c.x.wire.mu.Unlock()
	for _, h := range c.x.wire.got {
		if h.to == c.from && h.from == c.x.to {
			got = append(got, h)
		}
	}
	return got
}

// note says each segment that came, with its time since the client's first SYN.
func (c *rclient) note(name string) {
	h := c.heard()
	c.x.note("%s heard %d", name, len(h))
	for _, h := range h {
		c.x.noteAt(h.at.Sub(c.sent), "%s heard %s", name, flagNames(h.seg.flags))
	}
}

// answer is what came within a moment, in order, without times.
func (c *rclient) answer(after int) string {
	eventually(func() bool { return len(c.heard()) > after })
	var s []string
	for _, h := range c.heard()[min(after, len(c.heard())):] {
		s = append(s, flagNames(h.seg.flags))
	}
	if s == nil {
		return "silence"
	}
	return strings.Join(s, " ")
}

// flagNames leaves out the ACK of a RST, which stacks set or not.
func flagNames(f uint8) string {
	if f&tRST != 0 {
		return "RST"
	}
	var s []string
	for i, n := range []string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"} {
		if f&(1<<i) != 0 {
			s = append(s, n)
		}
	}
	return strings.Join(s, "+")
}

// kernelServer is a listening socket of the kernel.
type kernelServer struct {
	t       testing.TB
	fd      int
	backlog int
	conns   []int
}

func newKernelServer(t testing.TB, ns string, at netip.AddrPort, backlog int) *kernelServer {
	s := &kernelServer{t: t}
	inNamespace(t, ns, func() (err error) {
		family := unix.AF_INET
		if at.Addr().Is6() {
			family = unix.AF_INET6
		}
		if s.fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(s.fd, sockaddr(at))
	})
	s.listen(backlog)
	t.Cleanup(func() {
		s.close()
		for i := range s.conns {
			s.hangup(i)
		}
	})
	return s
}

func (s *kernelServer) listen(backlog int) {
	require.NoError(s.t, unix.Listen(s.fd, backlog))
	s.backlog = backlog
}

func (s *kernelServer) accept(n int) int {
	got := 0
	eventually(func() bool {
		for got < n {
			fd, _, err := unix.Accept4(s.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			if err != nil {
				return false
			}
			s.conns = append(s.conns, fd)
			got++
		}
		return true
	})
	return got
}

func (s *kernelServer) read(conn, n int) string {
	if conn >= len(s.conns) {
		return "no such connection"
	}
	b := make([]byte, n)
	got := 0
	eventually(func() bool {
		k, _ := unix.Read(s.conns[conn], b[got:])
		got += max(k, 0)
		return got == n
	})
	return string(b[:got])
}

func (s *kernelServer) hangup(conn int) {
	if s.conns[conn] >= 0 {
		// With RST: one that said goodbye to a client that does not exist would stay
		// for a quarter of an hour, and its device with it.
		unix.SetsockoptLinger(s.conns[conn], unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		unix.Close(s.conns[conn])
		s.conns[conn] = -1
	}
}

func (s *kernelServer) close() {
	if s.fd >= 0 {
		unix.Close(s.fd)
		s.fd = -1
	}
}

// ourServer is a port of a stack behind a TUN device.
type ourServer struct {
	t     testing.TB
	s     *stack.Stack
	ln    *stack.Listener
	conf  demux.DoorConfig
	more  int
	conns []net.Conn
	come  chan net.Conn
	want  chan struct{}
}

func newOurStack(t testing.TB, ns string) (*stack.Stack, *demux.Table) {
	var dev tun.Device
	inNamespace(t, ns, func() (err error) {
		dev, err = tun.Open(tun.Options{
			Peer4: netip.MustParsePrefix("10.77.0.2/24"), Peer6: netip.MustParsePrefix("fd77::2/64")})
		return err
	})
	table := demux.New(demux.Options{})
	s, err := stack.New(stack.Config{Device: dev, Table: table, Addrs: []netip.Prefix{
		netip.MustParsePrefix("10.77.0.1/24"), netip.MustParsePrefix("fd77::1/64")}})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return s, table
}

// more is what its SYN queue holds beyond the backlog and one.
func newOurServer(t testing.TB, s *stack.Stack, port uint16, set paritySettings, more int) *ourServer {
	o := &ourServer{t: t, s: s, more: more, come: make(chan net.Conn), want: make(chan struct{})}
	o.conf = demux.DoorConfig{Backlog: set.backlog, SynQueue: set.backlog + more, AbortOnOverflow: set.abort,
		Cookies: []demux.Cookies{demux.CookiesNever, demux.CookiesAuto, demux.CookiesAlways}[set.cookies]}
	ln, err := s.Listen(port, stack.ListenConfig{Owner: "parity", Door: &o.conf})
	require.NoError(t, err)
	o.ln = ln
	var service sync.WaitGroup
	service.Go(func() { // takes one connection out of the queue for each that is wanted
		for range o.want {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			o.come <- c
		}
	})
	t.Cleanup(func() {
		o.close()
		close(o.want)
		service.Wait()
		for _, c := range o.conns {
			c.Close()
		}
	})
	return o
}

func (o *ourServer) listen(backlog int) {
	o.conf.Backlog, o.conf.SynQueue = backlog, backlog+o.more
	require.True(o.t, o.s.SetDoor(o.ln.Addr().(*net.TCPAddr).AddrPort().Port(), o.conf))
}

func (o *ourServer) accept(n int) int {
	port := o.ln.Addr().(*net.TCPAddr).AddrPort().Port()
	got := 0
	eventually(func() bool {
		for got < n {
			if d, _ := o.s.Door(port); d.Waiting == 0 {
				return false
			}
			o.want <- struct{}{}
			o.conns = append(o.conns, <-o.come)
			got++
		}
		return true
	})
	return got
}

func (o *ourServer) read(conn, n int) string {
	if conn >= len(o.conns) {
		return "no such connection"
	}
	b := make([]byte, n)
	o.conns[conn].SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	got := 0
	for got < n {
		k, err := o.conns[conn].Read(b[got:])
		got += k
		if err != nil {
			break
		}
	}
	return string(b[:got])
}

func (o *ourServer) hangup(conn int) { o.conns[conn].Close() }
func (o *ourServer) close()          { o.ln.Close() }

// parityNamespace is a namespace with an address of its own for kernel sockets, and
// the sysctls of a row.
func parityNamespace(t testing.TB, set paritySettings) string {
	ns := newNamespace(t)
	sysctl := map[string]int{"tcp_syncookies": set.cookies, "tcp_max_syn_backlog": 4096, "tcp_abort_on_overflow": 0}
	if set.abort {
		sysctl["tcp_abort_on_overflow"] = 1
	}
	inNamespace(t, ns, func() error {
		for k, v := range sysctl {
			if err := os.WriteFile("/proc/sys/net/ipv4/"+k, fmt.Append(nil, v), 0); err != nil {
				return err
			}
		}
		return nil
	})
	// A device that nobody reads: what is sent to clients that do not exist ends there.
	inNamespace(t, ns, func() error {
		dev, err := tun.Open(tun.Options{
			Peer4: netip.MustParsePrefix("10.78.0.1/24"), Peer6: netip.MustParsePrefix("fd78::1/64")})
		if err == nil {
			t.Cleanup(func() { dev.Close() })
		}
		return err
	})
	return ns
}

func kernelVersion() string {
	var u unix.Utsname
	unix.Uname(&u)
	return unix.ByteSliceToString(u.Release[:])
}
