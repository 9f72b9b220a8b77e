// Package recording reads what came to a port, and how long its service took, from a
// capture of any origin (pcap, pcapng) or from what `porthole flows --json` printed.
//
//	read.go      which of the two it is, and the ports in it
//	capture.go   packets
//	flows.go     timelines
//
// A request is a datagram (UDP) or a connection (TCP). How long the service took over
// one is not in a capture; it is reckoned as if one server took them in turn, in the
// order in which they ended:
//
//	UDP     from arrival, or the answer before, to the answer
//	TCP     from the last SYN, or the end of the one before, until the server ends it
//	flows   TCP: between two accepts, where the second connection waited for it
//
// What porthole itself has written says when the service took each datagram (timelines:
// the first of each flow): then it is between two of those, where the second waited. Its
// answer may be long out while the service still works, as under service-delay.
//
// What has no answer gets the median of the others. What is read is bounded by Limit.
package recording

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// Limit is the most requests that are read.
const Limit = 1_000_000

// Recording is what came to one port.
type Recording struct {
	Port     string // "53/udp"
	Requests []Request
	Notes    []string // what a reader must know
}

// TCP reports whether requests are connections.
func (r *Recording) TCP() bool { return len(r.Port) > 4 && r.Port[len(r.Port)-3:] == "tcp" }

// Request is one datagram or connection.
type Request struct {
	At    time.Duration // since the first
	Serve time.Duration // how long the service took over it
}

// ErrNoService is returned when a recording says nothing of how long the service took.
var ErrNoService = errors.New("no answer is recorded, so how long the service takes is not known")

// pair is one conversation: the client's and the server's side.
type pair struct {
	client, server netip.AddrPort
	tcp            bool
}

func (p pair) port() string {
	proto := "/udp"
	if p.tcp {
		proto = "/tcp"
	}
	return strconv.Itoa(int(p.server.Port())) + proto
}

// request is one as it is read: times in ns since the epoch, 0 for none.
type request struct {
	at, done int64
	taken    int64         // UDP: when the service read it, where that is known
	again    int64         // its SYN, the last time: before that the service did not have it
	serve    time.Duration // reckoned in the end; negative: not known
}

// ports collects the requests of every port of a file.
type ports struct {
	all   map[string][]request
	notes map[string][]string
	n     int
	full  bool // there were more
}

func newPorts() *ports { return &ports{all: map[string][]request{}, notes: map[string][]string{}} }

// add notes a request and says where it is; false when the bound is reached.
func (p *ports) add(port string, r request) (index int, ok bool) {
	if p.n == Limit {
		p.full = true
		return 0, false
	}
	p.n++
	p.all[port] = append(p.all[port], r)
	return len(p.all[port]) - 1, true
}

// choose is the port that was asked for, or the one with most requests.
func (p *ports) choose(port string) (string, error) {
	if len(p.all) == 0 {
		return "", errors.New("no datagram and no SYN is in it")
	}
	busiest := ""
	for name, rs := range p.all {
		if busiest == "" || len(rs) > len(p.all[busiest]) || len(rs) == len(p.all[busiest]) && name < busiest {
			busiest = name
		}
	}
	if port == "" {
		return busiest, nil
	}
	if len(p.all[port]) == 0 {
		return "", fmt.Errorf("nothing came to %s; most came to %s", port, busiest)
	}
	return port, nil
}

// recording makes one of a port's requests.
func (p *ports) recording(port string) (*Recording, error) {
	rs := p.all[port]
	if p.reckonTaken(rs) {
		return p.made(port, rs)
	}
	// In the order in which they ended, which is the one in which they were served: a
	// connection that was refused at first came early and was served late.
	slices.SortStableFunc(rs, func(a, b request) int { return cmp.Compare(a.done, b.done) })
	free := int64(0)
	for i := range rs {
		r := &rs[i]
		r.serve = -1
		if r.done != 0 {
			r.serve = time.Duration(max(r.done-max(r.at, r.again, free), 0))
			free = r.done
		}
	}
	return p.made(port, rs)
}

// reckonTaken finds the service times of datagrams whose service told when it took
// them: false, and nothing is changed, when none has waited for the one before.
func (p *ports) reckonTaken(rs []request) bool {
	var order []int
	for i := range rs {
		if rs[i].taken != 0 {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(rs[a].taken, rs[b].taken) })
	var known []time.Duration
	for k := 1; k < len(order); k++ {
		if r := rs[order[k]]; r.taken-r.at >= int64(waited) {
			known = append(known, time.Duration(r.taken-rs[order[k-1]].taken))
		}
	}
	if len(known) == 0 {
		return false
	}
	slices.Sort(known)
	usual := known[len(known)/2]
	for i := range rs {
		if rs[i].serve = -1; rs[i].done != 0 { // answered, though nothing says when it was taken
			rs[i].serve = usual
		}
	}
	for k, i := range order {
		r := &rs[i]
		r.serve = max(usual, time.Duration(r.done-r.taken))
		if k+1 == len(order) {
			break
		}
		// Free again at the latest when it took the next; just then, if that one waited.
		next := rs[order[k+1]]
		if gap := time.Duration(next.taken - r.taken); next.taken-next.at >= int64(waited) || r.serve > gap {
			r.serve = gap
		}
	}
	return true
}

// made is the recording of a port whose service times are reckoned.
func (p *ports) made(port string, rs []request) (*Recording, error) {
	slices.SortStableFunc(rs, func(a, b request) int { return cmp.Compare(a.at, b.at) })
	rec := &Recording{Port: port, Notes: p.notes[port]}
	var known []time.Duration
	for _, r := range rs {
		rec.Requests = append(rec.Requests, Request{time.Duration(r.at - rs[0].at), r.serve})
		if r.serve >= 0 {
			known = append(known, r.serve)
		}
	}
	if len(known) == 0 {
		return rec, ErrNoService
	}
	slices.Sort(known)
	usual, n := known[len(known)/2], 0
	for i := range rec.Requests {
		if rec.Requests[i].Serve < 0 {
			rec.Requests[i].Serve = usual
			n++
		}
	}
	if n > 0 {
		rec.Notes = append(rec.Notes, fmt.Sprintf("%d of %d requests have no answer in the recording; they take the median of the others, %v", n, len(rs), usual))
	}
	if p.full {
		rec.Notes = append(rec.Notes, fmt.Sprintf("the recording is longer: only its first %d requests are read", Limit))
	}
	return rec, nil
}
