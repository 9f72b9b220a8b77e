package flow

// changes is a ring of the records that changed in a way that a list shows: begun,
// refused, established, accepted, first data, closing, ended. A flow that changed
// again stands at its last place only.
type changes struct {
	ring []uint32 // slots
	next uint64   // sequence number of the next change, from 1
}

func (c *changes) init(n int) {
	if n <= 0 {
		n = 4096
	}
	c.ring, c.next = make([]uint32, n), 1
}

func (c *changes) note(f *cold, slot uint32) {
	c.ring[c.next%uint64(len(c.ring))] = slot
	f.changed = c.next
	c.next++
}

// Since gives the flows that have changed since cursor (0: all that the ring knows),
// as they are now, each once, in the order of their last change, at most limit (0:
// DefaultList); the cursor for the next call; and how many changes were overwritten
// unseen. A flow that was evicted meanwhile is left out.
func (t *Table) Since(now int64, cursor uint64, limit int) (flows []Flow, next uint64, missed uint64) {
	if t == nil {
		return nil, cursor, 0
	}
	if limit <= 0 {
		limit = DefaultList
	}
	t.mu.Lock()
	last := t.changes.next
	at := min(cursor, last-1) + 1
	if oldest := last - min(last-1, uint64(len(t.changes.ring))); at < oldest {
		missed, at = oldest-at, oldest
	}
	t.mu.Unlock()
	for at < last && len(flows) < limit {
		t.mu.Lock()
		if t.changes.next-at > uint64(len(t.changes.ring)) { // overwritten since
			t.mu.Unlock()
			at, missed = at+1, missed+1
			continue
		}
		slot := t.changes.ring[at%uint64(len(t.changes.ring))]
		c := t.coldLocked(slot)
		id, current := c.id, c.changed == at
		t.mu.Unlock()
		at++
		if current {
			if f, ok := t.copy(now, slot, id); ok {
				flows = append(flows, f)
			}
		}
	}
	return flows, at - 1, missed
}

// Stats are the table's own counters.
type Stats struct {
	Flows      int    `json:"flows"` // kept now
	Limit      int    `json:"limit"`
	Seen       uint64 `json:"seen"`       // ever
	Evicted    uint64 `json:"evicted"`    // for want of room
	Skipped    uint64 `json:"skipped"`    // refused packets, beyond what a flood may take
	Unrecorded uint64 `json:"unrecorded"` // arrivals and departures of ports without a recorder
}

// Stats is a snapshot.
func (t *Table) Stats() Stats {
	if t == nil {
		return Stats{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return Stats{int(t.used), len(t.hot), uint64(t.nextID - 1), t.evicted, t.skipped.Load(), t.recorders.unrecorded.Load()}
}
