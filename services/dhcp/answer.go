package dhcp

import (
	"context"
	"log/slog"
	"net"
	"net/netip"

	"porthole/services"
)

// answerInline has the host answer requests where it reads them, when leases are kept
// in memory alone and nobody wants a line for each request. What would wait is left to
// read: another answer being made, a look over the port table.
func (r *run) answerInline(pc net.PacketConn) {
	a, ok := pc.(services.Answerer)
	if !ok || r.store != nil {
		return
	}
	ctx := context.Background()
	a.Answer(func(msg []byte, from netip.AddrPort, reply func([]byte, netip.AddrPort) bool) bool {
		if r.log.Enabled(ctx, slog.LevelInfo) || !r.mu.TryLock() {
			return false
		}
		defer r.mu.Unlock()
		now := r.env.Now()
		if r.asksPorts(now) {
			return false
		}
		ans := r.handle(msg, from, now)
		if ans.warning != nil {
			select {
			case r.warns <- ans.warning:
			default: // the log is slower than the clients
			}
		}
		// What is too long for one packet is asked again by read: requests may repeat.
		return ans.payload == nil || ans.hw == nil && reply(ans.payload, ans.to)
	})
}

// warn logs what an answer wants said.
func (r *run) warn(w []any) {
	if len(w) > 0 {
		r.log.Warn(w[0].(string), w[1:]...)
	}
}
