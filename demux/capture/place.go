package capture

import "porthole/demux"

// place is a station of a packet's way: with Options.Places each is an interface of
// the file, and a packet has a record at each station that it came to, with the time
// when it came there.
type place int

const (
	atDevice place = iota
	atQueue
	atDoor
	atStack
	atService
	numPlaces
)

var places = [numPlaces]struct{ name, about string }{
	{"device", "read from the device, or written to it"},
	{"queue", "the port's queue (or a lane's), as it came"},
	{"door", "SYN queue and accept queue of a listening port, when it left the port's queue"},
	{"stack", "the TCP/IP stack"},
	{"service", "the service, which reads its UDP port's queue and writes its own datagrams"},
}

// stop is a packet's time at a station.
type stop struct {
	at   place
	when int64
}

// way are the stations of a packet, in order.
func (r *record) way(buf *[numPlaces]stop) []stop {
	if r.out {
		from := map[demux.Origin]place{demux.FromStack: atStack, demux.FromDoor: atDoor, demux.FromService: atService}[r.origin]
		return append(buf[:0], stop{from, r.at}, stop{atDevice, r.at})
	}
	w := append(buf[:0], stop{atDevice, r.at})
	if r.line == demux.LaneHost {
		return w // it got its fate at once
	}
	w = append(w, stop{atQueue, r.at})
	if r.door.Queue != demux.NoDoor {
		w = append(w, stop{atDoor, r.now})
	}
	switch r.fate {
	case demux.ToStack, demux.ToReassembly, demux.Closed:
		w = append(w, stop{atStack, r.now})
	case demux.ToService:
		w = append(w, stop{atService, r.now})
	}
	return w
}
