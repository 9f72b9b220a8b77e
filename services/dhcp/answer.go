package dhcp

import (
	"net"
	"net/netip"

	"porthole/services"
)

// answerInline has the host answer requests where it reads them, when leases are kept
// in memory alone. What would wait is left to read: another answer being made, a look
// over the port table.
func (r *run) answerInline(pc net.PacketConn) {
	a, ok := pc.(services.Answerer)
	if !ok || r.store != nil {
		return
	}
	a.Answer(func(msg []byte, from netip.AddrPort, reply func([]byte, netip.AddrPort) bool) bool {
		if !r.mu.TryLock() {
			return false
		}
		defer r.mu.Unlock()
		now := r.env.Now()
		if r.asksPorts(now) {
			return false
		}
		ans := r.handle(msg, from, now)
		// What is too long for one packet is asked again by read: requests may repeat.
		done := ans.payload == nil || ans.hw == nil && reply(ans.payload, ans.to)
		if done {
			r.say(&ans, from, now)
		}
		return done
	})
}
