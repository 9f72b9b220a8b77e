package stack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// minTimer is the least time that a timer of netstack's runs for, about that of Linux,
// whose TCP timers are never shorter than two ticks (TCP_TIMEOUT_MIN: 8 ms at 250 Hz).
// Without it a tail loss probe (RFC 8985, 7.2) is due after twice a round trip that on
// a link inside one machine is shorter than the scheduler may take: under load every
// fifth short connection sent a segment again that was not lost. Without RACK no such
// probe is sent either, but at 1 % loss a download is four times slower.
const minTimer = 10 * time.Millisecond

// coarseClock is the machine's clock with timers of at least minTimer. A timer for
// now is for now; those of TIME-WAIT are counted (timewait.go).
type coarseClock struct {
	tcpip.Clock
	waits *timeWaits
}

func (c coarseClock) AfterFunc(d time.Duration, f func()) tcpip.Timer {
	if d == timeWait {
		return c.waits.begin(c.Clock, f)
	}
	return coarseTimer{c.Clock.AfterFunc(coarse(d), f)}
}

type coarseTimer struct{ tcpip.Timer }

func (t coarseTimer) Reset(d time.Duration) { t.Timer.Reset(coarse(d)) }

func coarse(d time.Duration) time.Duration {
	if d > 0 && d < minTimer {
		return minTimer
	}
	return d
}
