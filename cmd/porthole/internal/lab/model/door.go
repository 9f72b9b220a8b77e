package model

import (
	"context"
	"math/rand/v2"
	"net/netip"

	"porthole/demux"
)

// door is the product's door of one TCP port on a virtual clock, with clients whose
// handshakes take no time and who give up when they are refused.
type door struct {
	d    *demux.Door
	next uint64
}

// newDoor makes a door whose accept queue has so many places.
func newDoor(places int) *door {
	no := func(demux.FlowKey, demux.Segment) bool { return false }
	return &door{d: demux.NewDoor(demux.DoorConfig{Backlog: places - 1, SynQueue: places, Cookies: demux.CookiesNever}, no)}
}

// TCP flags of a handshake.
const (
	flagSYN = 2
	flagACK = 16
)

// connect is a whole handshake at now; conn waits in the accept queue afterwards.
func (d *door) connect(now int64, conn any) (admitted bool) {
	k := demux.FlowKey{
		Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(d.next >> 30), byte(d.next >> 22), byte(d.next >> 14)}), uint16(d.next&0x3fff)+1024),
		Local:  hostAddr,
	}
	d.next++
	key := func() demux.FlowKey { return k }
	const isn = 1
	if d.d.Judge(now, key, demux.Segment{Flags: flagSYN, Seq: isn}) != demux.Pass {
		return false
	}
	d.d.Answered(now, k, isn, isn, 65535, func() []byte { return nil })
	if d.d.Judge(now, key, demux.Segment{Flags: flagACK, Seq: isn + 1, Ack: isn + 1}) != demux.Pass {
		return false
	}
	return d.d.Arrive(now, k, conn)
}

// accept takes the oldest connection, which must be there: Accept would wait.
func (d *door) accept() any {
	c, _ := d.d.Accept()
	return c
}

// driveTCP is driveUDP for the accept queue: connections instead of datagrams.
func driveTCP(ctx context.Context, rng *rand.Rand, load float64, capacity, n int, serve func() float64) (station, error) {
	type conn struct {
		came   float64
		number int
	}
	d := newDoor(capacity)
	defer d.d.Close()
	between := service / load
	arrives, free, busy := rng.ExpFloat64()*between, 0.0, false
	warm, waiting := n/20, 0
	var lost, served int
	var waited float64
	for i := 0; i < n; {
		if busy && free <= arrives {
			if waiting > 0 {
				c := d.accept().(conn)
				waiting--
				if c.number >= warm {
					waited += free - c.came
					served++
				}
				free += serve()
			} else {
				busy = false
			}
			continue
		}
		switch admitted := d.connect(int64(arrives), conn{arrives, i}); {
		case !admitted && i >= warm:
			lost++
		case admitted && busy:
			waiting++
		case admitted:
			if c := d.accept().(conn); c.number >= warm {
				served++
			}
			free, busy = arrives+serve(), true
		}
		arrives += rng.ExpFloat64() * between
		if i++; i%4096 == 0 && ctx.Err() != nil {
			return station{}, ctx.Err()
		}
	}
	return station{loss: float64(lost) / float64(n-warm), wait: waited / float64(max(served, 1)) / service}, nil
}
