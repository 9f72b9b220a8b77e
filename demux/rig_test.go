package demux

import (
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

// send delivers frames in one batch; runs that want inline service are served.
func (r *rig) send(frames ...[]byte) {
	for len(frames) > 0 {
		n := min(len(frames), BatchSize)
		for i, f := range frames[:n] {
			r.put(i, f)
		}
		for _, run := range r.in.Deliver(n) {
			r.t.ServeRun(run, toStack)
		}
		frames = frames[n:]
	}
}

func (r *rig) put(i int, f []byte) {
	k := copy(r.in.Room(i), f)
	var tail Tail
	if k < len(f) {
		tail.Bytes = append([]byte(nil), f[k:]...)
	}
	r.in.Put(i, k, tail, Offload{})
}

func toStack(Port, Packet) Fate { return ToStack }

func udp4(from, to uint16, payload ...byte) []byte {
	return udp(netip.AddrPortFrom(peerAddr, from), netip.AddrPortFrom(hostAddr, to), payload...)
}

func udp(from, to netip.AddrPort, payload ...byte) []byte {
	b := make([]byte, 48)
	n := packet.PutUDP(b, from, to, 64, 1, payload)
	return append(b[:n], payload...)
}

func tcp4(from, to uint16, flags uint8, payload ...byte) []byte {
	b := make([]byte, 120)
	n := packet.PutTCP(b, netip.AddrPortFrom(peerAddr, from), netip.AddrPortFrom(hostAddr, to), 64, 1,
		packet.TCPHeader{Flags: flags, Window: 65535}, payload)
	return append(b[:n], payload...)
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
