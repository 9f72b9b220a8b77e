package porthole

import (
	"fmt"
	"strings"
	"time"

	"porthole/demux"
	"porthole/demux/flow"
	"porthole/services"
)

// The timelines' types under this package's name, for those who see the host alone.
type (
	Flow      = flow.Flow
	FlowID    = flow.ID
	FlowStats = flow.Stats
	Why       = flow.Why
)

// Flows are the newest conversations, oldest first, at most limit (0: 1,000), of one
// port or of all (nil). The host keeps 65,536; those not seen for longest go first.
func (h *Host) Flows(port *services.Port, limit int) []Flow {
	f := flow.Filter{Limit: limit}
	if port != nil {
		line := demuxPort(*port)
		f.Port = &line
	}
	fs := h.flows.Flows(h.now(), f)
	h.received(fs)
	return fs
}

// Flow is one conversation with its ladder of segments.
func (h *Host) Flow(id FlowID) (Flow, bool) {
	f, ok := h.flows.Get(h.now(), id)
	h.stack.Receive(&f)
	return f, ok
}

// FlowStats counts the timelines that the host keeps, and those that made room.
func (h *Host) FlowStats() FlowStats { return h.flows.Stats() }

// received completes what the stack knows of flows' receive buffers.
func (h *Host) received(fs []Flow) {
	for i := range fs {
		h.stack.Receive(&fs[i])
	}
}

// FlowsSince gives up to limit flows that changed after cursor, the cursor for the
// next call, and how many changes were overwritten in between.
func (h *Host) FlowsSince(cursor uint64, limit int) (flows []Flow, next, missed uint64) {
	flows, next, missed = h.flows.Since(h.now(), cursor, limit)
	h.received(flows)
	return flows, next, missed
}

// Why explains a conversation ("f1a"), a port ("80/tcp"), or whatever last had
// something to explain ("last").
func (h *Host) Why(of string) (Why, error) {
	if of == "last" || of == "" {
		w, ok := h.flows.WhyLast(h.now())
		if !ok {
			return Why{}, fmt.Errorf("why: nothing has needed an explanation yet")
		}
		return w, nil
	}
	if p, err := services.ParsePort(of); err == nil {
		if s := h.table.Port(demuxPort(p)); s.Knocked > 0 && !s.WasBound {
			return Why{Port: of, Cause: flow.PortClosed, Text: fmt.Sprintf("%v: nobody has the port, and %d packets came for it. `porthole flows %v` shows whose.", p, s.Knocked, p)}, nil
		}
		w := h.flows.WhyPort(h.now(), demuxPort(p))
		h.unexplained(p, &w)
		return w, nil
	}
	id, err := flow.ParseID(of)
	if err != nil {
		return Why{}, fmt.Errorf("why %q: want a port (80/tcp), a flow (f1a, see `porthole flows`) or last", of)
	}
	w, ok := h.flows.WhyFlow(h.now(), id)
	if !ok {
		return Why{}, fmt.Errorf("why %v: no such flow; see `porthole flows`", id)
	}
	return w, nil
}

// unexplained adds what a port has dropped that its record does not know: what the
// record explains are refusals of the door, or of a datagram's queue.
func (h *Host) unexplained(p services.Port, w *Why) {
	s := h.table.Port(demuxPort(p))
	var words []string
	for f := demux.NoFate + 1; int(f) < demux.NumFates; f++ {
		switch f {
		case demux.AcceptQueueFull, demux.SynQueueFull:
			continue
		case demux.QueueFull, demux.HeadDropped, demux.CoDelDropped:
			if p.Proto == "udp" {
				continue
			}
		}
		if n := s.Fates[f]; n > 0 && f.Dropped() {
			words = append(words, fmt.Sprintf("%d %v", n, f))
			if w.Cause == flow.Nothing || w.Cause == flow.Unknown {
				w.Cause = flow.Dropped
				if f == demux.QueueFull {
					w.Cause = flow.PortQueue
				}
			}
		}
	}
	if len(words) > 0 {
		w.Text += " In all it has dropped " + strings.Join(words, ", ") + ", for which no size is reckoned."
	}
}

// now is the clock of the host's queues and timelines: ns since it was made.
func (h *Host) now() int64 { return int64(time.Since(h.started)) }
