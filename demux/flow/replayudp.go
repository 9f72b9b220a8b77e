package flow

import "porthole/demux"

// datagrams is a UDP port's record, ready to be played.
type datagrams struct {
	at          []int64
	charge      []uint32
	began       int // of these, in the queue when the record begins
	service     service
	refused     int  // or dropped from the head, for want of room
	headDropped int  // of these
	codel       int  // dropped by CoDel, which no size prevents
	packets     bool // a refusal was for their number, or
	bytes       bool // for their bytes
}

func newDatagrams(rec record) *datagrams {
	d := &datagrams{}
	gone := newDepartures(rec)
	known := false
	for _, e := range rec.events {
		switch e.kind {
		case evArrive:
			if !known { // what is in the queue already, as pieces of one size
				known = true
				for range e.depth - min(e.depth, uint32(len(gone.all))) {
					d.at, d.charge = append(d.at, e.at), append(d.charge, e.bytes/max(e.depth, 1))
					d.began++
				}
			}
			d.at, d.charge = append(d.at, e.at), append(d.charge, e.charge)
			if e.fate.Dropped() {
				d.full(e)
			} else {
				gone.came(e.at)
			}
		case evLost:
			if e.fate == demux.CoDelDropped {
				d.codel++
			} else {
				d.full(e)
				d.headDropped++
			}
		case evRead, evIdle:
			gone.add(e)
		case evHeld, evFreed, evReleased:
			gone.hold(e)
		}
	}
	d.service = gone.service()
	return d
}

// full counts one that was lost because the queue was full.
func (d *datagrams) full(e event) {
	d.refused++
	if e.depth >= e.limit {
		d.packets = true
	} else {
		d.bytes = true
	}
}

func (d *datagrams) total() (bytes int) {
	for _, c := range d.charge {
		bytes += int(c)
	}
	return bytes
}

// queue is the smallest number of packets that refuses none, and queueBytes the
// smallest of bytes, when the other is large enough.
func (d *datagrams) queue() int {
	return smallest(len(d.at), func(n int) bool { return !d.refuses(n, d.total()) })
}

func (d *datagrams) queueBytes() int {
	return smallest(d.total(), func(n int) bool { return !d.refuses(len(d.at), n) })
}

// refuses plays the datagrams at a queue of so many packets and bytes.
func (d *datagrams) refuses(packets, bytes int) bool {
	var waits []uint32 // charges
	held, reads := 0, 0
	free, head := d.service.free, int64(0) // head: when the first came to be first
	take := func(until int64) {
		for len(waits) > 0 && !d.service.never {
			before, after := d.service.at(reads)
			at := d.service.holds.at(max(free, d.service.holds.free(head)) + before)
			if at > until {
				return
			}
			held -= int(waits[0])
			waits = waits[1:]
			free, head = d.service.holds.free(at)+after, at
			reads++
		}
	}
	for i, at := range d.at {
		// What comes at the instant of a read came first, as it does in the record.
		take(at - 1)
		if i >= d.began && (len(waits) >= packets || held+int(d.charge[i]) > bytes) {
			return true
		}
		if len(waits) == 0 {
			head = at
		}
		waits, held = append(waits, d.charge[i]), held+int(d.charge[i])
	}
	return false
}
