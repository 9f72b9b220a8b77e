package porthole

import (
	"time"

	"porthole/demux"
	"porthole/demux/flow"
	"porthole/services"
)

// Flows are the conversations that match f, oldest first; the zero Filter takes all.
// At most flow.DefaultFlows are kept; the ones not seen for longest go first.
func (h *Host) Flows(f flow.Filter) []flow.Flow { return h.flows.Flows(h.now(), f) }

// Flow is one conversation with its ladder of segments.
func (h *Host) Flow(id flow.ID) (flow.Flow, bool) { return h.flows.Get(h.now(), id) }

// FlowsSince gives up to limit flows that changed after cursor, the cursor for the
// next call, and how many changes were overwritten in between.
func (h *Host) FlowsSince(cursor uint64, limit int) (flows []flow.Flow, next, missed uint64) {
	return h.flows.Since(h.now(), cursor, limit)
}

// WhyFlow explains one conversation, WhyPort what a port did to its clients, WhyLast
// the conversation that last had something to explain.
func (h *Host) WhyFlow(id flow.ID) (flow.Why, bool) { return h.flows.WhyFlow(h.now(), id) }

// WhyPort explains a port.
func (h *Host) WhyPort(p services.Port) flow.Why { return h.flows.WhyPort(h.now(), linePort(p)) }

// WhyLast explains the newest trouble.
func (h *Host) WhyLast() (flow.Why, bool) { return h.flows.WhyLast(h.now()) }

func linePort(p services.Port) demux.Port {
	if p.Proto == "udp" {
		return demux.UDPPort(p.Number)
	}
	return demux.TCPPort(p.Number)
}

// now is the clock of the host's queues and timelines: ns since it was made.
func (h *Host) now() int64 { return int64(time.Since(h.started)) }
