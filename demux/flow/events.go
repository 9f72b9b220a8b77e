package flow

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"

	"porthole/demux"
	"porthole/demux/packet"
)

// ID names a flow: they are counted from 1 and never used again.
type ID uint64

// String is short: f and the number in base 36.
func (id ID) String() string { return "f" + strconv.FormatUint(uint64(id), 36) }

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is the reverse.
func (id *ID) UnmarshalText(b []byte) error {
	v, err := ParseID(string(b))
	*id = v
	return err
}

// ParseID reads what String wrote.
func ParseID(s string) (ID, error) {
	if len(s) > 1 && s[0] == 'f' {
		if n, err := strconv.ParseUint(s[1:], 36, 64); err == nil && n > 0 && ID(n).String() == s {
			return ID(n), nil
		}
	}
	return 0, fmt.Errorf("parse flow %q: want an f and a number in base 36, as %v", s, ID(1234))
}

// Key names a conversation by its addresses.
type Key struct {
	Proto         packet.Kind // TCP or UDP
	Local, Remote netip.AddrPort
}

// TCPKey is the key of a connection that a door knows.
func TCPKey(k demux.FlowKey, port uint16) Key {
	return Key{packet.TCP, netip.AddrPortFrom(k.Local, port), k.Remote}
}

func (k Key) key() (w key) {
	w.meta = uint64(k.Proto)<<32 | uint64(k.Remote.Port())<<16 | uint64(k.Local.Port())
	remote, local := k.Remote.Addr().Unmap(), k.Local.Addr().Unmap()
	if remote.Is4() && local.Is4() {
		r, l := remote.As4(), local.As4()
		w.meta |= 4 << 40
		w.addr[0] = uint64(binary.BigEndian.Uint32(r[:]))<<32 | uint64(binary.BigEndian.Uint32(l[:]))
		return w
	}
	r, l := remote.As16(), local.As16()
	w.meta |= 6 << 40
	w.addr[0], w.addr[1] = binary.BigEndian.Uint64(r[:]), binary.BigEndian.Uint64(r[8:])
	w.addr[2], w.addr[3] = binary.BigEndian.Uint64(l[:]), binary.BigEndian.Uint64(l[8:])
	return w
}

func (k *key) public() Key {
	var remote, local netip.Addr
	if uint8(k.meta>>40) == 4 {
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], k.addr[0])
		remote, local = netip.AddrFrom4([4]byte(b[:4])), netip.AddrFrom4([4]byte(b[4:]))
	} else {
		var b [32]byte
		for i, w := range k.addr {
			binary.BigEndian.PutUint64(b[8*i:], w)
		}
		remote, local = netip.AddrFrom16([16]byte(b[:16])), netip.AddrFrom16([16]byte(b[16:]))
	}
	return Key{packet.Kind(uint8(k.meta >> 32)), netip.AddrPortFrom(local, k.local()), netip.AddrPortFrom(remote, k.remote())}
}

func (k *key) port() demux.Port {
	if k.isTCP() {
		return demux.TCPPort(k.local())
	}
	return demux.UDPPort(k.local())
}

// known calls f with a flow's record, if there is one.
func (t *Table) known(now int64, k Key, f func(r *hot, c *cold, slot uint32)) {
	w := k.key()
	h := t.hash(&w)
	t.mu.Lock()
	defer t.mu.Unlock()
	if r, slot := t.search(h, &w); r != nil {
		r.revive(now, In)
		f(r, t.coldLocked(slot), slot)
	}
}

// mark adds an event's rung, which is of no segment.
func (t *Table) mark(r *hot, c *cold, slot uint32, n rung) {
	t.rungLocked(r, c, n, [2]uint64{c.bytes(r, In), c.bytes(r, Out)})
	t.changes.note(c, slot)
}

// Admitted says that the door let a connection's SYN in. The fate to-stack of the SYN
// says so already; this adds how full the queue was.
func (t *Table) Admitted(now int64, k Key, depth, limit uint32) {
	if t != nil {
		t.known(now, k, func(r *hot, c *cold, slot uint32) {
			t.mark(r, c, slot, rung{at: now, what: Admitted, depth: depth, limit: limit})
		})
	}
}

// Refused says that a queue refused something whose packet In did not report with
// that fate: In alone is enough where it did.
func (t *Table) Refused(now int64, k Key, by demux.Fate, depth, limit uint32) {
	if t != nil {
		t.known(now, k, func(r *hot, c *cold, slot uint32) {
			t.dropLocked(c, slot, Decision{Fate: by})
			t.mark(r, c, slot, rung{at: now, what: Refused, fate: by, depth: depth, limit: limit})
		})
	}
}

// Established says that a connection has come into the accept queue, which holds
// depth of limit now.
func (t *Table) Established(now int64, k Key, depth, limit uint32) {
	if t != nil {
		t.known(now, k, func(r *hot, c *cold, slot uint32) {
			if c.handshook == 0 {
				c.handshook = max(now, 1)
				r.set(established)
			}
			t.mark(r, c, slot, rung{at: now, what: Established, depth: depth, limit: limit})
		})
	}
}

// Accepted says that the service took a connection, which had waited so many ns in
// the accept queue.
func (t *Table) Accepted(now int64, k Key, waited int64) {
	if t == nil {
		return
	}
	id := ID(0)
	t.known(now, k, func(r *hot, c *cold, slot uint32) {
		id = c.id
		c.accepted, c.waited = max(now, 1), waited
		w := uint64(max(waited, 0))
		t.mark(r, c, slot, rung{at: now, what: Accepted, depth: uint32(w >> 32), limit: uint32(w)})
	})
	t.recorders.add(demux.TCPPort(k.Local.Port()), event{at: now, kind: evAccept, flow: id, waited: waited})
}

// Idle says that a port's service looks for a connection or a datagram, finds none, and
// waits. Without it the sizes that Why gives rest on what can be told from the
// departures alone, which is little when the queue held only one.
func (t *Table) Idle(now int64, p demux.Port) {
	if t != nil && !p.IsLane() {
		t.recorders.add(p, event{at: now, kind: evIdle})
	}
}

// FirstRead says that the service has read the first byte of a connection.
func (t *Table) FirstRead(now int64, k Key) {
	if t != nil {
		t.known(now, k, func(r *hot, c *cold, slot uint32) {
			if c.read == 0 {
				c.read = max(now, 1)
				r.set(wasRead)
				t.mark(r, c, slot, rung{at: now, what: FirstRead})
			}
		})
	}
}

// Lost says that a datagram which In has told of as queued was dropped by its queue's
// policy, after it had been there for so many ns; d is how the queue stood, the datagram
// included.
func (t *Table) Lost(now int64, ip []byte, i *packet.Info, d Decision, waited int64) {
	if t == nil || i.Kind != packet.UDP {
		return
	}
	t.recorders.add(demux.UDPPort(i.DstPort), event{at: now, kind: evLost, fate: d.Fate, charge: chargeOf(i), waited: waited,
		depth: d.Depth, limit: d.Limit, bytes: d.Bytes, most: d.LimitBytes})
	k := keyOf(In, ip, i)
	h := t.hash(&k)
	t.mu.Lock()
	defer t.mu.Unlock()
	if r, slot := t.search(h, &k); r != nil {
		c := t.coldLocked(slot)
		t.dropLocked(c, slot, d)
		t.rungs.add(&c.ladder, rung{at: now, dir: In, n: uint32(i.PayloadLen()), fate: d.Fate, depth: d.Depth, limit: d.Limit})
		if c.drops == 1 {
			t.changes.note(c, slot)
		}
	}
}

// Read says that the service took a datagram out of its port's queue, where it had
// been for so many ns. It costs a flow's first datagram a lock, others a look.
func (t *Table) Read(now int64, ip []byte, i *packet.Info, waited int64) {
	if t == nil || i.Kind != packet.UDP {
		return
	}
	t.recorders.add(demux.UDPPort(i.DstPort), event{at: now, kind: evRead, charge: chargeOf(i), waited: waited})
	k := keyOf(In, ip, i)
	if r := t.find(&k); r != nil && r.state.Load()&wasRead != 0 {
		return
	}
	h := t.hash(&k)
	t.mu.Lock()
	defer t.mu.Unlock()
	if r, slot := t.search(h, &k); r != nil {
		c := t.coldLocked(slot)
		c.read, c.waited = max(now, 1), waited
		r.set(wasRead)
		w := uint64(max(waited, 0))
		t.mark(r, c, slot, rung{at: now, what: FirstRead, depth: uint32(w >> 32), limit: uint32(w)})
	}
}
