package demux

import (
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// modelStack is what a door believes a stack to be: it makes half-open connections
// of SYNs, answers them, completes them, and tells the truth when asked.
type modelStack struct {
	d   *Door
	now atomic.Int64

	mu   sync.Mutex
	half map[FlowKey]bool
	slow map[FlowKey]bool // established, on its way to Arrive
}

func (m *modelStack) state(k FlowKey) State {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.half[k]:
		return HalfOpen
	case m.slow[k]:
		return Established
	}
	return Gone
}

func raceKey(i int) FlowKey {
	return FlowKey{Remote: netip.AddrPortFrom(peerAddr, uint16(1000+i)), Local: hostAddr}
}

// step plays one segment of one client; a client's segments come one after another,
// as a port's do, but the stack's goroutines run free.
func (m *modelStack) step(r *rand.Rand, i int, settled *sync.WaitGroup) {
	k := raceKey(i)
	irs, iss := uint32(i)*1000, uint32(i)*7000
	key := func() FlowKey { return k }
	judge := func(s Segment) Verdict { return m.d.Judge(m.now.Load(), key, s) }
	m.now.Add(int64(20 * time.Millisecond)) // 400 s in all, whoever gets the processor
	switch r.IntN(6) {
	case 0, 1:
		if judge(Segment{Flags: syn, Seq: irs}) != Pass {
			return
		}
		m.mu.Lock()
		fresh := !m.half[k] && !m.slow[k]
		if fresh {
			m.half[k] = true
		}
		m.mu.Unlock()
		if fresh {
			m.d.Answered(m.now.Load(), k, iss, irs, 65535, func() []byte { return []byte{1} })
		}
	case 2, 3:
		if judge(Segment{Flags: ack, Seq: irs + 1, Ack: iss + 1}) != Pass {
			return
		}
		m.mu.Lock()
		complete := m.half[k]
		if complete {
			delete(m.half, k)
			m.slow[k] = true
		}
		m.mu.Unlock()
		if complete {
			settled.Go(func() {
				m.d.Arrive(m.now.Load(), k, k)
				m.mu.Lock()
				delete(m.slow, k)
				m.mu.Unlock()
			})
		}
	case 4:
		judge(Segment{Flags: ack, Seq: irs + 1, Ack: 0xbad})
	case 5:
		if judge(Segment{Flags: rst, Seq: irs + 1}) == Pass {
			m.mu.Lock()
			delete(m.half, k)
			m.mu.Unlock()
		}
	}
}

// due is one turn of the door's owner.
func (m *modelStack) due() {
	now := m.now.Load()
	ask, end, _ := m.d.Due(now, 0, nil, nil)
	for _, k := range ask {
		m.d.Confirm(now, k, m.state(k))
	}
	for _, k := range end {
		m.mu.Lock()
		delete(m.half, k)
		m.mu.Unlock()
	}
}

// TestDoorRaces has clients, the stack's goroutines, a service, somebody who turns
// the limits and the door's owner at a door at once: its lists stay whole and bounded
// all the time, and equal the stack's when all has come to rest.
func TestDoorRaces(t *testing.T) {
	const most = 6 // of any limit
	m := &modelStack{half: map[FlowKey]bool{}, slow: map[FlowKey]bool{}}
	m.d = NewDoor(DoorConfig{Backlog: most, SynQueue: most}, noCookie)
	stop := make(chan struct{})
	running := func() bool {
		select {
		case <-stop:
			return false
		default:
			return true
		}
	}
	var clients, stackWork, service, others sync.WaitGroup
	for g := range 4 {
		clients.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(g)))
			for i := range 5000 {
				if i%8 == 0 {
					runtime.Gosched()
				}
				m.step(r, g*4+r.IntN(4), &stackWork)
			}
		})
	}
	accepted := 0
	service.Go(func() {
		for {
			if _, ok := m.d.Accept(); !ok {
				return
			}
			accepted++
		}
	})
	others.Go(func() {
		for running() {
			runtime.Gosched()
			m.due()
		}
	})
	others.Go(func() {
		r := rand.New(rand.NewPCG(2, 2))
		for running() {
			runtime.Gosched()
			m.d.Set(DoorConfig{Backlog: r.IntN(most + 1), SynQueue: r.IntN(most + 1), Cookies: Cookies(r.IntN(3)), AbortOnOverflow: r.IntN(2) == 0})
		}
	})
	others.Go(func() {
		for running() {
			runtime.Gosched()
			m.d.check(t, false)
			st := m.d.Stats()
			require.LessOrEqual(t, st.Waiting+st.Reserved, most+1)
		}
	})
	clients.Wait()
	stackWork.Wait()
	close(stop)
	others.Wait()  // or what is half-open would grow old while it is counted
	for range 60 { // 1.5 s: every doubt is settled, nothing more is old
		m.now.Add(int64(25 * time.Millisecond))
		m.due()
	}
	m.d.check(t, true)
	st := m.d.Stats()
	require.Zero(t, st.Reserved)
	m.mu.Lock()
	require.Equal(t, len(m.half), st.HalfOpen)
	m.mu.Unlock()
	left := m.d.Close()
	service.Wait()
	require.Positive(t, accepted+len(left)+int(st.Late))
	require.False(t, m.d.Pending())
	require.Equal(t, Pass, m.d.Judge(m.now.Load(), func() FlowKey { return raceKey(0) }, Segment{Flags: syn}))
	require.False(t, m.d.Pending(), "a closed door keeps nothing")
	t.Logf("%d accepted, %d came too late, high-water %d half-open, %d waiting", accepted, st.Late, st.HighHalfOpen, st.HighWaiting)
}
