package demux

// Tap looks on at what a queue does with a packet: it refused it (a dropping fate),
// took it for the socket that owns the port (NoFate), or its policy dropped one that it
// had taken (head-drop, codel-drop). depth and bytes are what the queue held, with a
// packet that it took or had taken, limit and maxBytes its bounds. It is called with the line's
// mutex held: it must not wait, keep the packet, or call this package.
type Tap func(p Port, pkt Packet, f Fate, depth, limit, bytes, maxBytes uint32)

// SetTap sets who looks on, before packets pass.
func (t *Table) SetTap(f Tap) { t.tap = f }

// At is when the packet's batch arrived, in ns of Options.Now; 0 without.
func (p Packet) At() int64 { return p.s.at }
