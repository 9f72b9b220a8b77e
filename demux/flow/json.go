package flow

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"porthole/demux"
	"porthole/demux/packet"
	"porthole/impair"
)

// A Flow goes through JSON and back without loss, so that a client of the API renders
// it as the host would.

// rungJSON is a rung with names instead of numbers.
type rungJSON struct {
	At     time.Duration `json:"at_ns"`
	Dir    string        `json:"dir,omitempty"`
	What   string        `json:"what"`
	Flags  string        `json:"flags,omitempty"`
	Seq    *uint32       `json:"seq,omitempty"`
	Ack    *uint32       `json:"ack,omitempty"`
	Len    uint32        `json:"len,omitempty"`
	Window *uint16       `json:"window,omitempty"`
	Opts   []string      `json:"options,omitempty"`
	Fate   string        `json:"fate,omitempty"`
	Depth  uint32        `json:"depth,omitempty"`
	Limit  uint32        `json:"limit,omitempty"`
	Waited time.Duration `json:"waited_ns,omitempty"`
	Rules  string        `json:"rules,omitempty"` // impairment rules that touched it: "delay+corrupt"
}

// MarshalJSON implements json.Marshaler.
func (r Rung) MarshalJSON() ([]byte, error) {
	o := rungJSON{At: r.At, What: r.What.String(), Len: r.Len, Opts: optionNames(r.Opts), Depth: r.Depth,
		Limit: r.Limit, Waited: r.Waited, Rules: r.Rules.String()}
	if r.isPacket() || r.What == Data {
		o.Dir = r.Dir.String()
	}
	if r.Flags != 0 {
		o.Flags, o.Seq, o.Window = flagNames(r.Flags), &r.Seq, &r.Window
		if r.Flags&packet.ACK != 0 {
			o.Ack = &r.Ack
		}
	}
	if r.Fate != demux.NoFate {
		o.Fate = r.Fate.String()
	}
	return json.Marshal(o)
}

// UnmarshalJSON implements json.Unmarshaler.
func (r *Rung) UnmarshalJSON(b []byte) error {
	var o rungJSON
	if err := json.Unmarshal(b, &o); err != nil {
		return err
	}
	n := slices.Index(whats[:], o.What)
	if n < 0 {
		return fmt.Errorf("parse rung: no such thing as %q", o.What)
	}
	*r = Rung{At: o.At, What: What(n), Len: o.Len, Depth: o.Depth, Limit: o.Limit, Waited: o.Waited, Rules: impair.ParseFault(o.Rules)}
	if o.Dir == Out.String() {
		r.Dir = Out
	}
	if o.Fate != "" {
		f, ok := demux.ParseFate(o.Fate)
		if !ok {
			return fmt.Errorf("parse rung: no such fate as %q", o.Fate)
		}
		r.Fate = f
	}
	for i, f := range flagOrder {
		if slices.Contains(strings.Split(o.Flags, "+"), f.name) {
			r.Flags |= flagOrder[i].bit
		}
	}
	for i, name := range optionOrder {
		if slices.Contains(o.Opts, name) {
			r.Opts |= 1 << i
			if 1<<i == int(optFastOpenCookie) {
				r.Opts |= optFastOpen
			}
		}
	}
	for _, v := range []struct{ to, from *uint32 }{{&r.Seq, o.Seq}, {&r.Ack, o.Ack}} {
		if v.from != nil {
			*v.to = *v.from
		}
	}
	if o.Window != nil {
		r.Window = *o.Window
	}
	return nil
}

// flagOrder is the customary order of TCP's flags, optionOrder that of the bits.
var flagOrder = [...]struct {
	bit  uint8
	name string
}{{packet.SYN, "SYN"}, {packet.FIN, "FIN"}, {packet.RST, "RST"}, {packet.PSH, "PSH"},
	{packet.URG, "URG"}, {packet.ECE, "ECE"}, {packet.CWR, "CWR"}, {packet.ACK, "ACK"}}

var optionOrder = [...]string{"MSS", "WS", "SACK", "TS", "TFO", "TFO-cookie", "ECN", "malformed"}

func optionNames(b uint8) (names []string) {
	for i, n := range optionOrder {
		if b&(1<<i) != 0 && !(1<<i == int(optFastOpen) && b&optFastOpenCookie != 0) {
			names = append(names, n)
		}
	}
	return names
}

// flagNames gives SYN+ACK and the like.
func flagNames(f uint8) string {
	var s []string
	for _, x := range flagOrder {
		if f&x.bit != 0 {
			s = append(s, x.name)
		}
	}
	return strings.Join(s, "+")
}
