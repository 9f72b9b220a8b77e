package porthole_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/demux/packet"
	"porthole/stack"
	"porthole/stack/stacktest"
	"porthole/tun"
)

// The hostile tests write literal frames into a whole host, all services on, from
// an address that nobody has, beside a client that goes on using it. Each says what
// fate is counted, what answer the RFCs or, where they leave it open, Linux asks
// for, and that the host lives on.

var (
	evil4 = netip.MustParseAddr("10.77.0.66")
	evil6 = netip.MustParseAddr("fd77::66")
	host4 = stacktest.Host4.Addr()
	host6 = stacktest.Host6.Addr()

	evilHW = net.HardwareAddr{2, 0, 0, 0, 0, 0x66}
	hostHW = net.HardwareAddr{2, 0, 0, 0, 0, 1}
)

// hostile is a host whose link the test can write to and listen on.
type hostile struct {
	t      testing.TB
	host   *porthole.Host
	link   *tun.Impaired // the host's end
	wire   *tapped
	client *stacktest.Client
	http   *http.Client
	stop   func() // the host, before the test ends
	pings  uint16
}

// tapped is the client's end of the pipe; what the host sends to evil is kept.
type tapped struct {
	tun.Device
	ethernet bool
	mu       sync.Mutex
	cond     *sync.Cond
	got      [][]byte                     // IP packets, or whole frames that are not IP
	answered map[[2]netip.AddrPort]uint32 // sequence numbers of SYN+ACKs
	other    func(ip []byte)
}

func (d *tapped) Read(q int, frames []tun.Frame, tail []byte) (int, error) {
	n, err := d.Device.Read(q, frames, tail)
	for _, f := range frames[:n] {
		d.look(append(append([]byte(nil), f.Head...), f.Tail...))
	}
	return n, err
}

func (d *tapped) look(b []byte) {
	ip := b
	if d.ethernet {
		if len(b) < 14 {
			return
		}
		ip = b[14:]
		kind := binary.BigEndian.Uint16(b[12:])
		switch {
		case kind == 0x0806 && len(b) >= 42 && b[21] == 1 && addr4(b[38:]) == evil4:
			// The host makes sure that evil is still there, when a test takes long.
			d.answer(arp(2, evilHW, evil4, hostHW, host4), kind)
			return
		case kind == 0x86dd && len(ip) >= 64 && ip[6] == 58 && ip[40] == 135 && [16]byte(ip[48:64]) == evil6.As16():
			d.answer(neighbour(136, evil6, evil6.AsSlice(), 2, evilHW), kind)
			return
		case kind == 0x0806 && [6]byte(b[:6]) == [6]byte(evilHW):
			d.keep(b)
			return
		}
	}
	i, _ := packet.Parse(ip, len(ip))
	if i.Version == 0 || len(ip) < 20 || i.Version == 6 && len(ip) < 40 {
		return
	}
	switch i.Dst(ip) {
	case evil4, evil6:
		if !d.again(&i, ip) {
			d.keep(ip)
		}
	default:
		d.mu.Lock()
		if d.other != nil {
			d.other(ip)
		}
		d.mu.Unlock()
	}
}

// again knows a SYN+ACK that the host sends again after a second: that the test was slow
// is no answer to what it does now.
func (d *tapped) again(i *packet.Info, ip []byte) bool {
	if i.Kind != packet.TCP || i.TCPFlags != packet.SYN|packet.ACK {
		return false
	}
	seq, _, _, _ := i.TCP(ip)
	ends := [2]netip.AddrPort{ap(i.Src(ip), i.SrcPort), ap(i.Dst(ip), i.DstPort)}
	d.mu.Lock()
	defer d.mu.Unlock()
	last, had := d.answered[ends]
	d.answered[ends] = seq
	return had && last == seq
}

// answer writes without waiting: the reader may be the caller.
func (d *tapped) answer(payload []byte, kind uint16) {
	b := make([]byte, 14, 14+len(payload))
	packet.PutEthernet(b, [6]byte(hostHW), [6]byte(evilHW), kind)
	d.Device.Write(0, []tun.Out{{Pieces: [][]byte{append(b, payload...)}}}, false)
}

func (d *tapped) keep(b []byte) {
	d.mu.Lock()
	d.got = append(d.got, b)
	d.mu.Unlock()
	d.cond.Broadcast()
}

func newHostile(t testing.TB, o tun.PipeOptions, before ...func(*porthole.Host)) *hostile {
	p := o
	p.MTU = 65535 // a hostile end keeps no MTU
	if o.HW != nil {
		p.HW = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	}
	a, b := tun.Pipe(o, p)
	w := &tapped{Device: small{b}, ethernet: o.HW != nil, answered: map[[2]netip.AddrPort]uint32{}}
	w.cond = sync.NewCond(&w.mu)
	link := tun.Impair(a, tun.ImpairOptions{ShowDropped: true})
	h, err := porthole.New(porthole.DefaultConfig(), link, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	for _, f := range before {
		f(h)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	r := &hostile{t: t, host: h, link: link, wire: w, client: stacktest.New(t, w)}
	tr := &http.Transport{DialContext: r.client.DialContext}
	r.http = &http.Client{Transport: tr, Timeout: time.Minute}
	r.stop = sync.OnceFunc(func() {
		tr.CloseIdleConnections()
		cancel()
		require.NoError(t, <-done)
		require.True(t, h.Health().LedgerOK, "%+v", h.Health())
	})
	t.Cleanup(r.stop)
	<-h.Ready()
	if w.ethernet { // the host learns both from our asking
		r.send(r.frame(arp(1, evilHW, evil4, nil, host4), 0x0806))
		r.wait("arp answer", func(b []byte) bool { return true })
		ns := neighbour(135, evil6, host6.AsSlice(), 1, evilHW)
		r.send(r.frame(ns, 0x86dd))
		r.wait("neighbour advertisement", func(b []byte) bool { return len(b) > 40 && b[40] == 136 })
	}
	return r
}

// small says 1500 to the client's stack.
type small struct{ tun.Device }

func (s small) Facts() tun.Facts {
	f := s.Device.Facts()
	f.MTU = 1500
	return f
}

// frame puts an Ethernet header before an IP packet where the link has one.
func (r *hostile) frame(ip []byte, kind uint16) []byte {
	if !r.wire.ethernet {
		return ip
	}
	b := make([]byte, 14, 14+len(ip))
	packet.PutEthernet(b, [6]byte(hostHW), [6]byte(evilHW), kind)
	return append(b, ip...)
}

func (r *hostile) send(frames ...[]byte) {
	r.t.Helper()
	for _, f := range frames {
		_, err := r.wire.Device.Write(0, []tun.Out{{Pieces: [][]byte{f}}}, true)
		require.NoError(r.t, err, "% x", f)
	}
}

// ip sends IP packets on any kind of link.
func (r *hostile) ip(packets ...[]byte) {
	r.t.Helper()
	for _, p := range packets {
		kind := uint16(0x0800)
		if len(p) > 0 && p[0]>>4 == 6 {
			kind = 0x86dd
		}
		r.send(r.frame(p, kind))
	}
}

// wait takes the first packet to evil that is wanted, and throws away what came
// before it.
func (r *hostile) wait(what string, want func([]byte) bool) []byte {
	r.t.Helper()
	w := r.wire
	timer := time.AfterFunc(patience, w.cond.Broadcast)
	defer timer.Stop()
	end := time.Now().Add(patience)
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		for len(w.got) > 0 {
			b := w.got[0]
			w.got = w.got[1:]
			if want(b) {
				return b
			}
		}
		if time.Now().After(end) {
			require.FailNow(r.t, "no "+what)
		}
		w.cond.Wait()
	}
}

// barrier pings the host and returns everything that it said before the answer. What
// was sent before it has its fate then.
func (r *hostile) barrier() [][]byte {
	r.t.Helper()
	r.drained()
	r.pings++
	r.ip(icmp4(evil4, host4, 8, 0, uint32(0xbeef)<<16|uint32(r.pings), nil))
	var before [][]byte
	r.wait("echo reply", func(b []byte) bool {
		if len(b) >= 28 && b[0]>>4 == 4 && b[9] == 1 && b[20] == 0 && binary.BigEndian.Uint16(b[24:]) == 0xbeef &&
			binary.BigEndian.Uint16(b[26:]) == r.pings {
			return true
		}
		before = append(before, b)
		return false
	})
	r.drained() // other lanes have their own workers
	return before
}

// drained waits until no packet waits for its fate.
func (r *hostile) drained() {
	r.t.Helper()
	for end := time.Now().Add(patience); r.host.Health().Queued != 0; runtime.Gosched() {
		require.True(r.t, time.Now().Before(end), "packets stay queued: %+v", r.host.Health())
	}
}

// alive says that the host still serves, and that its ledger is right.
func (r *hostile) alive() {
	r.t.Helper()
	for _, h := range []netip.Addr{host4, host6} {
		resp, err := r.http.Get("http://" + netip.AddrPortFrom(h, 80).String() + "/")
		require.NoError(r.t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(r.t, err)
		resp.Body.Close()
		require.Equal(r.t, 200, resp.StatusCode)
		r.dns(h)
	}
	r.law()
}

func (r *hostile) dns(h netip.Addr) {
	r.t.Helper()
	c, err := r.client.DialUDP(netip.AddrPortFrom(h, 53), stack.DialConfig{Owner: "client"})
	require.NoError(r.t, err)
	defer c.Close()
	q := new(dns.Msg)
	q.SetQuestion("http.porthole.test.", dns.TypeA)
	b, err := q.Pack()
	require.NoError(r.t, err)
	_, err = c.Write(b)
	require.NoError(r.t, err)
	require.NoError(r.t, c.SetReadDeadline(time.Now().Add(patience)))
	got := make([]byte, 1500)
	n, err := c.Read(got)
	require.NoError(r.t, err)
	a := new(dns.Msg)
	require.NoError(r.t, a.Unpack(got[:n]))
	require.Equal(r.t, dns.RcodeSuccess, a.Rcode)
}

func (r *hostile) law() {
	r.t.Helper()
	r.drained()
	h := r.host.Health()
	require.True(r.t, h.LedgerOK, "%+v", h)
	for _, p := range r.host.Ports() {
		sum := uint64(p.Queued)
		for _, n := range p.Fates {
			sum += n
		}
		require.Equal(r.t, p.Arrived, sum, "ledger of %v", p.Port)
	}
}

// drops are the fates of which a case must count its own and no other.
var drops = []string{"malformed", "bad-checksum", "unknown-protocol", "not-for-us", "martian",
	"no-buffer", "queue-full", "syn-queue-full", "accept-queue-full", "closed", "to-reassembly"}

// fates sends packets and says that they get this fate, all of them, and returns
// what the host answers before the next ping.
func (r *hostile) fates(want string, packets ...[]byte) [][]byte {
	r.t.Helper()
	return r.fated(want, len(packets), func() { r.ip(packets...) })
}

// late is fates for packets that a listener answers: that is done on netstack's own
// goroutines, which may be slower than the ping.
func (r *hostile) late(want string, packets ...[]byte) [][]byte {
	r.t.Helper()
	return r.orLater(r.fates(want, packets...))
}

func (r *hostile) orLater(replies [][]byte) [][]byte {
	r.t.Helper()
	if len(replies) == 0 {
		replies = [][]byte{r.wait("answer", func([]byte) bool { return true })}
	}
	return replies
}

func (r *hostile) fated(want string, n int, send func()) [][]byte {
	r.t.Helper()
	r.drained() // an answer can be out before its packet is counted
	before := r.host.Health()
	send()
	until(r.t, "all to arrive", func() bool {
		return r.host.Health().Arrived["device"] >= before.Arrived["device"]+uint64(n)
	})
	replies := r.barrier()
	var after porthole.Health
	until(r.t, fmt.Sprintf("want %d %s, before %v", n, want, before.Fates), func() bool {
		after = r.host.Health()
		got := after.Fates[want] - before.Fates[want]
		return got == uint64(n) || (want == "to-stack" || want == "to-service") && got >= uint64(n)
	})
	for _, f := range drops {
		if f != want {
			require.Equal(r.t, before.Fates[f], after.Fates[f], "%s counted, wanted %s", f, want)
		}
	}
	require.True(r.t, after.LedgerOK)
	return replies
}

// v4 is an IPv4 header with what follows it; zero fields take the right value.
type v4 struct {
	src, dst netip.Addr
	proto    uint8
	id, frag uint16 // frag: flags and offset as they stand
	opts     []byte
	total    int
}

func (h v4) put(body []byte) []byte {
	n := 20 + len(h.opts)
	b := make([]byte, n, n+len(body))
	b[0] = 0x40 | byte(n/4)
	if h.total == 0 {
		h.total = n + len(body)
	}
	binary.BigEndian.PutUint16(b[2:], uint16(h.total))
	binary.BigEndian.PutUint16(b[4:], h.id)
	binary.BigEndian.PutUint16(b[6:], h.frag)
	b[8], b[9] = 64, h.proto
	src, dst := h.src.As4(), h.dst.As4()
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	copy(b[20:], h.opts)
	return sum4(append(b, body...))
}

// sum4 makes an IPv4 header's checksum right.
func sum4(b []byte) []byte {
	n := min(int(b[0]&15)*4, len(b))
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], ^packet.Sum(b[:n], 0))
	return b
}

// v6 puts an IPv6 header before body, whose first header is next.
func v6(src, dst netip.Addr, next uint8, body []byte) []byte {
	b := make([]byte, 40, 40+len(body))
	binary.BigEndian.PutUint32(b, 6<<28)
	binary.BigEndian.PutUint16(b[4:], uint16(len(body)))
	b[6], b[7] = next, 255
	s, d := src.As16(), dst.As16()
	copy(b[8:], s[:])
	copy(b[24:], d[:])
	return append(b, body...)
}

func ap(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

func seg(from, to netip.AddrPort, flags uint8, seq, ack uint32, data ...byte) []byte {
	b := make([]byte, 128)
	n := packet.PutTCP(b, from, to, 64, 1, packet.TCPHeader{Flags: flags, Seq: seq, Ack: ack, Window: 1024}, data)
	return append(b[:n:n], data...)
}

func udp(from, to netip.AddrPort, data ...byte) []byte {
	b := make([]byte, 48)
	n := packet.PutUDP(b, from, to, 64, 1, data)
	return append(b[:n:n], data...)
}

// body is the transport part of a packet without options.
func body(b []byte) []byte {
	if b[0]>>4 == 6 {
		return b[40:]
	}
	return b[20:]
}

func icmp4(src, dst netip.Addr, kind, code uint8, rest uint32, data []byte) []byte {
	m := make([]byte, 8, 8+len(data))
	m[0], m[1] = kind, code
	binary.BigEndian.PutUint32(m[4:], rest)
	m = append(m, data...)
	binary.BigEndian.PutUint16(m[2:], ^packet.Sum(m, 0))
	return v4{src: src, dst: dst, proto: 1, id: 1}.put(m)
}

func icmp6(src, dst netip.Addr, kind, code uint8, rest uint32, data []byte) []byte {
	m := make([]byte, 8, 8+len(data))
	m[0], m[1] = kind, code
	binary.BigEndian.PutUint32(m[4:], rest)
	return sum6(v6(src, dst, 58, append(m, data...)))
}

// sum6 makes the checksum of an ICMPv6 message right that follows its IPv6 header.
func sum6(b []byte) []byte {
	b[42], b[43] = 0, 0
	s := packet.Sum(b[8:], packet.Sum([]byte{byte((len(b) - 40) >> 8), byte(len(b) - 40), 0, 58}, 0))
	binary.BigEndian.PutUint16(b[42:], ^s)
	return b
}

func arp(op uint16, hw net.HardwareAddr, ip netip.Addr, thw net.HardwareAddr, tip netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, byte(op >> 8), byte(op)}
	b = append(append(b, hw...), ip.AsSlice()...)
	if thw == nil {
		thw = make(net.HardwareAddr, 6)
	}
	return append(append(b, thw...), tip.AsSlice()...)
}

// neighbour is a solicitation (135) or advertisement (136) with one link address.
func neighbour(kind uint8, src netip.Addr, target []byte, opt uint8, hw net.HardwareAddr) []byte {
	data := append(append([]byte(nil), target...), opt, 1)
	data = append(data, hw...)
	flags := uint32(0)
	if kind == 136 {
		flags = 0x60000000
	}
	return icmp6(src, host6, kind, 0, flags, data)
}

// only says that there was exactly one answer.
func only(t testing.TB, replies [][]byte) []byte {
	t.Helper()
	require.Len(t, replies, 1, "% x", replies)
	return replies[0]
}

// tcpReply is the one TCP segment among the answers.
func tcpReply(t testing.TB, replies [][]byte) (flags uint8, seq, ack uint32) {
	t.Helper()
	b := only(t, replies)
	i, p := packet.Parse(b, len(b))
	require.Equal(t, packet.None, p)
	require.Equal(t, packet.TCP, i.Kind, "% x", b)
	require.True(t, packet.VerifyTransport(&i, b, nil) && packet.VerifyHeader(&i, b))
	seq, ack, _, _ = i.TCP(b)
	return i.TCPFlags, seq, ack
}

// icmpReply is the one ICMP error among the answers, with its pointer or MTU.
func icmpReply(t testing.TB, replies [][]byte) string {
	t.Helper()
	b := only(t, replies)
	i, p := packet.Parse(b, len(b))
	require.Equal(t, packet.None, p)
	m := b[i.L4:]
	s := fmt.Sprintf("%d/%d", m[0], m[1])
	if i.Version == 4 && m[0] == 12 {
		s += fmt.Sprintf(" at %d", m[4])
	}
	if i.Version == 6 && m[0] == 4 {
		s += fmt.Sprintf(" at %d", binary.BigEndian.Uint32(m[4:]))
	}
	return s
}

func eachLink(t *testing.T, body func(t *testing.T, r *hostile)) {
	for name, o := range map[string]tun.PipeOptions{"plain": {}, "ethernet": {HW: hostHW}} {
		t.Run(name, func(t *testing.T) {
			r := newHostile(t, o)
			r.t = t
			body(t, r)
			require.Empty(t, r.barrier(), "an answer came late")
			r.alive()
		})
	}
}
