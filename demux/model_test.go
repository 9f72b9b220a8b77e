package demux

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"porthole/demux/packet"
	"porthole/internal/codel/codeltest"
)

// TestModel compares a table with a model of slices, command by command.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var now clock
		r := newRig(Options{Packets: 512, Now: now.now})
		type q struct {
			bound, socket bool
			inline        bool // the reader may serve it
			waiting       bool // the owner found it empty
			maxN, maxB    int
			policy        Discipline
			codel         *codeltest.Model
			at            map[uint32]int64
			ids, held     []uint32
			lost          map[Fate]int
			passed        int
		}
		m := map[Port]*q{}
		ports := []Port{TCPPort(1), TCPPort(2), UDPPort(1), UDPPort(2)}
		for _, p := range ports {
			m[p] = &q{lost: map[Fate]int{}, at: map[uint32]int64{}}
		}
		var id uint32
		var run Run
		pick := func(t *rapid.T) (Port, *q) {
			p := rapid.SampledFrom(ports).Draw(t, "port")
			return p, m[p]
		}
		const charge = Overhead + 4
		cost := func(p Port) int { // a UDP packet is charged its payload, a TCP packet its length
			if p.IsTCP() {
				return charge + 40
			}
			return charge
		}
		t.Repeat(map[string]func(*rapid.T){
			"bind": func(t *rapid.T) {
				p, q := pick(t)
				socket, n := p.IsUDP() && rapid.Bool().Draw(t, "socket"), rapid.IntRange(1, 70).Draw(t, "packets")
				b := rapid.IntRange(500, 30*charge).Draw(t, "bytes")
				err := r.t.Bind(p, Config{Socket: socket, Limits: Limits{n, b}})
				if (err == nil) == q.bound {
					t.Fatalf("bind %v: %v, bound before: %v", p, err, q.bound)
				}
				if err == nil {
					q.bound, q.socket, q.maxN, q.maxB, q.policy = true, socket, n, b, TailDrop
					q.inline, q.waiting = false, false
				}
			},
			"policy": func(t *rapid.T) {
				p, q := pick(t)
				pol := Policy{Discipline: rapid.SampledFrom(Disciplines()).Draw(t, "policy")}
				if pol.Discipline == CoDel {
					pol.Target = time.Duration(rapid.IntRange(1, 20).Draw(t, "target"))
					pol.Interval = time.Duration(rapid.IntRange(1, 100).Draw(t, "interval"))
				}
				err := r.t.SetPolicy(p, pol)
				if (err == nil) != (q.bound && (q.socket || pol.Discipline == TailDrop)) {
					t.Fatal(err)
				}
				if err == nil {
					q.policy, q.codel = pol.Discipline, &codeltest.Model{Target: int64(pol.Target), Interval: int64(pol.Interval), MaxPacket: cost(p)}
				}
			},
			"tick": func(t *rapid.T) { now.ns += rapid.Int64Range(0, 60).Draw(t, "ns") },
			"resize": func(t *rapid.T) {
				p, q := pick(t)
				n, b := rapid.IntRange(1, 70).Draw(t, "packets"), rapid.IntRange(500, 30*charge).Draw(t, "bytes")
				if err := r.t.SetLimits(p, Limits{n, b}); (err == nil) != q.bound {
					t.Fatal(err)
				} else if err == nil {
					q.maxN, q.maxB = n, b
				}
			},
			"inline": func(t *rapid.T) {
				p, q := pick(t)
				q.inline = q.bound && q.socket && rapid.Bool().Draw(t, "on")
				if q.socket {
					r.t.SetInline(p, q.inline)
				}
			},
			"burst": func(t *rapid.T) { // many at once, of which the reader serves some
				p, q := pick(t)
				n, served := rapid.IntRange(1, BatchSize).Draw(t, "n"), rapid.IntRange(0, inlineMax).Draw(t, "served")
				if p.IsTCP() || !q.socket || !q.bound || q.policy != TailDrop {
					return
				}
				var ids []uint32
				for i := range n {
					id++
					put(r.in, i, udp4(4000, p.Number(), numbered(id, 4)...), Offload{})
					ids, q.at[id] = append(ids, id), now.ns
				}
				mine := q.inline && q.waiting && len(q.ids) == 0
				for _, run := range r.in.Deliver(n) {
					k := 0
					r.in.ServeRun(run, func(_ Port, p Packet) Fate {
						if !mine || number(p) != ids[k] || k >= inlineMax {
							t.Fatalf("the reader serves %d as its number %d of %v", number(p), k, ids)
						}
						if k == served {
							return NoFate
						}
						k++
						return ToService
					})
					q.passed += k
					if k < int(run.n) && k != served {
						t.Fatalf("served %d of %d", k, run.n)
					}
					// What it gave back is queued, as what it left was.
					fits := min(n, q.maxN, q.maxB/cost(p)) // of all, before it served any
					q.ids = append(q.ids, ids[k:fits]...)
					q.lost[QueueFull] += n - fits
					q.waiting = q.waiting && len(q.ids) == 0
					ids = nil
				}
				for _, id := range ids {
					if len(q.ids) >= q.maxN || (len(q.ids)+1)*cost(p) > q.maxB {
						q.lost[QueueFull]++
					} else {
						q.ids = append(q.ids, id)
					}
					q.waiting = q.waiting && len(q.ids) == 0
				}
			},
			"release": func(t *rapid.T) {
				p, q := pick(t)
				r.t.Release(p)
				q.bound, q.inline = false, false
				q.lost[PortReleased] += len(q.ids)
				q.ids = nil
			},
			"push": func(t *rapid.T) {
				p, q := pick(t)
				for range rapid.IntRange(1, 5).Draw(t, "n") {
					id++
					// A worker of the last owner may have the port's turn still.
					mine := q.inline && q.waiting && len(q.ids) == 0 && q.policy == TailDrop &&
						r.t.lines[p].state&(serving|ready) == 0
					if p.IsTCP() {
						r.send(tcp4(4000, p.Number(), packet.ACK, numbered(id, 4)...))
					} else {
						r.send(udp4(4000, p.Number(), numbered(id, 4)...))
					}
					q.at[id] = now.ns
					for q.bound && q.policy == HeadDrop && cost(p) <= q.maxB &&
						(len(q.ids) >= q.maxN || (len(q.ids)+1)*cost(p) > q.maxB) {
						q.ids = q.ids[1:]
						q.lost[HeadDropped]++
					}
					switch {
					case !q.bound:
					case mine && cost(p) <= q.maxB:
						q.lost[ToStack]++ // the rig's fate
						continue
					case len(q.ids) >= q.maxN || (len(q.ids)+1)*cost(p) > q.maxB:
						q.lost[QueueFull]++
					default:
						q.ids = append(q.ids, id)
						q.waiting = false
					}
				}
			},
			"pop": func(t *rapid.T) {
				p, q := pick(t)
				if q.bound && q.socket && q.policy == CoDel {
					lost := q.codel.Deque(now.ns, len(q.ids), func(i int) (int64, int) { return q.at[q.ids[i]], cost(p) })
					q.ids = q.ids[lost:]
					q.lost[CoDelDropped] += lost
				}
				pkt, ok, err := r.t.Pop(p)
				switch {
				case !q.bound || !q.socket:
					if err == nil {
						t.Fatal("popped what is not its own")
					}
				case ok != (len(q.ids) > 0):
					t.Fatalf("pop %v: %v with %d queued", p, ok, len(q.ids))
				case !ok:
					q.waiting = true
				case ok:
					if n := number(pkt); n != q.ids[0] {
						t.Fatalf("pop %v: %d, want %d", p, n, q.ids[0])
					}
					q.ids, q.passed = q.ids[1:], q.passed+1
					r.t.Free(pkt)
				}
			},
			"take": func(t *rapid.T) {
				if run.n > 0 {
					return
				}
				got, ok := r.take()
				if !ok || got.Port == LaneClosed {
					if ok {
						r.t.ServeRun(got, toClosed)
					}
					return
				}
				q := m[got.Port]
				if !q.bound || q.socket || int(got.n) > len(q.ids) || got.n == 0 {
					t.Fatalf("took %d of %v, which has %d", got.n, got.Port, len(q.ids))
				}
				run = got
				q.held, q.ids = q.ids[:got.n:got.n], q.ids[got.n:]
			},
			"finish": func(t *rapid.T) {
				if run.n == 0 {
					return
				}
				q, i := m[run.Port], 0
				r.t.ServeRun(run, func(_ Port, p Packet) Fate {
					if n := number(p); n != q.held[i] {
						t.Fatalf("served %d, want %d", n, q.held[i])
					}
					i++
					return AcceptQueueFull
				})
				q.lost[AcceptQueueFull] += len(q.held)
				q.held, run = nil, Run{}
			},
			"": func(t *rapid.T) {
				for _, p := range ports {
					q, s := m[p], r.t.Port(p)
					if err := s.Check(); err != nil {
						t.Fatal(err)
					}
					if s.Queued != len(q.ids)+len(q.held) || s.Bytes != len(q.ids)*cost(p) {
						t.Fatalf("%v: %d packets, %d bytes, want %d", p, s.Queued, s.Bytes, len(q.ids)+len(q.held))
					}
					for f, n := range q.lost {
						if s.Fates[f] != uint64(n) {
							t.Fatalf("%v: %d %v, want %d", p, s.Fates[f], f, n)
						}
					}
					if s.Fates[ToService] != uint64(q.passed) {
						t.Fatalf("%v: %d to-service, want %d", p, s.Fates[ToService], q.passed)
					}
				}
				if err := r.t.Totals().Check(); err != nil {
					t.Fatal(err)
				}
			},
		})
		if run.n > 0 {
			r.t.ServeRun(run, toStack)
		}
		r.t.Drain()
		if n := r.held(); n != 0 {
			t.Fatalf("%d slots lost", n)
		}
	})
}
