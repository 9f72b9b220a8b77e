package demux

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"porthole/demux/packet"
)

var (
	hostAddr  = netip.MustParseAddr("10.77.0.1")
	peerAddr  = netip.MustParseAddr("10.77.0.2")
	hostAddr6 = netip.MustParseAddr("fd77::1")
	peerAddr6 = netip.MustParseAddr("fd77::2")
)

// rig is a table with one entrance and packets to send into it.
type rig struct {
	t  *Table
	in *Ingress
}

func newRig(o Options) *rig {
	t := New(o)
	t.SetAddrs(NewAddrs(netip.PrefixFrom(hostAddr, 24), netip.PrefixFrom(hostAddr6, 64)))
	return &rig{t, t.NewIngress(nil)}
}

// send delivers frames in batches; runs that want inline service are served.
func (r *rig) send(frames ...[]byte) {
	for len(frames) > 0 {
		n := min(len(frames), BatchSize)
		for i, f := range frames[:n] {
			put(r.in, i, f, Offload{})
		}
		for _, run := range r.in.Deliver(n) {
			r.in.ServeRun(run, toStack)
		}
		frames = frames[n:]
	}
}

func put(in *Ingress, i int, f []byte, off Offload) {
	k := copy(in.Room(i), f)
	var tail Tail
	if k < len(f) {
		tail.Bytes = append([]byte(nil), f[k:]...)
	}
	in.PutTail(i, k, tail, &off)
}

// pending reports whether a worker would find a port to serve.
func (r *rig) pending() bool {
	r.t.rq.mu.Lock()
	defer r.t.rq.mu.Unlock()
	return r.t.rq.head != 0
}

// take is the first half of a worker's turn, if one is due; ServeRun is the second.
func (r *rig) take() (Run, bool) {
	for r.pending() {
		i, _ := r.t.rq.take()
		if run, ok := r.t.takeRun(i); ok {
			return run, true
		}
	}
	return Run{}, false
}

func toStack(Port, Packet) Fate   { return ToStack }
func toClosed(Port, Packet) Fate  { return Closed }
func toService(Port, Packet) Fate { return ToService }

func udp4(from, to uint16, payload ...byte) []byte {
	return udp(netip.AddrPortFrom(peerAddr, from), netip.AddrPortFrom(hostAddr, to), payload...)
}

func udp6(from, to uint16, payload ...byte) []byte {
	return udp(netip.AddrPortFrom(peerAddr6, from), netip.AddrPortFrom(hostAddr6, to), payload...)
}

func udp(from, to netip.AddrPort, payload ...byte) []byte {
	b := make([]byte, 48)
	n := packet.PutUDP(b, from, to, 64, 1, payload)
	return append(b[:n], payload...)
}

func tcp4(from, to uint16, flags uint8, payload ...byte) []byte {
	return tcp(netip.AddrPortFrom(peerAddr, from), netip.AddrPortFrom(hostAddr, to), flags, payload...)
}

func tcp6(from, to uint16, flags uint8, payload ...byte) []byte {
	return tcp(netip.AddrPortFrom(peerAddr6, from), netip.AddrPortFrom(hostAddr6, to), flags, payload...)
}

func tcp(from, to netip.AddrPort, flags uint8, payload ...byte) []byte {
	b := make([]byte, 120)
	n := packet.PutTCP(b, from, to, 64, 1, packet.TCPHeader{Flags: flags, Window: 65535}, payload)
	return append(b[:n], payload...)
}

// numbered is a payload of size bytes (4 at least) that begins with n.
func numbered(n uint32, size int) []byte {
	b := make([]byte, max(size, 4))
	binary.BigEndian.PutUint32(b, n)
	return b
}

// number reads it again.
func number(p Packet) uint32 {
	var b [4]byte
	p.CopyPayload(b[:])
	return binary.BigEndian.Uint32(b[:])
}

// law checks the ledger of every port and of the host.
func (r *rig) law(t testing.TB) {
	t.Helper()
	for _, s := range r.t.Ports() {
		if err := s.Check(); err != nil {
			t.Error(err)
		}
	}
	if err := r.t.Totals().Check(); err != nil {
		t.Error(err)
	}
}

// held is how many packet slots hold something beside those that entrances keep.
func (r *rig) held() int {
	s := r.t.Totals()
	n := s.InUse
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	for _, in := range r.t.ingresses {
		in.mu.Lock()
		n -= in.size + in.spareN
		in.mu.Unlock()
	}
	return n
}
