package stack

import (
	"gvisor.dev/gvisor/pkg/buffer"

	"porthole/demux"
	"porthole/tun"
)

// tailKeep is the least rest of a frame that is handed on in the buffer it was
// read into. A smaller one is copied into a buffer of its size: netstack charges
// a receive window for the whole buffer, used or not.
const tailKeep = 16 << 10

// read is the body of one reader: it takes what the device has and gives it to
// demux. It waits for nothing but the device's next frame. A port that it serves itself
// is one with a listener, whose segments netstack only queues, a UDP port whose
// answers need not wait (answer.go), or nobody's (closed.go).
func (s *Stack) read(queue int) error {
	in := s.table.NewIngress(s.facts.HW)
	defer in.Close()
	frames := make([]tun.Frame, demux.BatchSize)
	for i := range frames {
		frames[i].Head = in.Room(i)
	}
	serve := s.serve // one method value for all
	var rests rests
	defer rests.close()
	rest := rests.next()
	for {
		n, err := s.dev.Read(queue, frames, rest.AsSlice())
		if err != nil {
			return err
		}
		for i := range n {
			f := &frames[i]
			off := (*demux.Offload)(&f.Offload)
			if k := len(f.Tail); k >= tailKeep {
				in.PutTail(i, len(f.Head), demux.Tail{Bytes: f.Tail, Owner: rests.give(rest, k)}, off)
				rest = rests.next()
			} else if k > 0 {
				v := buffer.NewViewWithData(f.Tail)
				in.PutTail(i, len(f.Head), demux.Tail{Bytes: v.AsSlice(), Owner: v}, off)
			} else {
				in.Put(i, len(f.Head), off)
			}
			if f.Fault != 0 {
				in.Mark(i, f.Fault)
			}
		}
		s.link.bulk.came(n)
		for _, run := range in.Deliver(n) {
			in.ServeRun(run, serve)
		}
		for i := range n {
			frames[i] = tun.Frame{Head: in.Room(i)}
		}
	}
}
