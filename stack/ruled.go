package stack

import (
	"maps"
	"sync"
	"sync/atomic"

	"porthole/demux"
	"porthole/demux/packet"
	"porthole/impair"
	"porthole/tun"
)

// ruled are the impairment rules of what single ports send, by local port: a Shaper
// each, before the device and the rules of the whole link. Without any, a write looks
// at one pointer. What the host sends to itself never comes here, and fragments pass:
// only the first of them says from which port it is. A port keeps its Shaper, idle, when
// its rules go: what it holds is on its way then.
type ruled struct {
	active atomic.Pointer[map[demux.Port]*tun.Shaper] // those with rules; nil: none

	mu     sync.Mutex
	all    map[demux.Port]*tun.Shaper
	closed bool
}

// send writes one frame to the device, through the rules of the port it comes from.
func (l *link) send(queue int, out []tun.Out, wait bool) (int, error) {
	if active := l.ruled.active.Load(); active != nil {
		if p, ok := l.localPort(out[0].Pieces); ok {
			if s := (*active)[p]; s != nil {
				return s.Write(queue, out, wait)
			}
		}
	}
	return l.s.dev.Write(queue, out, wait)
}

// localPort reads the source port of a whole TCP or UDP packet.
func (l *link) localPort(pieces [][]byte) (demux.Port, bool) {
	var b [14 + 60 + 60]byte
	n, size := 0, 0
	for _, p := range pieces {
		n += copy(b[n:], p)
		size += len(p)
	}
	ip := b[:n]
	if l.s.ethernet() {
		if n < packet.EthernetSize {
			return 0, false
		}
		ip, size = ip[packet.EthernetSize:], size-packet.EthernetSize
	}
	var i packet.Info
	if i.Parse(ip, size) != packet.None {
		return 0, false
	}
	switch i.Kind {
	case packet.TCP:
		return demux.TCPPort(i.SrcPort), true
	case packet.UDP:
		return demux.UDPPort(i.SrcPort), true
	}
	return 0, false
}

// SetOutRules puts what a port sends under rules, while packets pass; zero rules let
// out what they have held back. The seed is for rules that bring none.
func (s *Stack) SetOutRules(p demux.Port, r impair.Rules, seed uint64) {
	d := &s.link.ruled
	d.mu.Lock()
	defer d.mu.Unlock()
	sh := d.all[p]
	switch {
	case d.closed || sh == nil && r.IsZero():
		return
	case sh == nil:
		sh = tun.NewShaper(s.dev, r, seed)
		if d.all == nil {
			d.all = map[demux.Port]*tun.Shaper{}
		}
		d.all[p] = sh
	default:
		sh.SetRules(r, seed)
	}
	active := map[demux.Port]*tun.Shaper{}
	if old := d.active.Load(); old != nil {
		active = maps.Clone(*old)
	}
	if active[p] = sh; r.IsZero() {
		delete(active, p)
	}
	if len(active) == 0 {
		d.active.Store(nil)
		return
	}
	d.active.Store(&active)
}

// OutRules are what SetOutRules has set, and what they did.
func (s *Stack) OutRules(p demux.Port) (impair.Rules, tun.ShaperStats) {
	d := &s.link.ruled
	d.mu.Lock()
	sh := d.all[p]
	d.mu.Unlock()
	if sh == nil {
		return impair.Rules{}, tun.ShaperStats{}
	}
	return sh.Rules(), sh.Stats()
}

// close drops what the rules hold. The device is closed.
func (d *ruled) close() {
	d.mu.Lock()
	d.closed = true
	all := maps.Clone(d.all)
	d.mu.Unlock()
	for _, s := range all {
		s.Close()
	}
}
