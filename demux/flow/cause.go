package flow

import (
	"fmt"

	"porthole/demux"
)

func (w *teller) outbound() {
	f := w.f
	switch {
	case f.Handshake == 0 && f.ResetBy == "client":
		w.say(PortClosed, "connection refused: %v answered the host's SYN with RST", f.Remote)
	case f.Handshake == 0 && f.Out.SYNs > 1 && f.In.SYNs == 0:
		w.say(NoAnswer, "not connected: the host sent its SYN %s in %s and no answer arrived", times(uint32(f.Out.SYNs)), secs(w.lastSynAck()))
	case f.Handshake >= lateAck && f.Out.SYNs > 1:
		w.say(Loss, "connect took %s: the host sent its SYN %s before an answer arrived", secs(f.Handshake), times(uint32(f.Out.SYNs)))
	}
}

// service is what the host's own program did.
func (w *teller) service() {
	f := w.f
	switch {
	case f.Outbound:
		return
	case f.Accepted != 0 && f.Waited >= slowAccept:
		w.say(SlowAccept, "it waited %s in the accept queue for the service%s", secs(f.Waited), w.rate())
	case f.State == Waits && w.now-f.Handshake >= slowAccept:
		w.say(NotAccepted, "it stands in the accept queue since %s and the service has not accepted it%s", secs(w.now-f.Handshake), w.rate())
	case f.Accepted == 0 && f.Ended != 0 && f.Handshake != 0 && hasRung(f, Established):
		w.say(NotAccepted, "the service never accepted it")
	}
	if ready := max(f.In.FirstData, f.Accepted); f.In.FirstData != 0 && f.Accepted != 0 {
		switch {
		case f.Out.FirstData == 0 && f.Ended == 0 && w.now-ready >= slowAnswer:
			w.say(SlowService, "the service has not answered in %s since the client's first data", secs(w.now-ready))
		case f.Out.FirstData > ready && f.Out.FirstData-ready >= slowAnswer:
			w.say(SlowService, "the service took %s for its first answer", secs(f.Out.FirstData-ready))
		}
	}
}

func hasRung(f *Flow, what What) bool {
	for i := range f.Ladder {
		if f.Ladder[i].What == what {
			return true
		}
	}
	return false
}

// rate is how fast the service accepted while the flow waited.
func (w *teller) rate() string {
	began := int64(w.f.Began.Sub(w.t.start))
	from, to := began+int64(w.f.Handshake), began+int64(w.now)
	if w.f.Accepted != 0 {
		to = began + int64(w.f.Accepted)
		from = to - int64(w.f.Waited)
	}
	rec := w.record(w.f.demuxPort())
	n, rate := acceptRate(rec.events, from, to)
	if n == 0 || rate == 0 || rec.missed > 0 && rec.events[0].at > from {
		return ""
	}
	return ", which accepted " + digits(rate) + "/s"
}

// transfer is what happened to the data.
func (w *teller) transfer() {
	f := w.f
	in, out := f.names()
	if n := f.Out.ZeroWindow; n > 0 {
		w.say(ClosedWin, "the host's window was closed %s for %s: the service read slower than the %s sent, and its receive buffer was full", times(n), secs(f.Out.ZeroFor), in)
	}
	if n := f.In.ZeroWindow; n > 0 {
		w.say(ClosedWin, "the %s's window was closed %s for %s: it read slower than the %s sent", in, times(n), secs(f.In.ZeroFor), out)
	}
	drops := uint32(0)
	if f.Handshake != 0 || f.Partial {
		drops = f.lateDrops()
	}
	if drops > 0 {
		c := Dropped
		if f.LastDrop == demux.QueueFull.String() {
			c = PortQueue
		}
		w.say(c, "%s arrived and did not get on, %v", segments(drops), f.LastDrop)
	}
	switch {
	case f.In.Resent > 0 && drops > 0:
		w.say(Loss, "the %s sent %s again", in, segments(f.In.Resent))
	case f.In.Resent > 0:
		w.say(Loss, "the %s sent %s again that had arrived: an acknowledgment was lost on the way, or late", in, segments(f.In.Resent))
	}
	if f.In.Gaps > 0 {
		w.say(Loss, "%s arrived without what came before: lost on the way, or out of order", segments(f.In.Gaps))
	}
	if f.Out.Resent > 0 {
		w.say(Loss, "the host sent %s again, as no acknowledgment had come in time: lost on the way, or late", segments(f.Out.Resent))
	}
}

func (w *teller) reset() {
	f := w.f
	in, _ := f.names()
	if f.ResetBy == "" || w.cause == PortClosed {
		return
	}
	who, c := "the host", ResetHost
	if f.ResetBy == "client" {
		who, c = "the "+in, ResetClient
	}
	switch {
	case f.Handshake == 0 && f.Partial:
		w.say(c, "%s reset the connection %s after it was first seen", who, secs(f.Ended))
	case f.Handshake == 0:
		w.say(c, "%s reset the connection after %s, before the handshake was complete", who, secs(f.Ended))
	case f.Accepted == 0 && !f.Outbound && hasRung(f, Established):
		w.say(c, "%s reset the connection after %s, while it waited for the service", who, secs(f.Ended))
	default:
		w.say(c, "%s reset the connection after %s, with %s in and %s out", who, secs(f.Ended), size(f.In.Bytes), size(f.Out.Bytes))
	}
}

// episode is the part of the record of the flow's port around one of its rungs.
func (w *teller) episode(r *Rung) record {
	return w.record(w.f.demuxPort()).episode(int64(w.f.Began.Sub(w.t.start) + r.At))
}

func (w *teller) udp() {
	f := w.f
	var r *Rung
	for i := range f.Ladder {
		if x := &f.Ladder[i]; x.Fate.String() == f.LastDrop && f.Dropped > 0 {
			r = x
			break
		}
	}
	switch {
	case r != nil && r.Fate == demux.QueueFull:
		w.say(PortQueue, "%d of %d datagrams refused, the queue of %s%s", f.Dropped, f.In.Datagrams, f.Port(), full(r))
		w.queueSizes(w.episode(r))
	case r != nil && r.Fate == demux.HeadDropped:
		w.say(PortQueue, "%d of %d datagrams dropped, the oldest of the queue of %s,%s", f.Dropped, f.In.Datagrams, f.Port(), full(r))
		w.queueSizes(w.episode(r))
	case r != nil && r.Fate == demux.CoDelDropped:
		w.say(Standing, "%d of %d datagrams dropped by CoDel as they were taken from the queue of %s", f.Dropped, f.In.Datagrams, f.Port())
		w.standing(w.episode(r))
	case f.Dropped > 0:
		w.say(Dropped, "%d of %d datagrams dropped, %v", f.Dropped, f.In.Datagrams, f.LastDrop)
	}
	switch {
	case len(f.Ladder) > 0 && f.Ladder[0].Fate == demux.Closed:
		w.say(PortClosed, "nobody listens on %s; the host owes an ICMP port unreachable, of which it sends a limited number a second", f.Port())
	case f.Read != 0 && f.Waited >= slowAccept:
		w.say(SlowService, "its first datagram waited %s in the queue for the service", secs(f.Waited))
	}
	if !f.Outbound && f.Out.FirstData-f.Read >= slowAnswer && f.Read != 0 {
		w.say(SlowService, "the service took %s for its first answer", secs(f.Out.FirstData-f.Read))
	}
	if w.cause == "" {
		if f.Out.Datagrams == 0 && !f.Outbound || f.In.Datagrams == 0 && f.Outbound {
			w.say(Unknown, "no datagram of it was dropped and none has been answered in %s; the record does not say why", secs(w.now))
			return
		}
		w.say(Nothing, "nothing held it up: no datagram of it was dropped")
	}
}

// standing explains what CoDel drops.
func (w *teller) standing(rec record) {
	w.say(Unknown, "all that was taken had waited longer than codel-target for codel-interval, %s; a larger queue would not have helped, a faster service would", rec.pace())
}

func segments(n uint32) string {
	if n == 1 {
		return "1 segment"
	}
	return fmt.Sprintf("%d segments", n)
}
