package demux

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// change is one thing that is done to a queue while it is used.
type change struct {
	kind    string // resize, policy, rebind or look
	limits  Limits
	policy  Policy
	advance int64 // of the clock, ns
}

func anyLimits() *rapid.Generator[Limits] {
	return rapid.Custom(func(t *rapid.T) Limits {
		return Limits{rapid.IntRange(1, 80).Draw(t, "packets"), rapid.IntRange(500, 60*(Overhead+20)).Draw(t, "bytes")}
	})
}

func anyPolicy() *rapid.Generator[Policy] {
	return rapid.Custom(func(t *rapid.T) Policy {
		return Policy{rapid.SampledFrom(Disciplines()).Draw(t, "discipline"),
			time.Duration(rapid.IntRange(1, 50).Draw(t, "target")), time.Duration(rapid.IntRange(1, 200).Draw(t, "interval"))}
	})
}

func anyChange() *rapid.Generator[change] {
	return rapid.Custom(func(t *rapid.T) change {
		return change{
			rapid.SampledFrom([]string{"resize", "policy", "rebind", "look", "look"}).Draw(t, "change"),
			anyLimits().Draw(t, "limits"), anyPolicy().Draw(t, "policy"), rapid.Int64Range(0, 100).Draw(t, "advance"),
		}
	})
}

// TestTogether: readers push, owners pop, and the queue is resized, given another
// policy, closed and bound again, all at once. The law holds at every snapshot, each
// flow's packets are taken in the order in which they came and none twice, and when all
// is over each packet was either taken or is counted with the fate that it met.
func TestTogether(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var clock atomic.Int64
		r := newRig(Options{Packets: 1024, Now: clock.Load})
		first := anyPolicy().Draw(rt, "first")
		config := func(c change) Config {
			return Config{Owner: "test", Socket: true, Limits: c.limits, Policy: c.policy}
		}
		if err := r.t.Bind(dnsPort, config(change{limits: anyLimits().Draw(rt, "limits"), policy: first})); err != nil {
			rt.Fatal(err)
		}
		var failed atomic.Pointer[string]
		fail := func(s string) { failed.CompareAndSwap(nil, &s) }

		// Readers: each has a flow of its own, numbered upwards.
		var load, rest sync.WaitGroup
		sent := 0
		for id := range rapid.IntRange(1, 2).Draw(rt, "readers") {
			batches := rapid.SliceOfN(rapid.IntRange(1, BatchSize), 1, 30).Draw(rt, "batches")
			for _, n := range batches {
				sent += n
			}
			load.Go(func() {
				in := r.t.NewIngress(nil)
				defer in.Close()
				seq := uint32(0)
				for _, n := range batches {
					for i := range n {
						seq++
						put(in, i, udp4(uint16(4000+id), 53, numbered(seq, 4+int(seq%20))...), Offload{})
					}
					in.Deliver(n)
					clock.Add(int64(n))
				}
			})
		}
		changes := rapid.SliceOfN(anyChange(), 0, 40).Draw(rt, "changes")
		done := make(chan struct{})
		rest.Go(func() { // again and again, as long as packets come
			for i := 0; len(changes) > 0 && (i < len(changes) || !isDone(done)); i++ {
				c := changes[i%len(changes)]
				clock.Add(c.advance)
				var err error
				switch c.kind {
				case "resize":
					err = r.t.SetLimits(dnsPort, c.limits)
				case "policy":
					err = r.t.SetPolicy(dnsPort, c.policy)
				case "rebind":
					r.t.Release(dnsPort)
					err = r.t.Bind(dnsPort, config(c))
				}
				if err != nil {
					fail(err.Error())
				}
				for _, err := range []error{r.t.Port(dnsPort).Check(), r.t.Totals().Check()} {
					if err != nil {
						fail(err.Error())
					}
				}
			}
		})
		// Owners.
		var taken atomic.Int64
		var seen sync.Map
		for range rapid.IntRange(1, 3).Draw(rt, "owners") {
			rest.Go(func() {
				last := map[uint16]uint32{}
				for {
					p, ok, err := r.t.Pop(dnsPort)
					if err != nil && !errors.Is(err, ErrReleased) {
						fail(err.Error())
					}
					if ok {
						from, k := p.Info().SrcPort, number(p)
						if k <= last[from] {
							fail("out of order")
						}
						last[from] = k
						if _, twice := seen.LoadOrStore([2]uint32{uint32(from), k}, true); twice {
							fail("taken twice")
						}
						taken.Add(1)
						r.t.Free(p)
						continue
					}
					select {
					case <-r.t.Wake(dnsPort):
					case <-done:
						return
					}
				}
			})
		}
		load.Wait()
		close(done)
		rest.Wait()
		for {
			p, ok, _ := r.t.Pop(dnsPort)
			if !ok {
				break
			}
			taken.Add(1)
			r.t.Free(p)
		}
		if s := failed.Load(); s != nil {
			rt.Fatal(*s)
		}
		s, closed := r.t.Port(dnsPort), r.t.Port(LaneClosed)
		if err := s.Check(); err != nil || s.Queued != 0 {
			rt.Fatal(err, s.Queued)
		}
		lost := s.Fates[QueueFull] + s.Fates[HeadDropped] + s.Fates[CoDelDropped] + s.Fates[PortReleased]
		if got := int(s.Fates[ToService]); got != int(taken.Load()) || got+int(lost)+int(closed.Arrived) != sent {
			rt.Fatalf("%d sent, %d taken, %d to-service, %d lost, %d while closed", sent, taken.Load(), got, lost, closed.Arrived)
		}
		r.t.Drain()
		if n := r.held(); n != 0 {
			rt.Fatalf("%d slots lost", n)
		}
	})
}

func isDone(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
