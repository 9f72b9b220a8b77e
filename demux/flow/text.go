package flow

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"porthole/demux"
	"porthole/demux/packet"
)

// Line is a flow in one line: when, which port, who, and what happened in order.
func (f *Flow) Line() string {
	var b strings.Builder
	b.WriteString(f.Began.Format("15:04:05.000 "))
	b.WriteString(f.Port())
	b.WriteByte(' ')
	if f.Outbound {
		b.WriteString("to ")
	}
	b.WriteString(f.Remote.String())
	sep := " "
	for _, p := range f.parts() {
		b.WriteString(sep)
		b.WriteString(p)
		sep = "; "
	}
	return b.String()
}

// Port is the host's port, as 80/tcp.
func (f *Flow) Port() string { return strconv.Itoa(int(f.Local.Port())) + "/" + f.Proto }

// client names who began, in what the text says of them.
func (f *Flow) names() (in, out string) {
	if f.Outbound {
		return "server", "host"
	}
	return "client", "host"
}

func (f *Flow) parts() []string {
	if f.Proto == "udp" {
		return f.udpParts()
	}
	in, out := f.names()
	parts := f.synParts()
	if f.Partial {
		parts = append(parts, "beginning not seen")
	}
	if f.Handshake != 0 && len(f.Ladder) > 0 {
		parts = append(parts, "established "+short(f.Handshake-f.answeredSyn()))
	}
	if f.Accepted != 0 {
		parts = append(parts, "accepted after "+short(f.Waited))
	} else if f.State == Waits {
		parts = append(parts, "not accepted")
	}
	if f.Read != 0 && f.Accepted != 0 && f.Read-f.Accepted >= 10*time.Millisecond {
		parts = append(parts, "first byte read "+short(f.Read-f.Accepted)+" later")
	}
	parts = f.dataParts(parts, in, out)
	if r := f.Receive; r != nil && r.Queued > 0 {
		parts = append(parts, fmt.Sprintf("%s of %s received and not read, window %s", size(uint64(r.Queued)), size(uint64(r.Buffer)), size(uint64(r.Window))))
	}
	switch {
	case f.ResetBy != "":
		parts = append(parts, "reset by "+map[string]string{"client": in, "host": out}[f.ResetBy]+" after "+short(f.Ended))
	case f.Ended != 0:
		parts = append(parts, "closed after "+short(f.Ended))
	case f.State == Closing:
		parts = append(parts, "closing")
	}
	return parts
}

func (f *Flow) dataParts(parts []string, in, out string) []string {
	if f.In.Bytes+f.Out.Bytes > 0 {
		parts = append(parts, "in "+size(f.In.Bytes)+", out "+size(f.Out.Bytes))
	}
	if f.Handshake != 0 || f.Partial {
		if n := f.lateDrops(); n > 0 {
			parts = append(parts, fmt.Sprintf("%d dropped %s", n, f.LastDrop))
		}
	}
	for _, s := range []struct {
		who string
		*Side
	}{{in, &f.In}, {out, &f.Out}} {
		if s.Resent > 0 {
			parts = append(parts, fmt.Sprintf("%s resent %d", s.who, s.Resent))
		}
		if s.ZeroWindow > 0 {
			parts = append(parts, fmt.Sprintf("%s's window closed %s for %s", s.who, times(s.ZeroWindow), short(s.ZeroFor)))
		}
	}
	return parts
}

// lateDrops are the drops after the handshake.
func (f *Flow) lateDrops() uint32 {
	n := f.Dropped
	for i := range f.Ladder {
		if f.Ladder[i].Fate.Dropped() && f.before(i) {
			n--
		}
	}
	return n
}

// maxShown is how many SYNs a line tells apart.
const maxShown = 6

// synParts are the handshake's segments and what became of each.
func (f *Flow) synParts() (parts []string) {
	shown, total := 0, int(f.In.SYNs)
	if f.Outbound {
		total = int(f.Out.SYNs)
	}
	acks, ackAt := 0, -1
	for i := range f.Ladder {
		r := &f.Ladder[i]
		if !f.before(i) {
			break
		}
		begins := r.Flags&(packet.SYN|packet.ACK) == packet.SYN && (r.Dir == Out) == f.Outbound
		switch {
		case r.What == Refused:
			parts = append(parts, verdict(r))
		case begins && shown < maxShown:
			shown++
			p := "SYN"
			if r.At > 0 {
				p += " +" + stamp(r.At)
			}
			if v := verdict(r); v != "" {
				p += " " + v
			}
			parts = append(parts, p)
		case r.isPacket() && r.Dir == In && r.Fate.Dropped() && r.Flags&packet.ACK != 0:
			if acks++; acks == 1 {
				ackAt = len(parts)
				parts = append(parts, "ACK "+verdict(r))
			}
		}
	}
	if acks > 1 {
		parts[ackAt] += fmt.Sprintf(" (%s)", times(uint32(acks)))
	}
	if total > shown {
		parts = append(parts, fmt.Sprintf("%d more", total-shown))
	}
	if out := f.Out.SYNs; !f.Outbound && out > 1 {
		parts = append(parts, fmt.Sprintf("SYN+ACK sent %s", times(uint32(out))))
	}
	return parts
}

// verdict is what became of a segment of the handshake.
func verdict(r *Rung) string {
	switch {
	case r.Dir == Out:
		return ""
	case r.Fate == demux.ToStack && r.Flags&packet.SYN != 0:
		return "admitted"
	case r.Fate == demux.Closed:
		return "refused closed"
	case r.Fate == demux.SynRepeated:
		return "repeated"
	case r.Fate == demux.SynCookie:
		return "answered by cookie"
	case r.Fate.Dropped():
		return "refused " + r.Fate.String() + r.level()
	}
	return ""
}

// level is how full the queue was that decided, and its limit; empty when none did.
// Of a limit of 0 one may wait.
func (r *Rung) level() string {
	switch {
	case r.byBytes():
		return " by its bytes"
	case r.Limit == 0 && r.Depth == 0:
		return ""
	}
	return fmt.Sprintf(" %d/%d", r.Depth, r.Limit)
}

// byBytes: the queue had places left, but not the bytes.
func (r *Rung) byBytes() bool { return r.Fate == demux.QueueFull && r.Depth < r.Limit }

// answeredSyn is when the SYN that led to the handshake came.
func (f *Flow) answeredSyn() (at time.Duration) {
	for i := range f.Ladder {
		r := &f.Ladder[i]
		if !f.before(i) {
			break
		}
		if r.Flags&(packet.SYN|packet.ACK) == packet.SYN && !r.Fate.Dropped() && r.Fate != demux.SynRepeated {
			at = r.At
		}
	}
	return at
}

func (f *Flow) udpParts() []string {
	parts := []string{fmt.Sprintf("in %d, out %d datagrams", f.In.Datagrams, f.Out.Datagrams)}
	if f.Dropped > 0 {
		p := fmt.Sprintf("%d dropped %s", f.Dropped, f.LastDrop)
		for i := len(f.Ladder) - 1; i >= 0; i-- {
			if r := &f.Ladder[i]; r.Fate.String() == f.LastDrop && r.Limit > 0 {
				p += r.level()
				break
			}
		}
		parts = append(parts, p)
	}
	if len(f.Ladder) > 0 && f.Ladder[0].Fate == demux.Closed {
		parts = append(parts, "refused closed")
	}
	if f.Read != 0 {
		parts = append(parts, "first read after "+short(f.Waited))
	}
	if f.Outbound && f.In.FirstData != 0 {
		parts = append(parts, "first answer "+short(f.In.FirstData))
	} else if !f.Outbound && f.Out.FirstData != 0 {
		parts = append(parts, "first answer "+short(f.Out.FirstData))
	}
	return parts
}

// WriteLadder writes the flow's line, what both sides offered, and its ladder: time
// since the beginning, direction, segment, and what became of it.
func (f *Flow) WriteLadder(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%v %s\n", f.ID, f.Line())
	in, out := f.names()
	for _, s := range []struct {
		who string
		*Side
	}{{in, &f.In}, {out, &f.Out}} {
		if s.Options != nil {
			fmt.Fprintf(&b, "%s offers %s\n", s.who, s.Options)
		}
	}
	for i := range f.Ladder {
		if i == f.Head && f.Skipped > 0 {
			fmt.Fprintf(&b, "%12s ... %d more ...\n", "", f.Skipped)
		}
		b.WriteString(f.Ladder[i].line(f.Proto))
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Rung) line(proto string) string {
	at := fmt.Sprintf("%+12.6f", r.At.Seconds())
	switch r.What {
	case Admitted, Established:
		return at + "  *  " + map[What]string{Admitted: "admitted", Established: "in accept queue"}[r.What] + r.level()
	case Refused:
		return at + "  *  " + verdict(&Rung{Fate: r.Fate, Depth: r.Depth, Limit: r.Limit})
	case Accepted:
		return at + "  *  accepted after " + short(r.Waited)
	case FirstRead:
		if proto == "udp" {
			return at + "  *  read after " + short(r.Waited)
		}
		return at + "  *  first byte read"
	case Data:
		return at + arrow(r.Dir) + size(uint64(r.Len)) + " of data"
	}
	s := at + arrow(r.Dir)
	if r.Flags == 0 {
		s += fmt.Sprintf("%d bytes", r.Len)
	} else {
		s += fmt.Sprintf("%s seq %d", flagNames(r.Flags), r.Seq)
		if r.Flags&packet.ACK != 0 {
			s += fmt.Sprintf(" ack %d", r.Ack)
		}
		if r.Len > 0 {
			s += fmt.Sprintf(" len %d", r.Len)
		}
		s += fmt.Sprintf(" win %d", r.Window)
	}
	if o := optionNames(r.Opts); len(o) > 0 {
		s += " [" + strings.Join(o, " ") + "]"
	}
	if r.What != Segment {
		s += " " + map[What]string{Resent: "resent", Gap: "after a gap", Filled: "fills the gap",
			ZeroWindow: "window closed", Opened: "window open again"}[r.What]
	}
	if r.Fate != demux.NoFate && r.Fate != demux.ToStack {
		s += " " + r.Fate.String() + r.level()
	}
	if rules := r.Rules.String(); rules != "" {
		s += " (" + rules + ")"
	}
	return s
}

func arrow(d Direction) string { return [...]string{"  >  ", "  <  "}[d] }

// String lists what was offered.
func (o *Offer) String() string {
	var s []string
	if o.MSS != 0 {
		s = append(s, fmt.Sprintf("MSS %d", o.MSS))
	}
	if o.WindowScale != nil {
		s = append(s, fmt.Sprintf("window scale %d", *o.WindowScale))
	}
	for _, x := range []struct {
		on   bool
		name string
	}{{o.SACK, "SACK"}, {o.Timestamps, "timestamps"}, {o.FastOpen == "asked", "asks for TFO"},
		{o.FastOpen == "cookie", "TFO cookie"}, {o.ECN, "ECN"}, {o.Malformed, "malformed options"}} {
		if x.on {
			s = append(s, x.name)
		}
	}
	if len(s) == 0 {
		return "no options"
	}
	return strings.Join(s, ", ")
}

// short is a duration in two digits or so: 0.3 ms, 42 ms, 1.9 s, 75 s.
func short(d time.Duration) string {
	switch {
	case d < 0:
		return "0 ms"
	case d < 9950*time.Microsecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
	case d < 950*time.Millisecond:
		return fmt.Sprintf("%.0f ms", d.Seconds()*1e3)
	case d < 9950*time.Millisecond:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}

// stamp is a time since the beginning, to the millisecond.
func stamp(d time.Duration) string { return fmt.Sprintf("%.3fs", d.Seconds()) }

func size(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, u := float64(n), -1
	for v >= 1024 {
		v, u = v/1024, u+1
	}
	return fmt.Sprintf("%.1f %ciB", v, units[u])
}

func times(n uint32) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}
