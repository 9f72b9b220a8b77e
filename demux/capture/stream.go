package capture

import (
	"context"
	"encoding/binary"
	"io"
	"strconv"
	"strings"
	"time"

	"porthole/demux"
	"porthole/demux/flow"
	"porthole/demux/packet"
)

// lookEvery is how often a reader looks for packets: nobody waits for it, and it
// writes what there is, so that a live view is never older than this.
const lookEvery = 20 * time.Millisecond

// Stream writes the capture to w as one pcapng file, while it records, and returns
// when it has ended and the file is complete. When ctx ends so does the capture. Only
// one may read a capture, and none can come later: the file begins where the capture
// began. A w that can Flush is flushed whenever nothing waits to be written.
func (c *Capture) Stream(ctx context.Context, w io.Writer) error {
	c.mu.Lock()
	switch {
	case c.gone:
		c.mu.Unlock()
		return ErrEnded
	case c.reader:
		c.mu.Unlock()
		return ErrRead
	}
	c.reader = true
	c.idle.Stop()
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.leaveLocked()
		c.mu.Unlock()
	}()

	f := newFile(c, w)
	f.begin()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		ended := isClosed(c.done) // before the last take: nothing is recorded after it
		more := f.write(c.buf.take())
		switch {
		case f.err != nil:
			c.end("its reader went away")
			return f.err
		case !more:
			c.end("count")
			ended = true
		}
		if ended {
			f.finish()
			return f.err
		}
		f.flushAll()
		select {
		case <-tick.C:
		case <-c.buf.hurry:
		case <-c.done:
		case <-ctx.Done():
			c.end("stopped")
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// file is a pcapng file that is being written.
type file struct {
	blocks
	c        *Capture
	start    int64 // what the table's time 0 was, ns since 1970
	left     uint64
	records  uint64
	packets  uint64
	perPlace [numPlaces]uint64 // packets
	comment  []byte
	seg      []byte
	way      [numPlaces]stop
}

func newFile(c *Capture, w io.Writer) *file {
	f := &file{c: c, start: c.set.cfg.Start.UnixNano(), left: c.o.Count}
	f.w = w
	if f.left == 0 {
		f.left = 1<<64 - 1
	}
	return f
}

// begin writes what stands before the packets.
func (f *file) begin() {
	cfg := &f.c.set.cfg
	f.section(cfg.App, "capture of "+f.c.o.String())
	link := uint16(linkRaw)
	if cfg.HW != nil {
		link = linkEthernet
	}
	if !f.c.o.Places {
		f.face(link, f.c.o.Snaplen, cfg.Device, "each packet once, with the time of its arrival")
	}
	for _, p := range places {
		if f.c.o.Places {
			f.face(link, f.c.o.Snaplen, p.name, p.about)
		}
	}
}

// String is a line that says what the options keep.
func (o Options) String() string {
	words := []string{}
	for _, p := range o.Ports {
		words = append(words, PortName(p))
	}
	if len(words) == 0 {
		words = append(words, "every port")
	}
	for _, f := range o.Fates {
		words = append(words, "fate="+f.String())
	}
	if o.Snaplen > 0 {
		words = append(words, "snaplen="+strconv.Itoa(o.Snaplen))
	}
	return strings.Join(words, " ")
}

// PortName is a port, or a lane as commands name it.
func PortName(p demux.Port) string {
	if p == demux.LaneHost {
		return "host-lane" // "host" alone is the whole host
	}
	return p.String()
}

// write writes what was recorded; more is false when the count is reached.
func (f *file) write(h half) (more bool) {
	for i := range h.recs {
		f.packet(&h.recs[i], h.bytesOf(&h.recs[i]))
		if f.left == 0 {
			break
		}
	}
	f.c.mu.Lock()
	f.c.written = f.records
	f.c.mu.Unlock()
	return f.left > 0
}

// flushAll writes what is buffered here and, when it can be told to, in w.
func (f *file) flushAll() {
	f.flush()
	if w, ok := f.w.(interface{ Flush() error }); ok && f.err == nil {
		f.err = w.Flush()
	}
}

// finish writes what stands after the packets.
func (f *file) finish() {
	s := f.c.Status()
	if !f.c.o.Places {
		f.statistics(0, s.Began, s.Ended, s.Seen, s.Accepted, s.Missed, f.packets)
	}
	for p := range places {
		switch {
		case !f.c.o.Places:
		case place(p) == atDevice: // what was missed is missing everywhere; it is counted here
			f.statistics(p, s.Began, s.Ended, s.Seen, s.Accepted, s.Missed, f.packets)
		default:
			n := f.perPlace[p]
			f.statistics(p, s.Began, s.Ended, n, n, 0, n)
		}
	}
	f.flushAll()
}

// packet writes one packet: as it is, or cut into what a wire would have carried.
func (f *file) packet(r *record, b []byte) {
	f.packets++
	way := r.way(&f.way)
	for _, s := range way {
		f.perPlace[s.at]++
	}
	if !f.c.o.Places {
		way = append(f.way[:0], stop{0, r.at})
	}
	f.describe(r, b)
	i, l2 := &r.info, int(r.l2)
	if r.off.GSO == 0 || i.Version == 0 || i.Kind != packet.TCP {
		complete(r, b)
		f.record(r, way, nil, b, int(r.whole))
		return
	}
	total := (i.PayloadLen() + max(int(r.off.SegSize), 1) - 1) / max(int(r.off.SegSize), 1)
	base, n := len(f.comment), 0
	if cap(f.seg) == 0 {
		f.seg = make([]byte, 0, 1<<16)
	}
	packet.Segment(i, b[l2:], nil, int(r.off.SegSize), f.seg[:0], func(p []byte) bool {
		if n++; total > 1 {
			f.comment = append(f.comment[:base], " segment="...)
			f.comment = strconv.AppendInt(f.comment, int64(n), 10)
			f.comment = append(f.comment, '/')
			f.comment = strconv.AppendInt(f.comment, int64(total), 10)
		}
		f.record(r, way, b[:l2], p, l2+len(p))
		r.lost = 0
		return f.left > 0
	})
}

// record writes one record at each station of a way.
func (f *file) record(r *record, way []stop, link, b []byte, size int) {
	kept := len(link) + len(b)
	if n := f.c.o.Snaplen; n > 0 {
		kept = min(kept, n)
	}
	flags := uint32(flagInbound)
	if r.out {
		flags = flagOutbound
	}
	for k, s := range way {
		f.packetHead(int(s.at), f.start+s.when, kept, size)
		n := min(len(link), kept)
		f.blocks.b = append(f.blocks.b, link[:n]...)
		f.blocks.b = append(f.blocks.b, b[:kept-n]...)
		lost := uint64(r.lost)
		if k > 0 {
			lost = 0
		}
		f.packetTail(f.comment, flags, r.id, lost)
	}
	f.records++
	f.left--
}

// complete gives a packet the checksum that was left to a device.
func complete(r *record, b []byte) {
	if r.off.Flags&needsCsum == 0 || r.info.Version == 0 {
		return
	}
	switch i := &r.info; i.Kind {
	case packet.TCP, packet.UDP, packet.ICMP, packet.Link:
		packet.Finish(b[r.l2:], nil, i)
	default: // as struct virtio_net_hdr says it: the field holds the pseudo-header's sum
		from, end := int(r.off.CsumStart), int(r.l2)+int(i.Length)
		at := from + int(r.off.CsumOffset)
		if at+2 <= end && end <= len(b) {
			binary.BigEndian.PutUint16(b[at:], ^packet.Sum(b[from:end], 0))
		}
	}
}

// describe makes the comment: words of key=value, in this order, for ever.
func (f *file) describe(r *record, b []byte) {
	c := f.comment[:0]
	if r.out {
		c = append(c, "out"...)
	} else {
		c = append(c, "fate="...)
		c = append(c, r.fate.String()...)
	}
	c = append(c, " port="...)
	c = appendPort(c, r.port)
	if !r.out {
		c = append(c, " depth="...)
		c = strconv.AppendUint(c, uint64(r.depth), 10)
		c = append(c, " waited="...)
		c = strconv.AppendInt(c, max(r.now-r.at, 0)/1000, 10)
		c = append(c, "us"...)
	}
	c = append(c, " flow="...)
	d := flow.In
	if r.out {
		d = flow.Out
	}
	if id, ok := f.c.set.cfg.Flows.IDOf(r.at, d, b[r.l2:], &r.info); ok {
		c = append(c, id.String()...)
	} else {
		c = append(c, '-')
	}
	switch r.door.Queue {
	case demux.AcceptQueue:
		c = appendQueue(append(c, " accept-queue="...), r.door)
	case demux.SynQueue:
		c = appendQueue(append(c, " syn-queue="...), r.door)
	}
	if r.out {
		c = append(c, " from="...)
		c = append(c, [...]string{"stack", "door", "service"}[r.origin]...)
	} else if r.kind != demux.FromDevice {
		c = append(c, " kind="...)
		c = append(c, r.kind.String()...)
	}
	if rules := r.fault.String(); rules != "" {
		c = append(append(c, " rules="...), rules...)
	}
	f.comment = c
}

func appendPort(c []byte, p demux.Port) []byte {
	if p.IsLane() {
		return append(c, PortName(p)...)
	}
	c = strconv.AppendUint(c, uint64(p.Number()), 10)
	c = append(c, '/')
	return append(c, p.Proto()...)
}

func appendQueue(c []byte, d demux.DoorSight) []byte {
	c = strconv.AppendUint(c, uint64(d.Depth), 10)
	c = append(c, '/')
	return strconv.AppendUint(c, uint64(d.Limit), 10)
}
