// Package codeltest is CoDel as the pseudocode of its RFC has it, for tests to hold
// queues against.
package codeltest

import "math"

// Model is the codel_queue_t of RFC 8289, section 5, but for the queue itself. Names
// and order are the RFC's.
type Model struct {
	Target, Interval int64 // ns
	MaxPacket        int

	firstAbove, dropNext int64
	count, lastCount     uint32
	dropping             bool
}

// Deque says how many packets of a queue of n are dropped before one goes on, when it
// is taken at now. at tells when packet i came and how large it is; 0 is the oldest.
func (m *Model) Deque(now int64, n int, at func(i int) (ns int64, size int)) (lost int) {
	bytes := 0
	for i := range n {
		_, size := at(i)
		bytes += size
	}
	next := 0
	dodequeue := func() (okToDrop bool) {
		if next == n {
			m.firstAbove = 0
			return false
		}
		since, size := at(next)
		next++
		bytes -= size
		if now-since < m.Target || bytes <= m.MaxPacket {
			m.firstAbove = 0
		} else if m.firstAbove == 0 {
			m.firstAbove = now + m.Interval
		} else if now >= m.firstAbove {
			okToDrop = true
		}
		return okToDrop
	}
	law := func(t int64) int64 { return t + int64(float64(m.Interval)/math.Sqrt(float64(m.count))) }
	okToDrop := dodequeue()
	if m.dropping {
		if !okToDrop {
			m.dropping = false
		}
		for now >= m.dropNext && m.dropping {
			lost++
			m.count++
			if !dodequeue() {
				m.dropping = false
			} else {
				m.dropNext = law(m.dropNext)
			}
		}
	} else if okToDrop {
		lost++
		dodequeue()
		m.dropping = true
		delta := m.count - m.lastCount
		m.count = 1
		if delta > 1 && now-m.dropNext < 16*m.Interval {
			m.count = delta
		}
		m.dropNext = law(now)
		m.lastCount = m.count
	}
	return lost
}
