package dhcp

import (
	"container/heap"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A pool owns the addresses of one subnet and which client has which. Each
// address that was ever taken is one binding with an end: before it, the address
// is its client's (offered, bound) or nobody's (declined); after it, the address
// is free, and the binding only remembers whom to give it to again. So nothing
// expires by a timer: time is an argument, and "free" is a comparison.
//
// A new client gets the address it asks for if that is free, else one that nobody
// ever had, else the one that has been free for longest (RFC 2131, 4.3.1 and 2.2).
// The bindings lie in a heap by their end, so that last step, and the finding that
// nothing is free, look at one binding. Bound: at most max bindings, whatever the
// prefix. Not safe for concurrent use; the server's lock guards it.
type pool struct {
	prefix netip.Prefix
	ranges []Range // ascending, disjoint, inside prefix
	size   int     // addresses that ranges hold, at most max
	max    int

	reserved map[netip.Addr]bool // never given out by choice: host, peer, network, broadcast, statics
	at       int                 // ranges[at] holds next
	relays   int                 // of reserved, at most maxRelays
	next     netip.Addr          // from here on nobody had an address, but for those that clients named

	byAddr map[netip.Addr]*binding
	byKey  map[string]*binding
	ends   endHeap

	quarantine []*binding // declined ones, oldest first; at most size/2, at least 1
}

const maxRelays = 8

type state uint8

const (
	offered  state = iota + 1 // waits for the client's DHCPREQUEST
	bound                     // a lease
	declined                  // somebody else answers there; nobody's until its end
)

type binding struct {
	addr  netip.Addr
	key   string // the client; "" for declined
	state state
	lease time.Duration // offered or granted
	until time.Time     // from here on the address is free
	index int           // in the heap; -1 for a reserved (static) address
}

// ended reports whether the address is free again.
func (b *binding) ended(now time.Time) bool { return !b.until.After(now) }

func newPool(prefix netip.Prefix, ranges []Range, reserved []netip.Addr, max int) *pool {
	p := &pool{
		prefix: prefix.Masked(), max: max,
		reserved: map[netip.Addr]bool{prefix.Masked().Addr(): true, lastAddr(prefix): true},
		byAddr:   map[netip.Addr]*binding{}, byKey: map[string]*binding{},
	}
	if prefix.Bits() >= 31 { // RFC 3021: a two-address link has neither network nor broadcast
		clear(p.reserved)
	}
	for _, a := range reserved {
		p.reserved[a] = true
	}
	if len(ranges) == 0 {
		ranges = []Range{{prefix.Masked().Addr(), lastAddr(prefix)}}
	}
	p.ranges = slices.Clone(ranges)
	slices.SortFunc(p.ranges, func(a, b Range) int { return a.First.Compare(b.First) })
	n := 0
	for _, r := range p.ranges {
		n += int(min(int64(toUint(r.Last))-int64(toUint(r.First))+1, 1<<31))
	}
	for a := range p.reserved {
		if p.inRanges(a) {
			n--
		}
	}
	p.size = min(n, max)
	p.next = p.ranges[0].First
	return p
}

// held returns the client's binding, ended ones included, or nil.
func (p *pool) held(key string) *binding { return p.byKey[key] }

// offer picks an address for the client and keeps it for hold: the one it has or
// had, want if that is free, or another. A lease that still runs stays as it is.
// It returns nil when no address is free.
func (p *pool) offer(key string, want netip.Addr, lease, hold time.Duration, now time.Time) *binding {
	b := p.byKey[key]
	if b == nil && p.free(want, now) {
		b = p.take(want, key)
	}
	if b == nil {
		b = p.pick(key, now)
	}
	if b == nil {
		return nil
	}
	b.lease = lease
	if b.state == bound && !b.ended(now) {
		return b // a lease outlives the question about it, even when hold is longer
	}
	b.state = offered
	p.setEnd(b, now.Add(hold))
	return b
}

// bind turns the client's address, or a free one that it names, into a lease. It
// returns nil when the address is another's or not for clients to choose.
func (p *pool) bind(key string, addr netip.Addr, lease time.Duration, now time.Time) *binding {
	b := p.byKey[key]
	if b == nil || b.addr != addr {
		if !p.free(addr, now) {
			return nil
		}
		if b = p.take(addr, key); b == nil {
			return nil
		}
	}
	b.state, b.lease = bound, lease
	p.setEnd(b, now.Add(lease))
	return b
}

// release ends the client's lease or offer; the address is remembered for it.
func (p *pool) release(b *binding, now time.Time) {
	if !b.ended(now) {
		p.setEnd(b, now)
	}
}

// decline takes the address from its client and keeps it from everybody for d. At
// the quarantine's bound the oldest one ends, so that clients that decline all
// they get cannot use the pool up.
func (p *pool) decline(b *binding, d time.Duration, now time.Time) {
	delete(p.byKey, b.key)
	b.key, b.state = "", declined
	p.setEnd(b, now.Add(d))
	p.quarantine = append(p.quarantine, b)
	for len(p.quarantine) > max(1, p.size/2) || p.quarantine[0].state != declined || p.quarantine[0].ended(now) {
		if q := p.quarantine[0]; q.state == declined && !q.ended(now) {
			p.setEnd(q, now)
		}
		p.quarantine = slices.Delete(p.quarantine, 0, 1)
		if len(p.quarantine) == 0 {
			break
		}
	}
}

// reserve gives a static client its address, or nil while that is declined.
func (p *pool) reserve(key string, addr netip.Addr, now time.Time) *binding {
	b := p.byAddr[addr]
	if b == nil {
		b = &binding{addr: addr, index: -1}
		p.byAddr[addr] = b
	}
	if b.state == declined && !b.ended(now) {
		return nil
	}
	if old := p.byKey[key]; old != nil && old != b { // what it got while its own was declined
		p.release(old, now)
		old.key = ""
	}
	b.key = key
	p.byKey[key] = b
	return b
}

// restore puts a binding back that was read from disk. It refuses what the
// configuration gives to nobody or to somebody else now.
func (p *pool) restore(b binding) bool {
	if p.reserved[b.addr] || !p.inRanges(b.addr) || p.byAddr[b.addr] != nil || len(p.byAddr) >= p.max {
		return false
	}
	if b.state != declined && (b.key == "" || p.byKey[b.key] != nil) {
		return false
	}
	n := p.add(b.addr)
	n.state, n.lease, n.key = b.state, b.lease, b.key
	if b.state == declined {
		n.key = ""
		p.quarantine = append(p.quarantine, n)
	} else {
		p.byKey[n.key] = n
	}
	p.setEnd(n, b.until)
	return true
}

// relayAt keeps the address of a relay agent on this link from clients, for the
// first relays that are seen there; forged ones cannot reserve more.
func (p *pool) relayAt(a netip.Addr) {
	if p.relays < maxRelays && !p.reserved[a] && p.byAddr[a] == nil && p.inRanges(a) {
		p.reserved[a] = true
		p.relays++
	}
}

// free reports whether a client may have addr by naming it.
func (p *pool) free(addr netip.Addr, now time.Time) bool {
	if !addr.IsValid() || p.reserved[addr] || !p.inRanges(addr) {
		return false
	}
	b := p.byAddr[addr]
	return b == nil || b.ended(now)
}

// taken reports whether a client has a running lease on addr.
func (p *pool) taken(addr netip.Addr, now time.Time) bool {
	b := p.byAddr[addr]
	return b != nil && b.state == bound && !b.ended(now)
}

// adopt is the key of the lease on addr when that was given to a client without
// identity, else key: such a client is known again by its address alone.
func (p *pool) adopt(key string, addr netip.Addr) string {
	if b := p.byAddr[addr]; b != nil && strings.HasPrefix(b.key, anonymous) {
		return b.key
	}
	return key
}

// pick takes an address that nobody had, or the one that is free for longest.
func (p *pool) pick(key string, now time.Time) *binding {
	for len(p.byAddr) < p.max && p.at < len(p.ranges) {
		a := p.next
		if a == p.ranges[p.at].Last {
			if p.at++; p.at < len(p.ranges) {
				p.next = p.ranges[p.at].First
			}
		} else {
			p.next = a.Next()
		}
		if !p.reserved[a] && p.byAddr[a] == nil {
			return p.take(a, key)
		}
	}
	if len(p.ends) > 0 && p.ends[0].ended(now) {
		return p.take(p.ends[0].addr, key)
	}
	return nil
}

// take makes the free address the client's, whose former one, if any, is freed. It
// returns nil at the bound.
func (p *pool) take(addr netip.Addr, key string) *binding {
	b := p.byAddr[addr]
	if b == nil {
		if len(p.byAddr) >= p.max {
			return nil
		}
		b = p.add(addr)
	}
	if b.key != "" {
		delete(p.byKey, b.key)
	}
	if old := p.byKey[key]; old != nil {
		old.key = ""
		p.setEnd(old, time.Time{})
	}
	b.key = key
	p.byKey[key] = b
	return b
}

func (p *pool) add(addr netip.Addr) *binding {
	b := &binding{addr: addr}
	p.byAddr[addr] = b
	heap.Push(&p.ends, b)
	return b
}

func (p *pool) setEnd(b *binding, t time.Time) {
	b.until = t
	if b.index >= 0 {
		heap.Fix(&p.ends, b.index)
	}
}

func (p *pool) inRanges(a netip.Addr) bool {
	i, found := slices.BinarySearchFunc(p.ranges, a, func(r Range, a netip.Addr) int { return r.First.Compare(a) })
	return found || i > 0 && !p.ranges[i-1].Last.Less(a)
}

// endHeap orders bindings by their end, then by address so that runs repeat.
type endHeap []*binding

func (h endHeap) Len() int { return len(h) }
func (h endHeap) Less(i, j int) bool {
	if h[i].until.Equal(h[j].until) {
		return h[i].addr.Less(h[j].addr)
	}
	return h[i].until.Before(h[j].until)
}
func (h endHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *endHeap) Push(x any) {
	b := x.(*binding)
	b.index = len(*h)
	*h = append(*h, b)
}
func (h *endHeap) Pop() any {
	old := *h
	b := old[len(old)-1]
	*h = old[:len(old)-1]
	return b
}

func toUint(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// lastAddr is the broadcast address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	n := toUint(p.Masked().Addr()) | uint32(1<<(32-p.Bits())-1)
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}
