package porthole

import (
	"math/rand/v2"

	"porthole/demux"
	"porthole/impair"
	"porthole/services"
	"porthole/tun"
)

// Impairment is what rules did to the packets of one direction, since the host (or,
// what arrives at a port, its owner) came. Arrived + Duplicated = Passed + Lost +
// SYNDropped + OverLimit + Aged + Waiting, and of Passed the device may refuse some.
type Impairment struct {
	Rules        string `json:"rules"`   // as they are: "loss:5%,delay:50ms", or "none"
	Arrived      uint64 `json:"arrived"` // packets of at most the MTU, copies not counted
	Passed       uint64 `json:"passed"`
	Lost         uint64 `json:"lost"`        // loss, gemodel
	SYNDropped   uint64 `json:"syn_dropped"` // drop-syn
	OverLimit    uint64 `json:"over_limit"`  // limit
	Aged         uint64 `json:"aged"`        // policy:codel
	Corrupted    uint64 `json:"corrupted"`
	Duplicated   uint64 `json:"duplicated"`
	Delayed      uint64 `json:"delayed"`
	Reordered    uint64 `json:"reordered"`
	Queued       uint64 `json:"queued"`        // waited for the rate
	Waiting      int    `json:"waiting"`       // now
	WaitingBytes int    `json:"waiting_bytes"` // now
	HighWater    int    `json:"high_water"`    // most that waited for the rate at once
	Refused      uint64 `json:"refused"`       // on the way out: not taken by the device
}

func impairment(r impair.Rules, s impair.Stats, refused uint64) *Impairment {
	if r.IsZero() && s == (impair.Stats{}) {
		return nil
	}
	r.Seed = 0 // drawn, or in the settings
	return &Impairment{
		Rules: r.String(), Arrived: s.Arrived, Passed: s.Passed,
		Lost: s.Lost, SYNDropped: s.SYNDropped, OverLimit: s.OverLimit, Aged: s.Aged,
		Corrupted: s.Corrupted, Duplicated: s.Duplicated, Delayed: s.Delayed, Reordered: s.Reordered, Queued: s.Queued,
		Waiting: s.Waiting, WaitingBytes: s.WaitingBytes, HighWater: s.High, Refused: refused,
	}
}

// LinkStatus is the link under its rules. A direction that never had any is nil.
type LinkStatus struct {
	Settings LinkSettings `json:"settings"`          // all of them, as they are
	Changed  string       `json:"changed,omitempty"` // what SetLink has changed, as text
	In       *Impairment  `json:"in,omitempty"`      // towards the host
	Out      *Impairment  `json:"out,omitempty"`
}

// impaired is the device as one whose link can be put under rules, which it may be
// already. Dropped packets have a fate.
func impaired(dev tun.Device) *tun.Impaired {
	d, ok := dev.(*tun.Impaired)
	if !ok {
		d = tun.Impair(dev, tun.ImpairOptions{})
	}
	d.ShowDropped()
	return d
}

// upstream is what waits on the link under its rules, and what did when the device was
// closed, for the ledger.
func (h *Host) upstream() (held, stopped [demux.NumKinds]uint64) {
	kinds := func(n tun.Held) (k [demux.NumKinds]uint64) {
		k[demux.FromDevice], k[demux.Segmented], k[demux.Duplicated] = uint64(n.Frames), uint64(n.Segmented), uint64(n.Duplicated)
		return k
	}
	now, then := h.link.Held()
	return kinds(now), kinds(then)
}

// SetLink changes the rules of the whole link while packets pass: what s says, and
// nothing else. What waits keeps its turn. It lasts until ResetLink or the end of the
// host, on top of what a configuration says.
func (h *Host) SetLink(s LinkSettings) error {
	h.control.Lock()
	defer h.control.Unlock()
	h.mu.Lock()
	was := h.changedLink
	h.changedLink = s.over(was)
	h.mu.Unlock()
	if err := h.applyLink(); err != nil {
		h.mu.Lock()
		h.changedLink = was
		h.mu.Unlock()
		return refuse(Invalid, "set link: %w", err)
	}
	h.table.Log().Add(demux.Event{Type: demux.SettingsSet, Port: demux.LaneLink, Who: s.String()})
	return nil
}

// ResetLink takes back what SetLink changed: the configuration counts again.
func (h *Host) ResetLink() error {
	h.control.Lock()
	defer h.control.Unlock()
	h.mu.Lock()
	h.changedLink = LinkSettings{}
	h.mu.Unlock()
	if err := h.applyLink(); err != nil {
		return refuse(Failed, "reset link: %w", err)
	}
	h.table.Log().Add(demux.Event{Type: demux.SettingsSet, Port: demux.LaneLink, Who: "reset"})
	return nil
}

func (h *Host) linkSettings() LinkSettings { return h.linkOver(h.Config().Impair) }

// linkOver is what SetLink has changed, over a configuration's rules.
func (h *Host) linkOver(base LinkSettings) LinkSettings {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changedLink.over(base)
}

// applyLink makes the link what its settings say. What does not differ is not touched,
// so that the random sequences of the other direction go on.
func (h *Host) applyLink() error {
	in, out, err := h.linkSettings().Rules()
	if err != nil {
		return err
	}
	is := h.link.Rules()
	if is.In != in {
		h.link.SetIn(in)
	}
	if is.Out != out {
		h.link.SetOut(out)
	}
	return nil
}

// Link is the link as it is.
func (h *Host) Link() LinkStatus {
	s := LinkStatus{Settings: h.linkSettings()}
	h.mu.Lock()
	s.Changed = h.changedLink.String()
	h.mu.Unlock()
	r, out := h.link.Rules(), h.link.OutStats()
	s.In, s.Out = impairment(r.In, h.link.InStats(), 0), impairment(r.Out, out.Stats, out.Refused)
	return s
}

// applyRules makes the rules of a bound port what its settings say.
func (h *Host) applyRules(p services.Port, want *Settings) error {
	line := demuxPort(p)
	if r := *want.Impair; h.table.Port(line).Rules != r {
		if err := h.table.SetRules(line, r, rand.Uint64()); err != nil {
			return err
		}
	}
	if is, _ := h.stack.OutRules(line); is != *want.ImpairOut {
		h.stack.SetOutRules(line, *want.ImpairOut, rand.Uint64())
	}
	return nil
}
