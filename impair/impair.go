// Package impair decides what a bad link does to packets: it loses, delays, reorders,
// copies and corrupts them, and lets them through no faster than a rate. It has no
// clock, no packets and no goroutine of its own: the time and the seed are arguments
// and a packet is whatever the caller calls one, so that a device (package tun), the
// port table (package demux) and an experiment on a virtual clock drive the same code.
//
// A packet's way, downward through the files:
//
//	impair.go   Rules, what is to happen; Fault, what did
//	text.go     their text form; units.go its rates, times and percents
//	line.go     Judge: lost, copied, corrupted or let in; Push: into the queue or the delay
//	wait.go     packets that wait for their time
//
// Rules are named and mean what they mean in tc-netem(8), with one difference: the
// queue that waits for the rate stands before the delay, as on a real link, and limit
// bounds that queue alone; netem bounds queue and delay together.
//
// In Go, on a real device:
//
//	rules, err := impair.Parse("rate:10mbit,limit:100,policy:codel,delay:20ms")
//	dev := tun.Impair(dev, tun.ImpairOptions{In: rules, Out: rules})
//
// and on a virtual clock:
//
//	line := impair.NewLine[int](rules, 1, impair.DefaultBounds)
//	if v := line.Judge(size, false); !v.Fault.Dropped() {
//		line.Push(now, id, size, v.Fault)
//	}
//	for it, ok := line.Pop(now); ok; it, ok = line.Pop(now) { ... }
//
// What it is not: no correlation between the chances (netem's own manual warns of its),
// no loss state model, no slots, no packet overhead of the rate, no distribution tables
// from files.
package impair

import (
	"slices"
	"strings"
	"time"

	"porthole/internal/codel"
)

// Rules say what happens to the packets of one direction. The zero value is a perfect
// link. Chances are percents, 0 to 100.
type Rules struct {
	DropSYN int     // segments with SYN that are dropped, from the first one on
	Loss    float64 // chance that a packet is lost

	// The Gilbert-Elliott model, instead of Loss, when GE.P is not 0.
	GE GilbertElliott

	Corrupt   float64 // chance that one bit is turned
	Duplicate float64 // chance that a packet comes twice

	Rate       Rate   // bits of IP packet a second; 0 is no bound
	Limit      int    // packets that wait for the rate (without one: in the delay); 0 is DefaultLimit (without a rate: what memory allows)
	LimitBytes int    // bytes of those; 0 is no bound of its own
	Policy     Policy // what the queue before the rate loses
	Target     time.Duration
	Interval   time.Duration // of CoDel; 0 is DefaultTarget, DefaultInterval

	Delay        time.Duration
	Jitter       time.Duration // of the delay: what it means depends on Distribution
	Distribution Distribution
	Reorder      float64 // chance that a packet skips the delay
	Gap          int     // with Reorder: only every Gap-th packet may; 0 is 1

	// Seed makes the same packets meet the same fate again; 0 lets the caller draw one.
	Seed uint64
}

// GilbertElliott is a loss that comes in bursts: a good and a bad state, changed
// between from packet to packet. Percents.
type GilbertElliott struct {
	P    float64 // from good to bad
	R    float64 // from bad to good
	Bad  float64 // loss in the bad state: 1-h
	Good float64 // loss in the good state: 1-k
}

// Defaults of Rules.
const (
	DefaultLimit    = 1000 // packets, as netem's
	DefaultTarget   = codel.DefaultTarget
	DefaultInterval = codel.DefaultInterval
)

// Policy is what a full queue, or one that stands too long, loses.
type Policy uint8

// The policies.
const (
	TailDrop    Policy = iota // the newest packet, when the queue is full
	CoDelPolicy               // the oldest, when the queue has stood for long (RFC 8289)
)

// Distribution is how a delay is spread around its mean.
type Distribution uint8

// The distributions, as netem's: Jitter is the half width of the uniform one and the
// standard deviation of the normal one; pareto has a long tail to the late side. None
// goes further than four times the jitter from the mean.
const (
	Uniform Distribution = iota
	Normal
	Pareto
)

// IsZero reports whether the rules leave every packet alone. A seed alone does nothing.
func (r Rules) IsZero() bool {
	r.Seed = 0
	return r == Rules{}
}

// waits reports whether a packet may have to wait.
func (r *Rules) waits() bool { return r.Rate > 0 || r.Delay > 0 || r.Jitter > 0 }

// Fault is the rules that touched a packet, a set.
type Fault uint16

// The faults. The first four drop the packet.
const (
	Lost       Fault = 1 << iota // by chance
	SYNDropped                   // it was one of the first SYNs
	OverLimit                    // the queue, or the delay, was full
	Aged                         // CoDel: the queue has stood for too long
	Corrupted                    // one of its bits was turned
	Duplicated                   // it is a copy
	Queued                       // it waited for the rate
	Delayed
	Reordered // it skipped the delay
	Segmented // it was cut from a super-packet, and is not its first piece
	lastFault

	drops = Lost | SYNDropped | OverLimit | Aged
)

// faultNames are the words of the rules, by bit.
var faultNames = [...]string{"loss", "drop-syn", "limit", "codel", "corrupt", "duplicate", "rate", "delay", "reorder", "segmented"}

// FaultNames lists the names of all faults.
func FaultNames() []string { return append([]string(nil), faultNames[:]...) }

// ParseFault is String's reverse; names that it does not know say nothing.
func ParseFault(s string) (f Fault) {
	for w := range strings.SplitSeq(s, "+") {
		if i := slices.Index(faultNames[:], w); i >= 0 {
			f |= 1 << i
		}
	}
	return f
}

// Dropped reports whether the packet was.
func (f Fault) Dropped() bool { return f&drops != 0 }

// String names the rules that touched the packet, "delay+corrupt"; "" for none. Being a
// piece of a super-packet is no rule.
func (f Fault) String() string {
	if f&^Segmented == 0 {
		return ""
	}
	var words []string
	for i, name := range faultNames {
		if f&(1<<i) != 0 && 1<<i != Segmented {
			words = append(words, name)
		}
	}
	return strings.Join(words, "+")
}
