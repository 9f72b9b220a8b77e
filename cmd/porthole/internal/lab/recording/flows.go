package recording

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"porthole/demux/flow"
)

// waited is how long a connection must have stood in the accept queue for its accept
// to say when the service became free.
const waited = time.Millisecond

// accepted is a connection that the service has taken.
type accepted struct {
	index  int
	at     int64
	waited time.Duration
}

// flows reads what `porthole flows --json` printed: a flow a line.
func (p *ports) flows(b *bufio.Reader) error {
	d := json.NewDecoder(b)
	accepts := map[string][]accepted{}
	for n := 1; ; n++ {
		var f flow.Flow
		if err := d.Decode(&f); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("flow %d: %w", n, err)
		}
		switch {
		case !f.Local.IsValid() || f.Proto != "tcp" && f.Proto != "udp":
			return fmt.Errorf("flow %d: no flow of `porthole flows --json`", n)
		case f.Outbound || f.Partial:
			continue
		case f.Proto == "udp":
			p.datagrams(&f)
			continue
		}
		began := f.Began.UnixNano()
		i, ok := p.add(f.Port(), request{at: began})
		if ok && f.Accepted > 0 {
			accepts[f.Port()] = append(accepts[f.Port()], accepted{i, began + int64(f.Accepted), f.Waited})
		}
	}
	for port, as := range accepts {
		p.served(port, as)
	}
	return nil
}

// datagrams are those of a flow's ladder.
func (p *ports) datagrams(f *flow.Flow) {
	var open []int
	began := f.Began.UnixNano()
	for i := range f.Ladder {
		r := &f.Ladder[i]
		switch {
		case r.What != flow.Segment:
		case r.Dir == flow.In:
			if i, ok := p.add(f.Port(), request{at: began + int64(r.At)}); ok && !r.Fate.Dropped() {
				if len(open) == 0 && f.Read != 0 && began+int64(f.Read-f.Waited) == p.all[f.Port()][i].at {
					p.all[f.Port()][i].taken = began + int64(f.Read)
				}
				open = append(open, i)
			}
		case len(open) > 0:
			p.all[f.Port()][open[0]].done = began + int64(r.At)
			open = open[1:]
		}
	}
	if f.Skipped > 0 {
		p.note(f.Port(), "long flows keep only their first and last datagrams; a capture has them all")
	}
}

func (p *ports) note(port, s string) {
	if !slices.Contains(p.notes[port], s) {
		p.notes[port] = append(p.notes[port], s)
	}
}

// served reckons when the service became free again after each connection: at the next
// accept, if that connection had been waiting. A service for which nobody ever waited
// is free at once.
func (p *ports) served(port string, as []accepted) {
	slices.SortFunc(as, func(a, b accepted) int { return cmp.Compare(a.at, b.at) })
	any := false
	for i := 1; i < len(as); i++ {
		if as[i].waited >= waited {
			p.all[port][as[i-1].index].done = as[i].at
			any = true
		}
	}
	if any {
		return
	}
	p.note(port, "no connection waited to be accepted: the service takes them as fast as they come")
	for _, a := range as {
		r := &p.all[port][a.index]
		r.done = r.at
	}
}
