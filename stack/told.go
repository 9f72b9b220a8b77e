package stack

import (
	"net/netip"
	"sync"
	"sync/atomic"
)

// told remembers which of the host's addresses the peers of a UDP socket spoke to,
// where that is another than the host would choose for them: an answer comes from the
// address that was asked (RFC 1122, 4.1.3.5; RFC 2181, 4), and net.PacketConn has no
// word for it. Such are peers on an Ethernet link that reach a link-local address from
// a global one, or the other way round. Bound: maxTold peers; one more forgets another.
type told struct {
	mu sync.Mutex
	at map[netip.AddrPort]netip.Addr
	n  atomic.Int32 // len(at)
}

const maxTold = 1024

// heard notes that a peer's datagram came to one of the host's addresses.
func (pc *PacketConn) heard(from netip.AddrPort, to netip.Addr) {
	if !pc.s.ethernet() || to.Is4() {
		return // the host has one address that it can be
	}
	usual, _ := pc.s.source(from.Addr())
	if usual == to && pc.told.n.Load() == 0 {
		return
	}
	t := &pc.told
	t.mu.Lock()
	defer t.mu.Unlock()
	if delete(t.at, from); usual != to {
		for old := range t.at {
			if len(t.at) < maxTold {
				break
			}
			delete(t.at, old)
		}
		if t.at == nil {
			t.at = map[netip.AddrPort]netip.Addr{}
		}
		t.at[from] = to
	}
	t.n.Store(int32(len(t.at)))
}

// source is the address to speak to a peer from, invalid when there is none.
func (pc *PacketConn) source(to netip.AddrPort) netip.Addr {
	if t := &pc.told; t.n.Load() > 0 {
		t.mu.Lock()
		a, odd := t.at[to]
		t.mu.Unlock()
		if odd {
			return a
		}
	}
	a, _ := pc.s.source(to.Addr())
	return a
}
